// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"time"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/internal/executors"
)

// Commands of simulated tasks.
const (
	// command is the program of every simulated task.
	command = "simulate"
	// untilTold runs until the bench says that it ends.
	untilTold = "until-told"
)

// UntilTold is the command of a task that runs until [Host.End].
func UntilTold() []string { return []string{command, untilTold} }

// Drawn is the command of a task that runs for a time drawn from an exponential distribution.
func Drawn(mean time.Duration) []string { return []string{command, mean.String()} }

// completed is how all simulated tasks end.
var completed = taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}

// Started implements [executors.Life].
func (w *world) Started(r *executors.Run) (after time.Duration, how taskexecutor.Terminated, known bool) {
	mean, told := lifeOf(r.Task().Process.Command)
	if told {
		w.running(r)
		return 0, completed, false
	}
	return w.draw(mean), completed, true
}

// Ended implements [executors.Life]: the bench is told of tasks that end by themselves.
func (w *world) Ended(r *executors.Run, how taskexecutor.Terminated) {
	if how.Reason == taskexecutor.ReasonCompleted {
		w.ended(r.Task().Name, how.FinishedAt)
	}
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
