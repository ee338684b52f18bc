// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"slices"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// Errors a caller of the manager branches on.
var (
	// ErrInvalid says that a request can't be met as it is.
	ErrInvalid = errors.New("invalid")
	// ErrConflict says that a request goes against what is known.
	ErrConflict = errors.New("conflict")
	// ErrNotFound says that a task isn't known.
	ErrNotFound = errors.New("not found")
	// ErrClosing says that the executor is about to end.
	ErrClosing = errors.New("the executor is stopping")
)

// maxKnown bounds the tasks that are known: a set, and those of the set before that are still being stopped.
const maxKnown = 2 * taskexecutor.MaxTasks

// known is what a plan needs to know of a task.
type known struct {
	// process is what was asked for; nil when its record was lost.
	process *taskexecutor.Process
	// removing: it was taken out of the desired set.
	removing bool
}

// setPlan is what to do so that the desired set holds.
type setPlan struct {
	start []taskexecutor.Task
	stop  []string
}

// planSet compares the desired set with what is known. Each wanted name:
//
//	| the name is                      | result                                            |
//	|----------------------------------|---------------------------------------------------|
//	| unknown                          | started                                           |
//	| known, same process              | left as it is: it never runs twice                |
//	| known, its record was lost       | left as it is                                     |
//	| known, another process           | ErrConflict: what runs under a name can't change  |
//	| known, and being removed         | ErrConflict: it is free once it is no longer listed |
//
// Known names that aren't wanted are stopped. With an error nothing of the set holds.
func planSet(have map[string]known, want []taskexecutor.Task) (setPlan, error) {
	if err := taskexecutor.ValidateSet(want); err != nil {
		return setPlan{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var plan setPlan
	wanted := make(map[string]bool, len(want))
	for _, task := range want {
		wanted[task.Name] = true
		k, ok := have[task.Name]
		switch {
		case !ok:
			plan.start = append(plan.start, taskexecutor.Task{Name: task.Name, Process: task.Process})
		case k.removing:
			return setPlan{}, fmt.Errorf("%w: task %q is being stopped; ask again when it is no longer listed, or choose another name",
				ErrConflict, task.Name)
		case k.process != nil && !sameProcess(*k.process, task.Process):
			return setPlan{}, fmt.Errorf("%w: task %q is known with another process; choose another name", ErrConflict, task.Name)
		}
	}
	for name, k := range have {
		if !wanted[name] && !k.removing {
			plan.stop = append(plan.stop, name)
		}
	}
	slices.Sort(plan.stop)
	if len(have)+len(plan.start) > maxKnown {
		return setPlan{}, fmt.Errorf("%w: %d tasks are still being stopped; ask again when they are no longer listed", ErrConflict, len(have))
	}
	return plan, nil
}

// sameProcess compares what was asked for; an absent list and an empty one are the same.
func sameProcess(a, b taskexecutor.Process) bool {
	return slices.Equal(a.Command, b.Command) && slices.Equal(a.Args, b.Args) && slices.Equal(a.Env, b.Env) &&
		a.WorkingDir == b.WorkingDir && a.TimeoutSeconds == b.TimeoutSeconds
}
