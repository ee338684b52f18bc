// SPDX-License-Identifier: Apache-2.0

// Package tasks tells from a batch alone how its tasks fare: one by one, and in the words and the exit code of a command line.
package tasks

import (
	"fmt"
	"slices"
	"strings"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/indexset"
)

// State is where a task stands.
type State string

// The states of a task. The status counts the tasks that have not ended, and doesn't tell which of them is which: where they
// are not all in one state, each is Unfinished.
const (
	Pending    State = "Pending"
	Running    State = "Running"
	Unknown    State = "Unknown"
	Unfinished State = "Unfinished"
	Succeeded  State = "Succeeded"
	Failed     State = "Failed"
)

// Task is one index of a batch.
type Task struct {
	// Index is the replica index.
	Index int `json:"index"`
	// State is where the task stands.
	State State `json:"state"`
	// ExitCode is the exit code of the process, where it is known.
	ExitCode *int32 `json:"exitCode,omitempty"`
	// Signal is the number of the signal that ended the process, 0 for none.
	Signal int32 `json:"signal,omitempty"`
	// Reason is why it failed, as in status.failedTasks.
	Reason string `json:"reason,omitempty"`
	// Message says more about the reason.
	Message string `json:"message,omitempty"`
	// Tries is how many times the task was run, with the try that runs now.
	Tries int `json:"tries"`
	// Pod is the pod that the sandbox is, as long as the batch holds it.
	Pod string `json:"pod,omitempty"`
	// Output has the last lines that the task wrote, where they are known.
	Output string `json:"output,omitempty"`
}

// Of returns the tasks of a batch in the order of their indexes, with what its status has of them.
func Of(sb *v1alpha1.BatchSandbox) []Task {
	if sb.Spec.TaskTemplate == nil {
		return nil
	}
	list := make([]Task, cluster.Replicas(sb))
	open := openState(&sb.Status)
	for i := range list {
		list[i] = Task{Index: i, State: open}
	}
	each(sb.Status.CompletedIndexes, list, func(t *Task) { t.State, t.ExitCode = Succeeded, new(int32) })
	each(sb.Status.FailedIndexes, list, func(t *Task) { t.State = Failed })
	for _, f := range sb.Status.FailedReasons {
		each(f.Indexes, list, func(t *Task) { t.Reason = f.Reason })
	}
	for _, f := range sb.Status.FailedTasks {
		if t := at(list, f.Index); t != nil {
			t.ExitCode, t.Signal, t.Reason, t.Message, t.Output = f.ExitCode, f.Signal, f.Reason, f.Message, f.Output
		}
	}
	tries(sb, list)
	return list
}

// openState is the state of the tasks that have not ended.
func openState(s *v1alpha1.BatchSandboxStatus) State {
	pending, running, unknown := s.TaskPending > 0, s.TaskRunning > 0, s.TaskUnknown > 0
	switch {
	case running && !pending && !unknown:
		return Running
	case unknown && !pending && !running:
		return Unknown
	case running || unknown:
		return Unfinished
	}
	return Pending
}

// tries counts the tries. A task that waits for its first one has none.
func tries(sb *v1alpha1.BatchSandbox, list []Task) {
	for i := range list {
		if list[i].State != Pending {
			list[i].Tries = 1
		}
	}
	for _, more := range sb.Status.TaskTries {
		if t := at(list, more.Index); t != nil {
			t.Tries += int(more.Failed + more.Lost + more.Withdrawn)
		}
	}
}

// each calls do for the tasks of a set of indexes. Those beyond the replicas, as after scaling down, are none.
func each(indexes string, list []Task, do func(*Task)) {
	parsed, _ := indexset.Parse(indexes) // the controller wrote it
	for _, index := range parsed {
		if index < len(list) {
			do(&list[index])
		}
	}
}

func at(list []Task, index int32) *Task {
	if index < 0 || int(index) >= len(list) {
		return nil
	}
	return &list[index]
}

// ExitCode returns the exit code for a command that ran the tasks: 0 if all succeeded, else that of the first that failed where a process
// can have it, else 1.
//
//	| first failure                               | exit code                     |
//	|---------------------------------------------|-------------------------------|
//	| none, every task succeeded                  | 0                             |
//	| none, some have not ended                   | 1                             |
//	| exit code 1 to 255 is known                 | that one; 128+N for a signal  |
//	| lost, never started, or no code is known    | 1                             |
func ExitCode(list []Task) int {
	for _, t := range list {
		if t.State == Failed {
			return codeOf(t)
		}
	}
	if slices.ContainsFunc(list, func(t Task) bool { return t.State != Succeeded }) {
		return 1
	}
	return 0
}

func codeOf(t Task) int {
	if t.ExitCode != nil && *t.ExitCode > 0 && *t.ExitCode < 256 && t.Reason != v1alpha1.TaskReasonStartError {
		return int(*t.ExitCode)
	}
	return 1
}

// Why says in a few words how a task failed: "NonZeroExit (exit code 3, 2 tries)".
func Why(t Task) string {
	reason := t.Reason
	if reason == "" {
		reason = "for a reason that is not known any more"
	}
	var details []string
	switch {
	case t.Signal > 0:
		details = append(details, fmt.Sprintf("signal %d", t.Signal))
	case t.ExitCode != nil && *t.ExitCode >= 0 && t.Reason != v1alpha1.TaskReasonStartError:
		details = append(details, fmt.Sprintf("exit code %d", *t.ExitCode))
	}
	if t.Tries > 1 {
		details = append(details, fmt.Sprintf("%d tries", t.Tries))
	}
	text := reason
	if len(details) > 0 {
		text += " (" + strings.Join(details, ", ") + ")"
	}
	if t.Message != "" && !strings.HasPrefix(t.Message, "exit status ") && !strings.HasPrefix(t.Message, "ended by signal ") {
		text += ": " + t.Message
	}
	return text
}

// maxTold is how many failures are told one by one.
const maxTold = 10

// Failures tells which tasks failed and why, with up to so many of their last lines; "" if none failed.
func Failures(list []Task, lines int) string {
	failed := slices.DeleteFunc(slices.Clone(list), func(t Task) bool { return t.State != Failed })
	switch {
	case len(failed) == 0:
		return ""
	case len(list) == 1:
		return "index 0 failed: " + Why(failed[0]) + tail(failed[0], lines)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d tasks failed:", len(failed), len(list))
	for i, t := range failed {
		if i == maxTold {
			fmt.Fprintf(&b, "\n  and %d more", len(failed)-i)
			break
		}
		fmt.Fprintf(&b, "\n  index %d: %s%s", t.Index, Why(t), tail(t, lines))
	}
	return b.String()
}

// tail has the last lines of a task, indented.
func tail(t Task, lines int) string {
	if t.Output == "" || lines == 0 {
		return ""
	}
	all := strings.Split(strings.TrimSuffix(t.Output, "\n"), "\n")
	return "\n    | " + strings.Join(all[max(0, len(all)-lines):], "\n    | ")
}
