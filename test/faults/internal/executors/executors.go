// SPDX-License-Identifier: Apache-2.0

// Package executors serves the executors of all simulated pods with faults: calls whose connection is cut before or after they
// took effect, slow answers, executors that can't be reached for a while, and containers that restart under their tasks. It
// also plays the kubelet's part in that: it gives containers their IDs, and new ones when they restart.
//
// It notes every run of a task, for the auditor alone.
package executors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/internal/executors"
)

// Kind is one way in which an executor breaks.
type Kind string

const (
	// CutBefore closes the connection of a call before it took effect.
	CutBefore Kind = "executorCutBefore"
	// CutAfter closes the connection of a call that took effect, without an answer.
	CutAfter Kind = "executorCutAfter"
	// Slow answers a call late.
	Slow Kind = "executorSlow"
	// Unclean is a recycling after which the executor says that traces are left.
	Unclean Kind = "executorUnclean"
	// Restarted is an executor's container that restarts: its records stay, and what ran in it is lost.
	Restarted Kind = "executorRestarted"
	// SandboxRestarted is another container that restarts: what ran in it is lost.
	SandboxRestarted Kind = "sandboxRestarted"
	// Unreachable is an executor that can't be reached for a while.
	Unreachable Kind = "executorUnreachable"
)

// Rates say how often a call meets CutBefore, CutAfter and Slow, and a recycling Unclean, from 0 to 1.
type Rates map[Kind]float64

// slowest is the longest time that a Slow answer takes.
const slowest = 1500 * time.Millisecond

// longRestart is the longest time that containers take to restart.
const longRestart = 800 * time.Millisecond

// Options are what the executors need. All are required.
type Options struct {
	Kubeconfig string
	Namespace  string
	// Client reaches the API server directly, for the kubelet's part.
	Client client.Client
	Seed   uint64
}

// Executors are those of all pods.
type Executors struct {
	options Options
	ended   sync.WaitGroup
	stop    context.CancelFunc
	err     error // set before ended is done

	mu     sync.Mutex
	random *rand.Rand
	rates  Rates
	counts map[Kind]int64
	marks  map[*executors.Run]*auditor.Mark
	noted  []*auditor.Mark
	pods   map[types.UID]*pod
	failed []error
}

// Start serves executors until Stop is called.
func Start(ctx context.Context, o Options) *Executors {
	e := &Executors{
		options: o, random: rand.New(rand.NewPCG(o.Seed, 0xe)), rates: Rates{}, counts: map[Kind]int64{},
		marks: map[*executors.Run]*auditor.Mark{}, pods: map[types.UID]*pod{},
	}
	ctx, e.stop = context.WithCancel(ctx)
	e.ended.Go(func() {
		e.err = executors.Serve(ctx, executors.Options{
			Kubeconfig: o.Kubeconfig, Namespace: o.Namespace, Open: e.open, Serving: func(int) {}, Failed: e.fail,
		})
	})
	return e
}

// Stop ends them all, and returns what ran. An error means that some executor could not be served.
func (e *Executors) Stop() ([]auditor.Mark, error) {
	e.stop()
	e.ended.Wait()
	marks := e.Marks()
	e.mu.Lock()
	defer e.mu.Unlock()
	return marks, errors.Join(e.err, errors.Join(e.failed...))
}

// Marks are the runs until now.
func (e *Executors) Marks() []auditor.Mark {
	e.mu.Lock()
	defer e.mu.Unlock()
	marks := make([]auditor.Mark, 0, len(e.noted))
	for _, m := range e.noted {
		marks = append(marks, *m)
	}
	return marks
}

// SetRates changes the rates from now on.
func (e *Executors) SetRates(rates Rates) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rates = maps.Clone(rates)
}

// Calm ends all faults, those under way too.
func (e *Executors) Calm() {
	e.SetRates(nil)
	e.mu.Lock()
	all := slices.Collect(maps.Values(e.pods))
	e.mu.Unlock()
	for _, p := range all {
		p.isBack()
	}
}

// Counts are the faults so far.
func (e *Executors) Counts() map[Kind]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.counts)
}

// Break restarts a container of some pod, one with a running task if there is any, or makes its executor unreachable for a time.
func (e *Executors) Break(kind Kind, outage time.Duration) {
	if p := e.pick(); p != nil {
		e.count(kind)
		p.breaks(kind, outage)
	}
}

// pick returns some pod, nil if there is none.
func (e *Executors) pick() *pod {
	e.mu.Lock()
	all := slices.SortedFunc(maps.Values(e.pods), func(a, b *pod) int { return strings.Compare(a.key.Name, b.key.Name) })
	share := e.random.Float64()
	e.mu.Unlock()
	if busy := slices.DeleteFunc(slices.Clone(all), func(p *pod) bool { return !p.busy() }); len(busy) > 0 {
		all = busy
	}
	if len(all) == 0 {
		return nil
	}
	return all[int(share*float64(len(all)))]
}

func (e *Executors) count(kind Kind) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[kind]++
}

func (e *Executors) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = append(e.failed, err)
}

// open makes the executor of a pod.
func (e *Executors) open(ctx context.Context, obj *corev1.Pod) executors.Executor {
	p := &pod{
		all: e, key: client.ObjectKeyFromObject(obj), uid: obj.UID, ctx: ctx, lives: map[string]int{},
	}
	p.tasks = executors.NewTasks(p)
	for _, c := range obj.Spec.Containers {
		p.containers = append(p.containers, c.Name)
	}
	e.mu.Lock()
	e.pods[p.uid] = p
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		p.tasks.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.pods, p.uid)
	})
	p.restart(p.containers...)
	return executors.Executor{Tasks: p.tasks, Recycler: p, Wrap: p.wrap}
}

// meets draws whether a call meets one of some faults, and how much of its range it takes; "" for none.
func (e *Executors) meets(kinds ...Kind) (kind Kind, share float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	pick, share := e.random.Float64(), e.random.Float64()
	for _, kind := range kinds {
		if pick < e.rates[kind] {
			e.counts[kind]++
			return kind, share
		}
		pick -= e.rates[kind]
	}
	return "", share
}

// begun notes a run.
func (e *Executors) begun(r *executors.Run, on types.UID) error {
	m, err := markOf(r.Task().Name)
	if err != nil {
		return err
	}
	m.Pod, m.Begin = on, time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.marks[r] = &m
	e.noted = append(e.noted, &m)
	return nil
}

func (e *Executors) over(r *executors.Run, how taskexecutor.Terminated) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.marks[r]; m != nil {
		m.End, m.How = how.FinishedAt, how.Reason
		delete(e.marks, r)
	}
}

// markOf reads which run a task is from its name: the UID of the batch, the index, and the try.
func markOf(name string) (auditor.Mark, error) {
	rest, try, ok1 := cutLast(name)
	batch, index, ok2 := cutLast(rest)
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(try)
	if err := errors.Join(err1, err2); !ok1 || !ok2 || err != nil {
		return auditor.Mark{}, fmt.Errorf("task %q names no batch, index and try: %w", name, err)
	}
	return auditor.Mark{Batch: types.UID(batch), Index: i, Try: n}, nil
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// Command is that of a task that runs for a time and ends with the exit code of its try; a try beyond them has the last one.
func Command(life time.Duration, codes ...int) []string {
	words := make([]string, 0, len(codes))
	for _, code := range codes {
		words = append(words, strconv.Itoa(code))
	}
	return []string{"simulate", life.String(), strings.Join(words, ",")}
}

// endOf is how a process ends by itself, and when. What isn't simulated ends at once.
func endOf(t taskexecutor.Task) (after time.Duration, how taskexecutor.Terminated) {
	how = taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}
	if len(t.Process.Command) == 3 {
		after, _ = time.ParseDuration(t.Process.Command[1]) // see above
		codes := strings.Split(t.Process.Command[2], ",")
		if m, err := markOf(t.Name); err == nil {
			code, _ := strconv.Atoi(codes[min(m.Try, len(codes))-1])
			how.ExitCode = int32(code) //nolint:gosec // an exit code
		}
	}
	if how.ExitCode != 0 {
		how.Reason = taskexecutor.ReasonNonZeroExit
	}
	if limit := time.Duration(t.Process.TimeoutSeconds) * time.Second; limit > 0 && after > limit {
		return limit, taskexecutor.Terminated{ExitCode: 137, Signal: 9, Reason: taskexecutor.ReasonTimedOut}
	}
	return after, how
}

// wrap is the executor's API with faults in front of it.
func (p *pod) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.isDown() {
			panic(http.ErrAbortHandler) // closes the connection
		}
		kind, share := p.all.meets(CutBefore, CutAfter, Slow)
		switch kind {
		case CutBefore:
			panic(http.ErrAbortHandler)
		case CutAfter:
			next.ServeHTTP(newNobody(w), r)
			panic(http.ErrAbortHandler)
		case Slow:
			select {
			case <-time.After(time.Duration(share * float64(slowest))):
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(w, r)
		if p.isDown() {
			panic(http.ErrAbortHandler)
		}
	})
}

// nobody takes an answer that nobody gets.
type nobody struct {
	http.ResponseWriter
	header http.Header
}

func newNobody(w http.ResponseWriter) *nobody { return &nobody{w, http.Header{}} }

// Header implements [http.ResponseWriter].
func (n *nobody) Header() http.Header { return n.header }

// Write implements [http.ResponseWriter].
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements [http.ResponseWriter].
func (n *nobody) WriteHeader(int) {}

// Unwrap lets the handler set deadlines.
func (n *nobody) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// isExecutor says whether a container is the executor's.
func isExecutor(name string) bool { return name == v1alpha1.TaskExecutorContainer }
