// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// executors are all task-executors there ever were, by address. An address is never given twice.
type executors struct {
	mu      sync.Mutex
	byIP    map[string]*containers
	changed chan struct{} // closed at every change
}

// change changes something under the lock, and lets everybody know who waits for news.
func (e *executors) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.changed)
	e.changed = make(chan struct{})
}

// errNoRoute is what a call of an executor that is no more comes to.
var errNoRoute = errors.New("no route to host")

// executor is what the controllers see of the executor at an address.
type executor struct {
	process *process
	ip      string
}

// call lets a call through the gate, and then carries it out if the executor still runs.
func (e executor) call(ctx context.Context, verb string, do func(c *containers) any) (any, error) {
	c := &call{task: e.process.background, verb: verb, kind: kindPod, name: e.ip}
	c.do = func() (value any, err error) {
		all := &e.process.world.executors
		all.change(func() {
			if at := all.byIP[e.ip]; at != nil && at.up {
				value = do(at)
			} else {
				err = errNoRoute
			}
		})
		return value, err
	}
	return e.process.passWithin(ctx, c)
}

func (e executor) Recycle(ctx context.Context, id string) error {
	_, err := e.call(ctx, "recycle", func(c *containers) any {
		if c.cameFrom != id {
			c.asked = id
		}
		return nil
	})
	return err
}

func (e executor) Recycled(ctx context.Context) (taskexecutor.RecycleState, error) {
	value, err := e.call(ctx, "recycled", func(c *containers) any {
		state := taskexecutor.RecycleState{ID: c.cameFrom, Clean: !c.unclean}
		if c.unclean {
			state.Reasons = []string{"a message queue is left"}
		}
		return state
	})
	state, _ := value.(taskexecutor.RecycleState)
	return state, err
}

// Set replaces the tasks, and begins to stop those that are not named any more.
func (e executor) Set(ctx context.Context, tasks []taskexecutor.Task) ([]taskexecutor.Task, error) {
	value, err := e.call(ctx, "set tasks", func(c *containers) any {
		var kept []taskexecutor.Task
		for _, t := range tasks {
			if known := c.task(t.Name); known != nil {
				kept = append(kept, *known)
				continue
			}
			e.process.world.audit.started(t.Name, c)
			t.ProcessStatus = &taskexecutor.ProcessStatus{Running: &taskexecutor.Running{}}
			kept = append(kept, t)
		}
		for _, t := range c.tasks {
			if !slices.ContainsFunc(tasks, func(other taskexecutor.Task) bool { return other.Name == t.Name }) {
				c.left = append(c.left, t)
			}
		}
		c.tasks = kept
		c.revision++
		return c.list()
	})
	answer, _ := value.([]taskexecutor.Task)
	return answer, err
}

// Wait answers when something is new, as a long poll does. It is answered past the gate.
func (e executor) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	all := &e.process.world.executors
	for late := false; ; {
		all.mu.Lock()
		at, changed := all.byIP[e.ip], all.changed
		up := at != nil && at.up
		var tasks []taskexecutor.Task
		revision := ""
		if up {
			tasks, revision = at.list(), time.Duration(at.revision).String()
		}
		all.mu.Unlock()
		switch {
		case !up:
			return nil, "", errNoRoute
		case revision != since || late:
			return tasks, revision, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
}

func (c *containers) list() []taskexecutor.Task {
	return append(append([]taskexecutor.Task{}, c.tasks...), c.left...)
}

func (c *containers) task(name string) *taskexecutor.Task {
	for i := range c.tasks {
		if c.tasks[i].Name == name {
			return &c.tasks[i]
		}
	}
	return nil
}

// running is the task that runs there, nil if none does.
func (c *containers) running() *taskexecutor.Task {
	for i := range c.tasks {
		if c.tasks[i].ProcessStatus.Running != nil {
			return &c.tasks[i]
		}
	}
	return nil
}

// taskEnds ends the task in a pod.
func (w *world) taskEnds(pod *corev1.Pod, reason string) {
	w.executors.change(func() {
		at := w.containers[pod.UID]
		end := &taskexecutor.Terminated{Reason: reason}
		if reason != taskexecutor.ReasonCompleted {
			end.ExitCode = 1
		}
		w.audit.ends[at.running().Name] = reason
		at.running().ProcessStatus = &taskexecutor.ProcessStatus{Terminated: end}
		at.revision++
	})
	w.settle()
}

// leftoversEnd ends the processes of tasks in a pod that nobody wants any more.
func (w *world) leftoversEnd(pod *corev1.Pod) {
	w.executors.change(func() {
		at := w.containers[pod.UID]
		at.left = nil
		at.revision++
	})
	w.settle()
}

func (w *world) hasLeftovers(pod *corev1.Pod) bool {
	at := w.containers[pod.UID]
	return at != nil && at.up && len(at.left) > 0
}

// goesDown ends the containers of a pod that had any.
func (w *world) goesDown(uid types.UID) {
	if at := w.containers[uid]; at != nil && at.up {
		w.executors.change(func() { at.up, at.tasks, at.left = false, nil, nil })
	}
}

// exactClock takes the randomness out of waits, so that histories replay: those that a back-off makes longer by up to a fifth
// are as long as it says.
type exactClock struct{ clock.RealClock }

const firstPause = 50 * time.Millisecond

func (c exactClock) NewTimer(d time.Duration) clock.Timer {
	if d > firstPause {
		d = firstPause << int(math.Log2(float64(d)/float64(firstPause)))
	}
	return c.RealClock.NewTimer(d)
}
