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

// Commands of simulated tasks.
const (
	// command is the program of every simulated task.
	command = "simulate"
	// untilTold runs until the bench says that it ends.
	untilTold = "until-told"
	// startTime is how long a process takes to start.
	startTime = 2 * time.Millisecond
)

// UntilTold is the command of a task that runs until [Host.End].
func UntilTold() []string { return []string{command, untilTold} }

// Drawn is the command of a task that runs for a time drawn from an exponential distribution.
func Drawn(mean time.Duration) []string { return []string{command, mean.String()} }

// tasks are what one executor runs: it stands where the manager of real processes stands, and tells of itself as that
// does, but there is no process.
type tasks struct {
	world    *world
	instance string

	mu       sync.Mutex
	runs     map[string]*run
	revision uint64
	changed  chan struct{} // closed, and replaced, with every revision
}

// run is one task. It is guarded by the mutex of its tasks.
type run struct {
	owner  *tasks
	wire   taskexecutor.Task
	timer  *time.Timer // its start, then its end if that is known
	killed bool
}

func newTasks(w *world) *tasks {
	return &tasks{world: w, instance: rand.Text(), runs: map[string]*run{}, changed: make(chan struct{})}
}

// Set makes want the whole desired set.
func (t *tasks) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	if err := taskexecutor.ValidateSet(want); err != nil {
		return nil, errors.Join(task.ErrInvalid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
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
func (t *tasks) Add(want taskexecutor.Task) (taskexecutor.Task, error) {
	if err := taskexecutor.ValidateSet([]taskexecutor.Task{want}); err != nil {
		return taskexecutor.Task{}, errors.Join(task.ErrInvalid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs[want.Name] == nil {
		t.add(want)
	}
	return t.runs[want.Name].wire, nil
}

// Get returns one task.
func (t *tasks) Get(name string) (taskexecutor.Task, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.runs[name]; r != nil {
		return r.wire, nil
	}
	return taskexecutor.Task{}, task.ErrNotFound
}

// Remove ends a task.
func (t *tasks) Remove(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs[name] == nil {
		return task.ErrNotFound
	}
	t.remove(name)
	return nil
}

// Wait returns the list as soon as its revision is another than since, or after wait, or when ctx ends.
func (t *tasks) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string) {
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

// The methods below are called with the lock held.

func (t *tasks) add(want taskexecutor.Task) {
	r := &run{owner: t, wire: want}
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Waiting: &taskexecutor.Waiting{Reason: taskexecutor.ReasonStarting}}
	t.runs[want.Name] = r
	r.timer = time.AfterFunc(startTime, r.start)
	t.bump()
}

func (t *tasks) remove(name string) {
	r := t.runs[name]
	r.killed = true
	r.timer.Stop()
	delete(t.runs, name)
	t.bump()
}

func (t *tasks) bump() {
	t.revision++
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tasks) list() []taskexecutor.Task {
	list := make([]taskexecutor.Task, 0, len(t.runs))
	for _, r := range t.runs {
		list = append(list, r.wire)
	}
	slices.SortFunc(list, func(a, b taskexecutor.Task) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (r *run) start() {
	r.owner.mu.Lock()
	defer r.owner.mu.Unlock()
	if r.killed {
		return
	}
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Running: &taskexecutor.Running{StartedAt: time.Now()}}
	if mean, told := lifeOf(r.wire.Process.Command); told {
		r.owner.world.running(r)
	} else {
		r.timer = time.AfterFunc(r.owner.world.draw(mean), r.end)
	}
	r.owner.bump()
}

// end ends the task, unless it has ended before, and tells the bench when that was.
func (r *run) end() {
	r.owner.mu.Lock()
	defer r.owner.mu.Unlock()
	if r.killed || r.wire.ProcessStatus.Running == nil {
		return
	}
	now := time.Now()
	r.wire.ProcessStatus = &taskexecutor.ProcessStatus{Terminated: &taskexecutor.Terminated{
		Reason: taskexecutor.ReasonCompleted, StartedAt: r.wire.ProcessStatus.Running.StartedAt, FinishedAt: now,
	}}
	r.owner.world.ended(r.wire.Name, now)
	r.owner.bump()
}

// lifeOf reads the command of a simulated task. Any other ends at once.
func lifeOf(words []string) (mean time.Duration, told bool) {
	if len(words) != 2 || words[0] != command {
		return 0, false
	}
	if words[1] == untilTold {
		return 0, true
	}
	mean, _ = time.ParseDuration(words[1]) // 0 ends at once
	return mean, false
}
