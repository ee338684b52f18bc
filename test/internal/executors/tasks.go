// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// startTime is how long a process takes to start.
const startTime = 2 * time.Millisecond

// Life says what becomes of processes. Its methods are called with a lock held: they must not call the Tasks or its runs, but
// from a goroutine or a timer of their own.
type Life interface {
	// Started is told of a process that runs. It says after what time the process ends by itself, and how; unless known,
	// [Run.End] ends it.
	Started(r *Run) (after time.Duration, how taskexecutor.Terminated, known bool)
	// Ended is told how a run ended that was started: by itself, Cancelled, or lost. It isn't told of what is closed.
	Ended(r *Run, how taskexecutor.Terminated)
}

// Tasks are what one executor runs: it stands where the manager of real processes stands, and tells of itself as that does, but
// there is no process.
type Tasks struct {
	life Life

	mu       sync.Mutex
	instance string
	runs     map[string]*Run
	revision uint64
	changed  chan struct{} // closed, and replaced, with every revision
	closed   bool
}

// Run is one task. It is guarded by the mutex of its Tasks.
type Run struct {
	owner *Tasks
	wire  taskexecutor.Task
	timer *time.Timer // its start, then its end if that is known
	gone  bool
}

// NewTasks returns an executor's tasks, none so far.
func NewTasks(life Life) *Tasks {
	return &Tasks{life: life, instance: rand.Text(), runs: map[string]*Run{}, changed: make(chan struct{})}
}

// Task is what the run was told to run; its status is not to be read.
func (r *Run) Task() taskexecutor.Task { return r.wire }

// Set makes want the whole desired set.
func (t *Tasks) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	if err := taskexecutor.ValidateSet(want); err != nil {
		return nil, errors.Join(task.ErrInvalid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, task.ErrClosing
	}
	names := map[string]bool{}
	for i := range want {
		names[want[i].Name] = true
		if t.runs[want[i].Name] == nil {
			t.add(want[i])
		}
	}
	for name := range t.runs {
		if !names[name] {
			t.remove(name)
		}
	}
	return t.list(), nil
}

// Add adds one task.
func (t *Tasks) Add(want taskexecutor.Task) (taskexecutor.Task, error) {
	if err := taskexecutor.ValidateSet([]taskexecutor.Task{want}); err != nil {
		return taskexecutor.Task{}, errors.Join(task.ErrInvalid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return taskexecutor.Task{}, task.ErrClosing
	}
	if t.runs[want.Name] == nil {
		t.add(want)
	}
	return t.runs[want.Name].wire, nil
}

// Get returns one task.
func (t *Tasks) Get(name string) (taskexecutor.Task, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.runs[name]; r != nil {
		return r.wire, nil
	}
	return taskexecutor.Task{}, task.ErrNotFound
}

// Remove ends a task.
func (t *Tasks) Remove(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs[name] == nil {
		return task.ErrNotFound
	}
	t.remove(name)
	return nil
}

// Wait returns the list as soon as its revision is another than since, or after wait, or when ctx ends.
func (t *Tasks) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		t.mu.Lock()
		list, revision, changed := t.list(), t.instance+"-"+strconv.FormatUint(t.revision, 10), t.changed
		t.mu.Unlock()
		if since == "" || since != revision {
			return list, revision
		}
		select {
		case <-changed:
		case <-timer.C:
			return list, revision
		case <-ctx.Done():
			return list, revision
		}
	}
}

// Lose ends what runs or is about to for a reason, as a new life of the executor finds it in its records, and is that new life.
func (t *Tasks) Lose(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.runs {
		if r.wire.ProcessStatus.Terminated == nil {
			r.finish(taskexecutor.Terminated{ExitCode: -1, Reason: reason})
		}
	}
	t.instance = rand.Text()
	t.bump()
}

// CloseIdle takes no more tasks; it refuses while there are any.
func (t *Tasks) CloseIdle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.runs) > 0 {
		return task.ErrConflict
	}
	t.closed = true
	return nil
}

// Reopen undoes CloseIdle, as a new life of the executor.
func (t *Tasks) Reopen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed, t.instance = false, rand.Text()
	t.bump()
}

// Close ends everything without a word, as the end of a pod does.
func (t *Tasks) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, r := range t.runs {
		r.gone = true
		r.timer.Stop()
	}
}

// The methods below are called with the lock held.

func (t *Tasks) add(want taskexecutor.Task) {
	r := &Run{owner: t, wire: want}
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Waiting: &taskexecutor.Waiting{Reason: taskexecutor.ReasonStarting}}
	t.runs[want.Name] = r
	r.timer = time.AfterFunc(startTime, r.start)
	t.bump()
}

func (t *Tasks) remove(name string) {
	r := t.runs[name]
	if r.wire.ProcessStatus.Terminated == nil {
		r.finish(taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonCancelled})
	}
	r.gone = true
	delete(t.runs, name)
	t.bump()
}

func (t *Tasks) bump() {
	t.revision++
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *Tasks) list() []taskexecutor.Task {
	list := make([]taskexecutor.Task, 0, len(t.runs))
	for _, r := range t.runs {
		list = append(list, r.wire)
	}
	slices.SortFunc(list, func(a, b taskexecutor.Task) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// finish makes the status final; the life is told if the process was started.
func (r *Run) finish(how taskexecutor.Terminated) {
	r.timer.Stop()
	running := r.wire.ProcessStatus.Running
	how.FinishedAt = time.Now()
	if running != nil {
		how.StartedAt = running.StartedAt
	}
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Terminated: &how}
	if running != nil {
		r.owner.life.Ended(r, how)
	}
	r.owner.bump()
}

func (r *Run) start() {
	r.owner.mu.Lock()
	defer r.owner.mu.Unlock()
	if r.gone || r.wire.ProcessStatus.Waiting == nil {
		return
	}
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Running: &taskexecutor.Running{StartedAt: time.Now()}}
	if after, how, known := r.owner.life.Started(r); known {
		r.timer = time.AfterFunc(after, func() { r.End(how) })
	}
	r.owner.bump()
}

// End ends the run, unless it has ended before.
func (r *Run) End(how taskexecutor.Terminated) {
	r.owner.mu.Lock()
	defer r.owner.mu.Unlock()
	if !r.gone && r.wire.ProcessStatus.Running != nil {
		r.finish(how)
	}
}
