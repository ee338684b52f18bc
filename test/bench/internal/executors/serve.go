// SPDX-License-Identifier: Apache-2.0

// Package executors is a process that serves the API of every simulated pod's executor, on the address of the pod, with the
// server, the guard and the tokens of the real one. What stands in for the real one are the tasks: they run for a time, and
// there is no process.
//
// The process learns of pods from the API server, and believes the root that it finds in their environment, as a real executor
// does. It is led by the bench over its standard input, and tells of ends over its standard output, both as lines of JSON.
package executors

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
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
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
	"opensandbox.io/controller/test/bench/internal/cluster"
)

// longestLife bounds a drawn time, in means of its distribution.
const longestLife = 5

// listenRetry is how long an address may be taken by the pod that had it before.
const (
	listenRetry = 20 * time.Millisecond
	listenTries = 500
)

// note is what the process tells the bench: exactly one member is set.
type note struct {
	// Serving is the number of pods that are served now.
	Serving int `json:"serving,omitempty"`
	// End is the name of a task that ended At, in nanoseconds since 1970.
	End string `json:"end,omitempty"`
	At  int64  `json:"at,omitempty"`
	// Failed is what went wrong.
	Failed string `json:"failed,omitempty"`
}

// order is what the bench wants: all tasks that run until told end, this many a second.
type order struct {
	EndRate float64 `json:"endRate"`
}

// world is what all executors of the process share.
type world struct {
	log *slog.Logger

	mu      sync.Mutex
	out     *json.Encoder
	random  *rand.Rand
	serving int
	waiting []*run // those that end when told
}

// Serve serves the pods of a namespace until in ends or ctx is done.
func Serve(ctx context.Context, kubeconfig, namespace string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &world{
		log: slog.New(slog.DiscardHandler), out: json.NewEncoder(out),
		random: rand.New(rand.NewPCG(1, 2)), //nolint:gosec // the same draw every time
	}
	pods := &pods{world: w, ctx: ctx, stops: map[types.UID]context.CancelFunc{}}
	defer pods.wg.Wait()
	defer cancel()
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	failed := make(chan error, 1)
	following.Go(func() { failed <- pods.follow(ctx, kubeconfig, namespace) })
	go func() { // ends with the input
		w.obey(ctx, in)
		cancel()
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// obey carries out the orders of the bench.
func (w *world) obey(ctx context.Context, in io.Reader) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil || o.EndRate <= 0 {
			w.tell(note{Failed: fmt.Sprintf("order %q: want a rate (%v)", lines.Text(), err)})
			continue
		}
		w.endAll(ctx, o.EndRate)
	}
}

// endAll ends what runs until told, in a random order, evenly spread in time.
func (w *world) endAll(ctx context.Context, rate float64) {
	w.mu.Lock()
	runs := w.waiting
	w.waiting = nil
	w.random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	w.mu.Unlock()
	begin := time.Now()
	for i, r := range runs {
		timer := time.NewTimer(time.Until(begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		r.end()
	}
}

func (w *world) tell(n note) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(n) // without a bench there is nobody to tell
}

func (w *world) ended(name string, at time.Time) { w.tell(note{End: name, At: at.UnixNano()}) }

func (w *world) running(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, r)
}

func (w *world) draw(mean time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(min(w.random.ExpFloat64(), longestLife) * float64(mean))
}

// serves tells how many pods are served, after one more or less.
func (w *world) serves(change int) {
	w.mu.Lock()
	w.serving += change
	n := w.serving
	w.mu.Unlock()
	w.tell(note{Serving: n})
}

// pods runs one executor for each pod that has an address.
type pods struct {
	world *world
	ctx   context.Context //nolint:containedctx // the executors live as long as the process
	wg    sync.WaitGroup

	mu    sync.Mutex
	stops map[types.UID]context.CancelFunc
}

// follow watches the pods of a namespace.
func (p *pods) follow(ctx context.Context, kubeconfig, namespace string) error {
	config, err1 := cluster.Config(kubeconfig)
	scheme, err2 := cluster.Scheme()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	c, err := cache.New(config, cache.Options{Scheme: scheme, DefaultNamespaces: map[string]cache.Config{namespace: {}}})
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
	if !ok || pod.Status.PodIP == "" {
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
			p.world.tell(note{Failed: fmt.Sprintf("serve pod %s: %v", pod.Name, err)})
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if stop := p.stops[pod.UID]; stop != nil {
		stop()
		delete(p.stops, pod.UID)
	}
}

// serve runs the executor of one pod until ctx is done.
func (p *pods) serve(ctx context.Context, pod *corev1.Pod) error {
	root, err := rootOf(pod)
	if err != nil {
		return err
	}
	l, err := listen(ctx, pod.Status.PodIP)
	if err != nil {
		return err
	}
	log := p.world.log
	handler := server.NewHandler(newTasks(p.world), unclean{}, log)
	handler = server.Guard(handler, token.NewVerifier(root, string(pod.UID), clock.RealClock{}), log)
	p.world.serves(1)
	defer p.world.serves(-1)
	err = server.Serve(ctx, server.NewServer(ctx, handler, log), l, time.Second)
	if ctx.Err() != nil {
		return nil
	}
	return err
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

// unclean can't recycle: that is for a real node.
type unclean struct{}

// Ask implements server.Recycler.
func (unclean) Ask(string) error { return errors.New("a simulated pod has no containers") }

// State implements server.Recycler.
func (unclean) State() (taskexecutor.RecycleState, error) {
	return taskexecutor.RecycleState{}, errors.New("a simulated pod has no containers")
}
