// SPDX-License-Identifier: Apache-2.0

// Package executors serves the API of every simulated pod's executor, on the address of the pod, with the server, the guard and
// the tokens of the real one. What stands in for the real one are the tasks: they run for a time, and there is no process.
//
// It learns of pods from the API server, and believes the root that it finds in their environment, as a real executor does.
package executors

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"opensandbox.io/controller/internal/task-executor/server"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
	"opensandbox.io/controller/test/internal/cluster"
)

// listenRetry is how long an address may be taken by the pod that had it before.
const (
	listenRetry = 20 * time.Millisecond
	listenTries = 500
)

// Executor is what one executor does.
type Executor struct {
	Tasks    server.Tasks
	Recycler server.Recycler
	// Wrap is put around all of its API, the guard included.
	Wrap func(http.Handler) http.Handler
}

// Options say whose executors are served, and how. All are required.
type Options struct {
	Kubeconfig string
	Namespace  string
	// Open makes the executor of a pod that has got its address; ctx ends with the pod, or when that has ended.
	Open func(ctx context.Context, pod *corev1.Pod) Executor
	// Serving is called as the number of pods that are served goes up and down by one.
	Serving func(change int)
	// Failed is told what went wrong with one pod.
	Failed func(error)
}

// Serve serves the executors of all pods that know a root until ctx is done.
func Serve(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &pods{options: o, ctx: ctx, log: slog.New(slog.DiscardHandler), stops: map[types.UID]context.CancelFunc{}}
	defer p.wg.Wait()
	defer cancel()
	return p.follow(ctx)
}

// pods runs one executor for each pod that has an address.
type pods struct {
	options Options
	ctx     context.Context //nolint:containedctx // the executors live as long as Serve
	log     *slog.Logger
	wg      sync.WaitGroup

	mu    sync.Mutex
	stops map[types.UID]context.CancelFunc
}

// follow watches the pods of the namespace.
func (p *pods) follow(ctx context.Context) error {
	config, err := cluster.Config(p.options.Kubeconfig)
	if err != nil {
		return err
	}
	scheme, err := cluster.Scheme()
	if err != nil {
		return err
	}
	c, err := cache.New(config, cache.Options{Scheme: scheme, DefaultNamespaces: map[string]cache.Config{p.options.Namespace: {}}})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	informer, err := c.GetInformer(ctx, &corev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { p.observe(obj) },
		UpdateFunc: func(_, obj any) { p.observe(obj) },
		DeleteFunc: p.remove,
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return c.Start(ctx)
}

func (p *pods) observe(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Status.PodIP == "" || podtemplate.RootOf(&pod.Spec) == "" {
		return
	}
	if podutil.HasEnded(pod) {
		p.stop(pod.UID) // a kubelet ends what runs in it
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stops[pod.UID] != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.stops[pod.UID] = cancel
	p.wg.Go(func() {
		if err := p.serve(ctx, pod); err != nil {
			p.options.Failed(fmt.Errorf("serve pod %s: %w", pod.Name, err))
		}
	})
}

func (p *pods) remove(obj any) {
	if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	p.stop(pod.UID)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.stops, pod.UID)
}

// stop ends the executor of a pod.
func (p *pods) stop(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stop := p.stops[pod]; stop != nil {
		stop()
	}
}

// serve runs the executor of one pod until ctx is done.
func (p *pods) serve(ctx context.Context, pod *corev1.Pod) error {
	root, err := rootOf(pod)
	if err != nil {
		return err
	}
	executor := p.options.Open(ctx, pod)
	l, err := listen(ctx, pod.Status.PodIP)
	if ctx.Err() != nil {
		return closeIt(l)
	}
	if err != nil {
		return err
	}
	handler := server.NewHandler(executor.Tasks, executor.Recycler, p.log)
	handler = executor.Wrap(server.Guard(handler, token.NewVerifier(root, string(pod.UID), clock.RealClock{}), p.log))
	p.options.Serving(1)
	defer p.options.Serving(-1)
	err = server.Serve(ctx, server.NewServer(ctx, handler, p.log), l, time.Second)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func closeIt(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// rootOf is the root that a pod was made with.
func rootOf(pod *corev1.Pod) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(podtemplate.RootOf(&pod.Spec))
	if err != nil {
		return nil, fmt.Errorf("read the controller's root: %w", err)
	}
	return x509.ParseCertificate(der)
}

func listen(ctx context.Context, ip string) (net.Listener, error) {
	address := net.JoinHostPort(ip, strconv.Itoa(taskexecutor.DefaultPort))
	var config net.ListenConfig
	for try := 1; ; try++ {
		l, err := config.Listen(ctx, "tcp", address)
		if err == nil || try == listenTries || ctx.Err() != nil {
			return l, err
		}
		time.Sleep(listenRetry)
	}
}
