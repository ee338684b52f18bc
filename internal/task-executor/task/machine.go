// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// State is where a task stands.
type State string

// The states of a task.
const (
	// Pending: accepted, its command not executed yet.
	Pending State = "Pending"
	// Running: its main process runs.
	Running State = "Running"
	// Stopping: its tree is being ended before the main process ended by itself.
	Stopping State = "Stopping"
	// Ended: the run is over. Background children may live on.
	Ended State = "Ended"
	// Removing: the run is over, nobody wants it any more, and its tree is being ended.
	Removing State = "Removing"
	// Gone: nobody wants it any more and its tree is gone. Final.
	Gone State = "Gone"
)

// Exit codes of tasks whose main process gave none.
const (
	// exitNeverStarted is that of a command that was not executed, as the kubelet has it.
	exitNeverStarted = 128
	// exitUnknown is that of a main process whose end nobody saw.
	exitUnknown = -1
	// exitSignal is added to the number of the signal that ended a main process, as a shell does.
	exitSignal = 128
)

// exit is the end of a main process.
type exit struct {
	code, signal int32
}

func exitOf(status unix.WaitStatus) exit {
	if status.Signaled() {
		return exit{code: exitSignal + int32(status.Signal()), signal: int32(status.Signal())}
	}
	return exit{code: int32(status.ExitStatus())}
}

// machine is a task's state machine. Its methods are its inputs:
//
//	| input       | Pending         | Running             | Stopping               | Ended    | Removing |
//	|-------------|-----------------|---------------------|------------------------|----------|----------|
//	| started     | Running         | -                   | -                      | -        | -        |
//	| startFailed | Ended, or Gone  | -                   | -                      | -        | -        |
//	|             | if removed      |                     |                        |          |          |
//	| exited      | -               | Ended               | kept as a fact         | -        | -        |
//	| stop(why)   | -               | Stopping            | - (the first why wins) | -        | -        |
//	| remove      | kept as a fact  | Stopping(Cancelled) | kept as a fact         | Removing | -        |
//	| treeGone    | -               | -                   | Ended(why), or Gone if | -        | Gone     |
//	|             |                 |                     | removed                |          |          |
//
// "-" changes nothing: the input came too late, and the earlier fact stands.
type machine struct {
	state     State
	startedAt time.Time
	why       string // reason of Stopping
	message   string
	exit      exit
	removed   bool
	end       *taskexecutor.Terminated
}

func newMachine() machine { return machine{state: Pending, exit: exit{code: exitUnknown}} }

// endedMachine is the machine of a task that ended in an earlier life.
func endedMachine(end taskexecutor.Terminated) machine {
	return machine{state: Ended, startedAt: end.StartedAt, end: &end}
}

func (m *machine) transition(to State) { m.state = to }

func (m *machine) started(at time.Time) {
	switch m.state {
	case Pending:
		m.startedAt = at
		m.transition(Running)
	default: // late
	}
}

func (m *machine) startFailed(at time.Time, reason, message string) {
	switch m.state {
	case Pending:
		m.exit = exit{code: exitNeverStarted}
		m.terminate(at, reason, message, "")
		m.transition(Ended)
		if m.removed {
			m.transition(Gone)
		}
	default: // late
	}
}

func (m *machine) exited(at time.Time, e exit, output string) {
	switch m.state {
	case Running:
		m.exit = e
		reason := taskexecutor.ReasonCompleted
		if e.code != 0 {
			reason = taskexecutor.ReasonNonZeroExit
		}
		m.terminate(at, reason, e.message(), output)
		m.transition(Ended)
	case Stopping:
		m.exit = e
	default: // late
	}
}

func (m *machine) stop(why, message string) {
	switch m.state {
	case Running:
		m.why, m.message = why, message
		m.transition(Stopping)
	default: // the earlier reason, or the end, stands
	}
}

func (m *machine) remove() {
	m.removed = true
	switch m.state {
	case Running:
		m.stop(taskexecutor.ReasonCancelled, "the task was taken out of the desired set")
	case Ended:
		m.transition(Removing)
	default: // being started, or being stopped: known when that is done
	}
}

func (m *machine) treeGone(at time.Time, output string) {
	switch m.state {
	case Stopping:
		m.terminate(at, m.why, m.message, output)
		m.transition(Ended)
		if m.removed {
			m.transition(Gone)
		}
	case Removing:
		m.transition(Gone)
	default: // the children of an ended task are gone: nothing to tell
	}
}

func (m *machine) terminate(at time.Time, reason, message, output string) {
	m.end = &taskexecutor.Terminated{
		ExitCode: m.exit.code, Signal: m.exit.signal, Reason: reason, Message: message, Output: output,
		StartedAt: m.startedAt, FinishedAt: finish(m.startedAt, at),
	}
}

// finish is when a run finished that began at start. It took as long as the monotonic clock says, if both times have it, and
// never less than no time: the other clock may have been set back meanwhile.
func finish(start, at time.Time) time.Time {
	if start.IsZero() {
		return at
	}
	return start.Add(max(0, at.Sub(start)))
}

// status is what others see. A task being stopped is shown as running until its tree is gone.
func (m *machine) status() taskexecutor.ProcessStatus {
	switch {
	case m.end != nil:
		end := *m.end
		return taskexecutor.ProcessStatus{Terminated: &end}
	case m.state == Pending:
		return taskexecutor.ProcessStatus{Waiting: &taskexecutor.Waiting{
			Reason: taskexecutor.ReasonStarting, Message: "the process is being started"}}
	default:
		return taskexecutor.ProcessStatus{Running: &taskexecutor.Running{StartedAt: m.startedAt}}
	}
}

func (e exit) message() string {
	if e.signal != 0 {
		return fmt.Sprintf("ended by signal %d (%s)", e.signal, unix.SignalName(unix.Signal(e.signal)))
	}
	return fmt.Sprintf("exit status %d", e.code)
}
