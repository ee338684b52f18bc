// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/process"
	"opensandbox.io/controller/internal/task-executor/procfs"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/store"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// statusBytes is reserved for the status of each task when the size of an answer is bounded.
const statusBytes = 5 << 10

// Deps are what a manager works with. All are required.
type Deps struct {
	Supervisor *process.Supervisor
	Store      *store.Store
	FS         procfs.FS
	// Find tells where tasks run.
	Find func() (sandbox.Target, error)
	// Lines takes the output of tasks, from many goroutines.
	Lines func(task, stream string, line []byte)
	Clock clock.Clock
	Log   *slog.Logger
	// Boot names the machine's start.
	Boot string
	// Grace is the time between SIGTERM and SIGKILL.
	Grace time.Duration
	// OutputBytes bounds each of the two files that keep a task's output.
	OutputBytes int64
}

// Manager owns all tasks.
type Manager struct {
	deps     Deps
	instance string

	// stopping is done when the executor is about to end, giveUp when it doesn't wait for trees any longer.
	stopping, giveUp context.Context
	stop, abandon    context.CancelFunc
	runners          sync.WaitGroup

	mu       sync.Mutex
	tasks    map[string]*entry
	revision uint64
	changed  chan struct{} // closed, and replaced, with every revision
	closing  bool
	found    bool // a sandbox was seen beside the executor
}

// entry is a task as others see it.
type entry struct {
	name     string
	process  *taskexecutor.Process // nil when its record was lost
	size     int                   // of name and process, encoded
	status   taskexecutor.ProcessStatus
	removing bool
	removed  chan struct{} // closed when removing is set
}

// New returns a manager without tasks. Cancelling ctx is not how it ends: call Close.
func New(ctx context.Context, deps Deps) *Manager {
	m := &Manager{deps: deps, instance: rand.Text(), tasks: map[string]*entry{}, changed: make(chan struct{})}
	ctx = context.WithoutCancel(ctx)
	m.stopping, m.stop = context.WithCancel(ctx)
	m.giveUp, m.abandon = context.WithCancel(ctx)
	return m
}

// Restore takes over from an earlier life of the executor: what that one left running is killed, its tasks that had not
// ended end as ExecutorLost, and those that had ended keep their end. Call it once, before anything else.
func (m *Manager) Restore(ctx context.Context) error {
	records, err := m.deps.Store.Load()
	if err != nil {
		return err
	}
	sweep := process.SweepInput{MarkerPrefix: m.markerPrefix()}
	for _, r := range records {
		if r.Start != nil && r.Start.Boot == m.deps.Boot {
			sweep.Mains = append(sweep.Mains, r.Start.ID)
		}
	}
	if err := m.deps.Supervisor.Sweep(ctx, sweep); err != nil {
		return fmt.Errorf("end what an earlier executor has left: %w", err)
	}
	for _, r := range records {
		end := r.End
		if end == nil {
			end = m.lost(r)
			r = m.keepEnd(r, end)
		}
		m.mu.Lock()
		m.add(r.Name, r.Process, endedMachine(*end), r)
		m.mu.Unlock()
	}
	return nil
}

// keepEnd writes the end of a lost task down and returns its record as it is on disk then. What can't be written now, the task's
// runner tries again.
func (m *Manager) keepEnd(r store.Record, end *taskexecutor.Terminated) store.Record {
	m.deps.Log.Info("task was lost with an earlier executor", "task", r.Name)
	ended := r
	ended.End = end
	if err := m.deps.Store.Save(ended); err != nil {
		m.deps.Log.Error("could not keep the record of a task", "task", r.Name, "err", err)
		return r
	}
	return ended
}

// lost is the end of a task that an earlier executor had not seen end.
func (m *Manager) lost(r store.Record) *taskexecutor.Terminated {
	end := &taskexecutor.Terminated{
		ExitCode: exitUnknown, Reason: taskexecutor.ReasonExecutorLost,
		Message: "the executor ended while the task ran", FinishedAt: m.deps.Clock.Now(),
	}
	if r.Start != nil {
		end.StartedAt, end.FinishedAt = r.Start.At, finish(r.Start.At, end.FinishedAt)
	}
	if r.Process == nil {
		end.Message = "the record of the task could not be read"
	}
	return end
}

func (m *Manager) markerPrefix() string { return m.deps.Store.ID() + "." }

// Set makes want the whole desired set, and returns all known tasks. The error is ErrInvalid, ErrConflict or ErrClosing,
// and then nothing has changed.
func (m *Manager) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	plan, err := planSet(m.known(), want)
	if err != nil {
		return nil, err
	}
	if err := m.carryOut(plan); err != nil {
		return nil, err
	}
	return m.list(), nil
}

// Add adds one task to the desired set and returns it. A known name with the same process is no error.
func (m *Manager) Add(task taskexecutor.Task) (taskexecutor.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	others := 0
	for name, e := range m.tasks {
		if name != task.Name && !e.removing {
			others++
		}
	}
	if others >= taskexecutor.MaxTasks {
		return taskexecutor.Task{}, fmt.Errorf("%w: there are %d tasks already", ErrConflict, others)
	}
	plan, err := planSet(m.known(), []taskexecutor.Task{task})
	if err != nil {
		return taskexecutor.Task{}, err
	}
	plan.stop = nil // the others stay
	if err := m.carryOut(plan); err != nil {
		return taskexecutor.Task{}, err
	}
	return m.tasks[task.Name].wire(), nil
}

func (m *Manager) known() map[string]known {
	have := make(map[string]known, len(m.tasks))
	for name, e := range m.tasks {
		have[name] = known{process: e.process, removing: e.removing}
	}
	return have
}

func (m *Manager) carryOut(plan setPlan) error {
	if m.closing {
		return ErrClosing
	}
	total := 0
	for _, e := range m.tasks {
		total += e.size + statusBytes
	}
	for _, task := range plan.start {
		total += sizeOf(task.Name, &task.Process) + statusBytes
	}
	if len(plan.start) > 0 && total > taskexecutor.MaxBodyBytes {
		return fmt.Errorf("%w: with these the list of tasks would be larger than %d bytes, which no client reads; shorten their processes",
			ErrInvalid, taskexecutor.MaxBodyBytes)
	}
	for _, name := range plan.stop {
		m.remove(m.tasks[name])
	}
	for _, task := range plan.start {
		record := store.Record{Name: task.Name, Process: &task.Process, Marker: m.markerPrefix() + rand.Text()}
		m.add(task.Name, &task.Process, newMachine(), record)
	}
	return nil
}

// add makes a task known and starts its goroutine.
func (m *Manager) add(name string, p *taskexecutor.Process, machine machine, record store.Record) {
	e := &entry{name: name, process: p, size: sizeOf(name, p), status: machine.status(), removed: make(chan struct{})}
	m.tasks[name] = e
	m.bump()
	r := &runner{manager: m, entry: e, machine: machine, record: record, deps: m.deps, log: m.deps.Log.With("task", name)}
	m.runners.Go(r.run)
}

func (m *Manager) remove(e *entry) {
	if !e.removing {
		e.removing = true
		close(e.removed)
	}
}

// sawSandbox remembers that there was a sandbox beside the executor.
func (m *Manager) sawSandbox() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.found = true
}

// hadSandbox says whether there ever was one in this life.
func (m *Manager) hadSandbox() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.found
}

// Idle says whether no task is known.
func (m *Manager) Idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tasks) == 0
}

// CloseIdle takes no more tasks, as before an exit. The error is ErrConflict while any are known.
func (m *Manager) CloseIdle() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.tasks) > 0 {
		return fmt.Errorf("%w: %d tasks are known or being stopped; send an empty set and wait until it is empty", ErrConflict, len(m.tasks))
	}
	m.closing = true
	return nil
}

// Reopen undoes CloseIdle, unless the manager is being closed.
func (m *Manager) Reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closing = m.stopping.Err() != nil
}

// Remove takes a task out of the desired set. The error is ErrNotFound when it isn't known.
func (m *Manager) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.tasks[name]
	if !ok {
		return fmt.Errorf("task %q: %w", name, ErrNotFound)
	}
	m.remove(e)
	return nil
}

// Get returns one task. The error is ErrNotFound when it isn't known.
func (m *Manager) Get(name string) (taskexecutor.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.tasks[name]
	if !ok {
		return taskexecutor.Task{}, fmt.Errorf("task %q: %w", name, ErrNotFound)
	}
	return e.wire(), nil
}

// List returns all known tasks, sorted by name, and the revision of that list.
func (m *Manager) List() ([]taskexecutor.Task, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list(), m.revisionName()
}

// Wait returns what List does as soon as the revision is another than since, or after wait, or when ctx ends, or when Close
// is over.
func (m *Manager) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string) {
	timer := m.deps.Clock.NewTimer(wait)
	defer timer.Stop()
	for {
		m.mu.Lock()
		changed := m.changed
		same := since != "" && since == m.revisionName()
		m.mu.Unlock()
		if !same {
			return m.List()
		}
		select {
		case <-changed:
		case <-timer.C():
			return m.List()
		case <-ctx.Done():
			return m.List()
		case <-m.giveUp.Done(): // not stopping: whoever waits then would be answered at once, again and again
			return m.List()
		}
	}
}

// Close ends all trees and waits for them until ctx is done. Tasks that had not ended end as ExecutorLost.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.stop()
	stopWaiting := context.AfterFunc(ctx, m.abandon)
	defer stopWaiting()
	m.runners.Wait()
	m.abandon()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("end all tasks: %w", err)
	}
	return nil
}

// publish shows a task's status to others.
func (m *Manager) publish(e *entry, status taskexecutor.ProcessStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.status = status
	m.bump()
}

// forget ends the life of a task here; its name is free again.
func (m *Manager) forget(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tasks, e.name)
	m.bump()
}

func (m *Manager) bump() {
	m.revision++
	close(m.changed)
	m.changed = make(chan struct{})
}

// revisionName never names two lists the same, also not across lives of the executor.
func (m *Manager) revisionName() string {
	return m.instance + "-" + strconv.FormatUint(m.revision, 10)
}

func (m *Manager) list() []taskexecutor.Task {
	out := make([]taskexecutor.Task, 0, len(m.tasks))
	for _, e := range m.tasks {
		out = append(out, e.wire())
	}
	slices.SortFunc(out, func(a, b taskexecutor.Task) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// wire returns the task as it is sent. What it points to is never changed, only replaced.
func (e *entry) wire() taskexecutor.Task {
	status := e.status
	task := taskexecutor.Task{Name: e.name, ProcessStatus: &status}
	if e.process != nil {
		task.Process = *e.process
	}
	return task
}

// sizeOf is the size of a task in an answer. HTML characters are counted as their escapes, though they are sent as
// they are.
func sizeOf(name string, p *taskexecutor.Process) int {
	task := taskexecutor.Task{Name: name}
	if p != nil {
		task.Process = *p
	}
	data, err := json.Marshal(task)
	if err != nil {
		return taskexecutor.MaxBodyBytes // strings and numbers always encode
	}
	return len(data)
}
