// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/test/bench/internal/audit"
	"opensandbox.io/controller/test/bench/internal/executors"
	"opensandbox.io/controller/test/internal/cluster"
	"opensandbox.io/controller/test/internal/process"
	"opensandbox.io/controller/test/internal/promtext"
)

const (
	// benchNamespace is where the pools and batches are.
	benchNamespace = "bench"
	// controllerAgent is how the controller calls itself to the API server.
	controllerAgent = "opensandbox-controller"
	// progressPace is the least time between two lines of progress.
	progressPace = 5 * time.Second
	// startTimeout bounds the start of the controller, stepTimeout that of anything else that is waited for.
	startTimeout = time.Minute
	stepTimeout  = 10 * time.Minute
	// look is the time between two looks at what can't be watched.
	look = 50 * time.Millisecond
	// quiet is how long no write may come before the controller counts as at rest: longer than its pacing of anything.
	quiet = 7 * time.Second
)

// env is what scenarios work with.
type env struct {
	options Options
	cluster *cluster.Cluster
	audit   audit.Log

	title      string // of the current run
	run        int
	controller *process.Process
	metricsURL string
	pprofURL   string
	host       *executors.Host
}

func (e *env) begin(scenario string, run int) {
	e.title, e.run = fmt.Sprintf("%s %d/%d", scenario, run, e.options.Runs), run
}

func (e *env) tell(format string, args ...any) { tell("%s: %s", e.title, fmt.Sprintf(format, args...)) }

// once runs a scenario once, with a fresh controller.
func (e *env) once(ctx context.Context, s scenario) (found findings, err error) {
	if err := e.startController(ctx); err != nil {
		return findings{}, err
	}
	defer func() { err = errors.Join(err, e.stopController()) }()
	return s.run(ctx, e, e.options.Sizes.or(s.sizes))
}

// startController runs the controller with its default flags, if no others are asked for; only its addresses are chosen, for
// others may be taken.
func (e *env) startController(ctx context.Context) error {
	metrics, err1 := freeAddress(ctx)
	pprof, err2 := freeAddress(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	args := []string{"--metrics-bind-address=" + metrics, "--health-probe-bind-address=0"}
	if e.options.Profile {
		args = append(args, "--pprof-bind-address="+pprof)
	}
	e.metricsURL, e.pprofURL = "http://"+metrics+"/metrics", "http://"+pprof+"/debug/pprof/"
	var err error
	if e.controller, err = e.launch(args...); err != nil {
		return err
	}
	return e.until(ctx, startTimeout, "the controller serves its metrics", func() (bool, string) {
		_, err := e.metrics(ctx)
		return err == nil, ""
	})
}

// launch runs a controller with these flags, and with those that are asked for.
func (e *env) launch(args ...string) (*process.Process, error) {
	log, err := os.OpenFile(filepath.Join(e.options.Results, "controller.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("prepare the controller: %w", err)
	}
	defer log.Close() //nolint:errcheck // the process has its own
	args = append([]string{"--kubeconfig=" + e.cluster.Kubeconfig}, args...)
	cmd := exec.Command(e.options.Controller, append(args, e.options.Flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	return process.Start(cmd)
}

func (e *env) stopController() error {
	if e.controller == nil {
		return nil
	}
	err := e.controller.Stop()
	e.controller = nil
	return err
}

// stop ends what was started.
func (e *env) stop() error {
	return errors.Join(e.stopController(), e.stopExecutors())
}

// stopExecutors ends the process that serves the executors, if it was started.
func (e *env) stopExecutors() error {
	if e.host == nil {
		return nil
	}
	err := e.host.Stop()
	e.host = nil
	return err
}

// executors is the process that serves the executors of all pods; it is started when it is first asked for.
func (e *env) executors() (*executors.Host, error) {
	if e.host != nil {
		return e.host, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, serveExecutors, e.cluster.Kubeconfig, benchNamespace)
	cmd.Stderr = os.Stderr
	e.host, err = executors.Start(cmd)
	return e.host, err
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// metrics are the controller's.
func (e *env) metrics(ctx context.Context) (promtext.Samples, error) {
	return promtext.Fetch(ctx, http.DefaultClient, e.metricsURL)
}

// healthy is an error if one of the processes has ended.
func (e *env) healthy() error {
	if e.controller != nil {
		select {
		case <-e.controller.Ended():
			return fmt.Errorf("the controller has ended: see controller.log in %s", e.options.Results)
		default:
		}
	}
	if e.host != nil {
		return e.host.Check()
	}
	return nil
}

// until looks again and again until something is true, and shows how far it is.
func (e *env) until(ctx context.Context, timeout time.Duration, what string, reached func() (done bool, progress string)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	last := time.Now()
	for {
		done, progress := reached()
		if done {
			return nil
		}
		if err := e.healthy(); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if time.Since(last) >= progressPace {
			last = time.Now()
			e.tell("waiting until %s: %s", what, progress)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w (%s)", what, ctx.Err(), progress)
		}
	}
}

// rest lets time pass, and shows that it does.
func (e *env) rest(ctx context.Context, d time.Duration, what string) error {
	end := time.Now().Add(d)
	return e.until(ctx, d+stepTimeout, what, func() (bool, string) {
		left := time.Until(end)
		return left <= 0, fmt.Sprintf("%s left", left.Round(time.Second))
	})
}

// settle waits until the controller writes nothing any more, such as the labels of delivered pods.
func (e *env) settle(ctx context.Context) error {
	mark, err := e.audit.Now()
	if err != nil {
		return err
	}
	last := time.Now()
	return e.until(ctx, stepTimeout, "the controller writes no more", func() (bool, string) {
		if time.Since(last) < time.Second { // reading the log costs time too
			return false, "writes"
		}
		writes, err := e.audit.Writes(mark)
		if err == nil && writes.Sum(controllerAgent, "") == 0 {
			return time.Since(last) >= quiet, "quiet"
		}
		if next, err := e.audit.Now(); err == nil {
			mark, last = next, time.Now()
		}
		return false, fmt.Sprintf("%d writes a moment ago", writes.Sum(controllerAgent, ""))
	})
}

// snapshot is what the controller uses and has done at one moment.
type snapshot struct {
	at                                                          time.Time
	cpu                                                         time.Duration
	memory, peak, heap, stacks, goroutines, sockets, reconciles float64
}

func (e *env) snapshot(ctx context.Context) (snapshot, error) {
	metrics, err := e.metrics(ctx)
	if err != nil {
		return snapshot{}, err
	}
	usage, err := e.controller.Usage()
	return snapshot{
		at: time.Now(), cpu: usage.CPU, memory: float64(usage.Memory), peak: float64(usage.PeakMemory), sockets: float64(usage.Sockets),
		heap: metrics.Sum("go_memstats_heap_inuse_bytes"), stacks: metrics.Sum("go_memstats_stack_inuse_bytes"),
		goroutines: metrics.Sum("go_goroutines"), reconciles: metrics.Sum("controller_runtime_reconcile_total"),
	}, err
}

func mib(bytes float64) float64 { return bytes / (1 << 20) }

// sight is an object as a watch showed it, and when.
type sight[T client.Object] struct {
	object  T
	deleted bool
	at      time.Time
}

// watcher is a watch in the background.
type watcher struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // set before ended is closed
}

// watchAll hands every sight of the objects of a kind to see, from before it returns until the watcher is stopped. list is an
// empty list of that kind. A watch that breaks off is taken up again: what is there then is shown once more.
func watchAll[T client.Object](ctx context.Context, e *env, list client.ObjectList, see func(sight[T]), which ...client.ListOption) (*watcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	open := func() (watch.Interface, error) {
		w, err := e.cluster.Client.Watch(ctx, list, append([]client.ListOption{client.InNamespace(benchNamespace)}, which...)...)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		return w, nil
	}
	w, err := open()
	if err != nil {
		cancel()
		return nil, err
	}
	background := &watcher{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(background.ended)
		for err == nil && ctx.Err() == nil {
			if err = drain(ctx, w, see); err == nil && ctx.Err() == nil {
				w, err = open()
			}
		}
		background.err = err
	}()
	return background, nil
}

// drain hands on what one watch shows until it ends.
func drain[T client.Object](ctx context.Context, w watch.Interface, see func(sight[T])) error {
	defer w.Stop()
	for {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			if _, err := show(event, func(s sight[T]) bool { see(s); return false }); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// stop ends the watch.
func (w *watcher) stop() { w.cancel(); <-w.ended }

// check is an error if the watch has failed.
func (w *watcher) check() error {
	select {
	case <-w.ended:
		return w.err
	default:
		return nil
	}
}

// follow hands every sight of one object to see, until that says that it has seen enough. list is an empty list of its kind.
func follow[T client.Object](ctx context.Context, e *env, name string, list client.ObjectList, see func(sight[T]) (enough bool)) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		enough, err := followOnce(ctx, e, name, list, see)
		if enough || err != nil {
			return err
		}
	}
}

// followOnce does so for the life of one watch.
func followOnce[T client.Object](ctx context.Context, e *env, name string, list client.ObjectList, see func(sight[T]) bool) (enough bool, err error) {
	w, err := e.cluster.Client.Watch(ctx, list, client.InNamespace(benchNamespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return false, fmt.Errorf("watch %s: %w", name, err)
	}
	defer w.Stop()
	check := time.NewTicker(time.Second)
	defer check.Stop()
	for {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				return false, ctx.Err()
			}
			if enough, err := show(event, see); enough || err != nil {
				return enough, err
			}
		case <-check.C:
			if err := e.healthy(); err != nil {
				return false, err
			}
		case <-ctx.Done():
			return false, fmt.Errorf("watch %s: %w", name, ctx.Err())
		}
	}
}

func show[T client.Object](event watch.Event, see func(sight[T]) bool) (enough bool, err error) {
	if event.Type == watch.Error {
		return false, apierrors.FromObject(event.Object)
	}
	object, ok := event.Object.(T)
	return ok && see(sight[T]{object, event.Type == watch.Deleted, time.Now()}), nil
}
