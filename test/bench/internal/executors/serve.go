// SPDX-License-Identifier: Apache-2.0

// Package executors is a process that serves the executors of all simulated pods. It is led by the bench over its standard input,
// and tells of ends over its standard output, both as lines of JSON.
package executors

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/internal/executors"
)

// longestLife bounds a drawn time, in means of its distribution.
const longestLife = 5

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
	mu      sync.Mutex
	out     *json.Encoder
	random  *rand.Rand
	serving int
	waiting []*executors.Run // those that end when told
}

// Serve serves the pods of a namespace until in ends or ctx is done.
func Serve(ctx context.Context, kubeconfig, namespace string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &world{
		out:    json.NewEncoder(out),
		random: rand.New(rand.NewPCG(1, 2)), //nolint:gosec // the same draw every time
	}
	go func() { // ends with the input
		w.obey(ctx, in)
		cancel()
	}()
	return executors.Serve(ctx, executors.Options{
		Kubeconfig: kubeconfig, Namespace: namespace, Serving: w.serves, Open: w.open,
		Failed: func(err error) { w.tell(note{Failed: err.Error()}) },
	})
}

// open makes the executor of a pod.
func (w *world) open(ctx context.Context, _ *corev1.Pod) executors.Executor {
	tasks := executors.NewTasks(w)
	context.AfterFunc(ctx, tasks.Close)
	return executors.Executor{Tasks: tasks, Recycler: unclean{}, Wrap: func(h http.Handler) http.Handler { return h }}
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
		r.End(completed)
	}
}

func (w *world) tell(n note) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(n) // without a bench there is nobody to tell
}

func (w *world) ended(name string, at time.Time) { w.tell(note{End: name, At: at.UnixNano()}) }

func (w *world) running(r *executors.Run) {
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

// unclean can't recycle: that is for a real node.
type unclean struct{}

// Ask implements server.Recycler.
func (unclean) Ask(string) error { return errors.New("a simulated pod has no containers") }

// State implements server.Recycler.
func (unclean) State() (taskexecutor.RecycleState, error) {
	return taskexecutor.RecycleState{}, errors.New("a simulated pod has no containers")
}
