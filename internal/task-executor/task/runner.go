// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/process"
	"opensandbox.io/controller/internal/task-executor/procfs"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/store"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// sandboxWait bounds how long a start waits for a sandbox that isn't visible, as while its container restarts.
	sandboxWait = 10 * time.Second
	// sandboxLook is how often it is looked for meanwhile.
	sandboxLook = 200 * time.Millisecond
	// endRetry is the pause after ending a tree has failed.
	endRetry = time.Second
	// saveRetry is the pause after keeping an end has failed.
	saveRetry = 5 * time.Second
)

// errStopped is why a task was not started that waited when the executor ended.
var errStopped = errors.New("the executor was stopped before the task was started")

// runner is the goroutine of one task.
type runner struct {
	manager *Manager
	entry   *entry
	machine machine
	record  store.Record
	deps    Deps
	log     *slog.Logger

	// Set once started. All are nil for a task that ended in an earlier life or was never started.
	proc     *process.Process
	output   *process.Output
	watch    *process.Watch
	deadline clock.Timer

	unsaved bool // the record on disk is not the last one
}

// run lives as long as the task is known, or until the executor ends.
func (r *runner) run() {
	defer r.release()
	switch {
	case r.machine.state == Pending:
		r.start()
	case r.record.End == nil:
		r.publish() // an end that could not be kept
	}
	for r.step() {
		r.publish()
	}
	if r.machine.state == Gone {
		r.log.Info("task is gone")
		if err := r.deps.Store.Remove(r.entry.name); err != nil {
			r.log.Error("could not forget a task", "err", err)
		}
		r.manager.forget(r.entry)
	}
}

// step waits for one input and feeds it to the machine. It returns false when there is nothing left to do.
func (r *runner) step() bool {
	switch r.machine.state {
	case Running:
		r.awaitEnd()
	case Stopping:
		return r.endTree(r.grace())
	case Ended:
		return r.awaitRemoval()
	case Removing:
		return r.endTree(r.deps.Grace)
	case Pending, Gone:
		return false
	default:
		r.log.Error("task in an unknown state", "state", r.machine.state)
		return false
	}
	return true
}

// publish keeps an end on disk, and then shows where the task stands.
func (r *runner) publish() {
	if r.machine.state == Gone {
		return // shown by its absence
	}
	if r.machine.end != nil && r.record.End == nil {
		r.record.End = r.machine.end
		r.save()
		// The log's own lines go another way: only a line among the output tells a reader that it has all of it.
		r.deps.Lines(r.entry.name, taskexecutor.EndStream, fmt.Appendf(nil, "reason=%s exitCode=%d", r.machine.end.Reason, r.machine.end.ExitCode))
		r.log.Info("task ended", "reason", r.machine.end.Reason, "exitCode", r.machine.end.ExitCode)
	}
	r.manager.publish(r.entry, r.machine.status())
}

func (r *runner) save() {
	err := r.deps.Store.Save(r.record)
	r.unsaved = err != nil
	if err != nil {
		r.log.Error("could not keep the record of a task", "err", err)
	}
}

// start brings a pending task to Running, or to its end.
func (r *runner) start() {
	ctx, cancel := context.WithCancel(r.manager.stopping)
	defer cancel()
	done := make(chan struct{})
	cancelled := make(chan struct{})
	go func() { // ends before start does
		defer close(cancelled)
		select {
		case <-r.entry.removed:
			cancel()
		case <-done:
		}
	}()
	err := r.launch(ctx)
	close(done)
	<-cancelled
	if r.isRemoved() {
		r.machine.remove()
	}
	if err != nil {
		r.log.Warn("task could not be started", "err", err)
		if r.proc != nil && !r.endProcesses(0) {
			return // the record has no end, which the next life of the executor will see
		}
		reason := r.whyNotStarted(err)
		if reason == taskexecutor.ReasonExecutorLost {
			err = errStopped
		}
		r.machine.startFailed(r.deps.Clock.Now(), reason, cut(err.Error()))
		r.publish()
		return
	}
	r.machine.started(r.proc.StartedAt)
	if limit := r.record.Process.TimeoutSeconds; limit > 0 {
		r.deadline = r.deps.Clock.NewTimer(time.Duration(limit) * time.Second)
	}
	r.log.Info("task started", "pid", r.proc.PID)
	if r.machine.removed {
		r.machine.remove() // it came while the command was being executed
	}
	r.publish()
}

// whyNotStarted is the reason of a task that was not started. Nobody's mistake is a sandbox that has ended, or is down where
// there was one before: then another try may succeed.
func (r *runner) whyNotStarted(err error) string {
	switch {
	case r.manager.stopping.Err() != nil:
		return taskexecutor.ReasonExecutorLost
	case errors.Is(err, enter.ErrSandboxEnded), errors.Is(err, sandbox.ErrNotVisible) && r.manager.hadSandbox():
		return taskexecutor.ReasonSandboxLost
	default:
		return taskexecutor.ReasonStartError
	}
}

// launch finds the sandbox and starts the command in it. Name and process are on disk before the command is executed: after a
// crash at any moment either they are known, or nothing was executed.
func (r *runner) launch(ctx context.Context) error {
	target, err := r.findSandbox(ctx)
	if err != nil {
		return fmt.Errorf("find the sandbox: %w", err)
	}
	if !target.Own {
		r.manager.sawSandbox()
		if r.watch, err = process.NewWatch(r.deps.FS, target.Main); err != nil {
			return err
		}
	}
	name := r.entry.name
	lines := func(stream string, line []byte) { r.deps.Lines(name, stream, line) }
	if r.output, err = process.NewOutput(r.deps.Store.TaskDir(name), r.deps.OutputBytes, lines, r.log); err != nil {
		return err
	}
	r.proc, err = r.deps.Supervisor.Start(ctx, process.StartInput{
		Spec:   specOf(target, r.record.Process),
		Marker: r.record.Marker, Stdout: r.output.Stdout, Stderr: r.output.Stderr,
		Commit: func(id procfs.ID, at time.Time) error {
			r.record.Start = &store.Start{ID: id, Boot: r.deps.Boot, At: at}
			return r.deps.Store.Save(r.record)
		},
	})
	return errors.Join(err, r.output.CloseEnds())
}

func specOf(target sandbox.Target, p *taskexecutor.Process) enter.Spec {
	spec := enter.Spec{Own: target.Own, Main: target.Main, WorkingDir: p.WorkingDir}
	spec.Args = append(append(spec.Args, p.Command...), p.Args...)
	for _, e := range p.Env {
		spec.Env = append(spec.Env, e.Name+"="+e.Value)
	}
	return spec
}

// findSandbox waits a while for a sandbox that isn't visible.
func (r *runner) findSandbox(ctx context.Context) (sandbox.Target, error) {
	deadline := r.deps.Clock.Now().Add(sandboxWait)
	for {
		target, err := r.deps.Find()
		if !errors.Is(err, sandbox.ErrNotVisible) || !r.deps.Clock.Now().Before(deadline) {
			return target, err
		}
		again := r.deps.Clock.NewTimer(sandboxLook)
		select {
		case <-again.C():
		case <-ctx.Done():
			again.Stop()
			return target, ctx.Err()
		}
	}
}

// awaitEnd waits until the main process ends or something else ends the run. When both happen the main process wins.
func (r *runner) awaitEnd() {
	var timedOut <-chan time.Time
	if r.deadline != nil {
		timedOut = r.deadline.C()
	}
	var why, message string
	select {
	case status := <-r.proc.Ended():
		r.machine.exited(r.deps.Clock.Now(), exitOf(status), r.output.Settle())
		return
	case <-timedOut:
		why, message = taskexecutor.ReasonTimedOut, fmt.Sprintf("ran longer than %ds", r.record.Process.TimeoutSeconds)
	case <-r.lost():
		why, message = taskexecutor.ReasonSandboxLost, "the sandbox's main process ended"
	case <-r.manager.stopping.Done():
		why, message = taskexecutor.ReasonExecutorLost, "the executor was stopped"
	case <-r.entry.removed:
	}
	select {
	case status := <-r.proc.Ended():
		r.machine.exited(r.deps.Clock.Now(), exitOf(status), r.output.Settle())
		return
	default:
	}
	if why == "" {
		r.machine.remove()
		return
	}
	r.log.Info("task is being stopped", "reason", why)
	r.machine.stop(why, message)
}

// awaitRemoval waits until nobody wants an ended task any more. Its children end with the sandbox they live in. An end that
// could not be kept, as on a full disk, is tried again: else the next life of the executor would tell another one.
func (r *runner) awaitRemoval() bool {
	lost := r.lost()
	again := r.deps.Clock.NewTimer(saveRetry)
	defer again.Stop()
	for {
		var due <-chan time.Time
		if r.unsaved {
			due = again.C()
		}
		select {
		case <-due:
			r.save()
			again.Reset(saveRetry)
		case <-r.entry.removed:
			r.machine.remove()
			return true
		case <-lost:
			lost = nil
			r.endTree(0)
		case <-r.manager.stopping.Done():
			r.endTree(r.deps.Grace)
			return false
		}
	}
}

// endTree ends the task's tree, however often that fails, and tells the machine. It returns false when the executor
// doesn't wait for that any longer.
func (r *runner) endTree(grace time.Duration) bool {
	output := ""
	if r.proc != nil {
		if !r.endProcesses(grace) {
			return false
		}
		select {
		case status := <-r.proc.Ended():
			r.machine.exited(r.deps.Clock.Now(), exitOf(status), "")
		default: // delivered before, as the main process of an ended task
			if r.machine.state == Stopping && !r.awaitExit() {
				return false
			}
		}
		output = r.output.Settle()
	}
	r.machine.treeGone(r.deps.Clock.Now(), output)
	return true
}

// awaitExit waits for the end of a main process that is gone but not collected yet.
func (r *runner) awaitExit() bool {
	select {
	case status := <-r.proc.Ended():
		r.machine.exited(r.deps.Clock.Now(), exitOf(status), "")
		return true
	case <-r.manager.giveUp.Done():
		return false
	}
}

func (r *runner) endProcesses(grace time.Duration) bool {
	for {
		err := r.proc.End(r.manager.giveUp, grace)
		if err == nil {
			return true
		}
		if r.manager.giveUp.Err() != nil {
			return false
		}
		r.log.Error("could not end the processes of a task", "err", err)
		again := r.deps.Clock.NewTimer(endRetry)
		select {
		case <-again.C():
		case <-r.manager.giveUp.Done():
		}
		again.Stop()
	}
}

// grace is the time a task being stopped has after SIGTERM; none when its root is gone.
func (r *runner) grace() time.Duration {
	if r.machine.why == taskexecutor.ReasonSandboxLost {
		return 0
	}
	return r.deps.Grace
}

// lost is closed when the sandbox's main process has ended; nil when there is none but the executor.
func (r *runner) lost() <-chan struct{} {
	if r.watch == nil {
		return nil
	}
	return r.watch.Ended()
}

func (r *runner) isRemoved() bool {
	select {
	case <-r.entry.removed:
		return true
	default:
		return false
	}
}

// release gives back what a task holds of the executor.
func (r *runner) release() {
	if r.deadline != nil {
		r.deadline.Stop()
	}
	if r.watch != nil {
		r.watch.Close()
	}
	if r.output != nil {
		if err := r.output.Close(); err != nil {
			r.log.Warn("could not close the output of a task", "err", err)
		}
	}
}

// maxMessageBytes bounds a message.
const maxMessageBytes = 1 << 10

// cut makes an error a message: one line of at most 1 KiB.
func cut(message string) string {
	message = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, message)
	return strings.ToValidUTF8(message[:min(len(message), maxMessageBytes)], "")
}
