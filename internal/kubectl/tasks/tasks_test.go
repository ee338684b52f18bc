// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
)

func batch(replicas int32, status v1alpha1.BatchSandboxStatus) *v1alpha1.BatchSandbox {
	return &v1alpha1.BatchSandbox{
		Spec:   v1alpha1.BatchSandboxSpec{Replicas: &replicas, TaskTemplate: &v1alpha1.TaskTemplate{}},
		Status: status,
	}
}

func TestOf(t *testing.T) {
	failed := v1alpha1.FailedTask{Index: 1, Reason: "NonZeroExit", Message: "exit status 3", ExitCode: ptr.To(int32(3)), Tries: 2, Output: "oops"}
	cases := map[string]struct {
		sb   *v1alpha1.BatchSandbox
		want []Task
	}{
		"a batch without tasks has none": {&v1alpha1.BatchSandbox{}, nil},
		"a new batch's tasks are pending, and were not run": {
			batch(2, v1alpha1.BatchSandboxStatus{}),
			[]Task{{Index: 0, State: Pending}, {Index: 1, State: Pending}},
		},
		"ends are told one by one, and what is left runs": {
			batch(4, v1alpha1.BatchSandboxStatus{
				TaskRunning: 1, CompletedIndexes: "0", FailedIndexes: "1-2", FailedTasks: []v1alpha1.FailedTask{failed},
				FailedReasons: []v1alpha1.FailedReason{{Reason: "NonZeroExit", Indexes: "1"}, {Reason: "SandboxLost", Indexes: "2"}},
				TaskTries:     []v1alpha1.TaskTries{{Index: 1, Failed: 1}, {Index: 2, Lost: 3}},
			}),
			[]Task{
				{Index: 0, State: Succeeded, ExitCode: ptr.To(int32(0)), Tries: 1},
				{Index: 1, State: Failed, ExitCode: ptr.To(int32(3)), Reason: "NonZeroExit", Message: "exit status 3", Tries: 2, Output: "oops"},
				{Index: 2, State: Failed, Reason: "SandboxLost", Tries: 4},
				{Index: 3, State: Running, Tries: 1},
			},
		},
		"where some run and others wait, nobody knows which": {
			batch(2, v1alpha1.BatchSandboxStatus{TaskRunning: 1, TaskPending: 1}),
			[]Task{{Index: 0, State: Unfinished, Tries: 1}, {Index: 1, State: Unfinished, Tries: 1}},
		},
		"those that can't be asked about are unknown": {
			batch(1, v1alpha1.BatchSandboxStatus{TaskUnknown: 1}),
			[]Task{{Index: 0, State: Unknown, Tries: 1}},
		},
		"indexes beyond the replicas are left out": {
			batch(1, v1alpha1.BatchSandboxStatus{
				TaskRunning: 1, CompletedIndexes: "5", FailedIndexes: "6", FailedTasks: []v1alpha1.FailedTask{{Index: 6}}, TaskTries: []v1alpha1.TaskTries{{Index: 6, Lost: 1}},
			}),
			[]Task{{Index: 0, State: Running, Tries: 1}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Of(tc.sb)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	ok := Task{State: Succeeded}
	fail := func(code int32, reason string) Task { return Task{State: Failed, ExitCode: &code, Reason: reason} }
	cases := map[string]struct {
		tasks []Task
		want  int
	}{
		"all succeeded":            {[]Task{ok, ok}, 0},
		"none":                     {nil, 0},
		"some have not ended":      {[]Task{ok, {State: Running}}, 1},
		"the first failure counts": {[]Task{ok, fail(3, "NonZeroExit"), fail(4, "NonZeroExit")}, 3},
		"a failure counts before what has not ended": {[]Task{{State: Pending}, fail(4, "NonZeroExit")}, 4},
		"a signal":               {[]Task{fail(137, "NonZeroExit")}, 137},
		"no exit code":           {[]Task{{State: Failed, Reason: "SandboxLost"}}, 1},
		"an end that nobody saw": {[]Task{fail(-1, "ExecutorLost")}, 1},
		"a task that failed is no success, whatever 0": {[]Task{fail(0, "TimedOut")}, 1},
		"a code that no process can have":              {[]Task{fail(256, "NonZeroExit")}, 1},
		"the code of what was never started is none":   {[]Task{fail(128, "StartError")}, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := ExitCode(tc.tasks); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	one := Task{State: Failed, Reason: "NonZeroExit", ExitCode: ptr.To(int32(1)), Message: "exit status 1", Tries: 1, Output: "a\nb\nc\n"}
	many := make([]Task, 13)
	for i := range many {
		many[i] = Task{Index: i, State: Failed, Reason: "TimedOut", Tries: 2, ExitCode: ptr.To(int32(143)), Signal: 15, Message: "ran longer than 5s"}
	}
	many[0].State = Succeeded
	cases := map[string]struct {
		tasks []Task
		lines int
		want  string
	}{
		"none failed":                     {[]Task{{State: Succeeded}}, 3, ""},
		"one of one":                      {[]Task{one}, 0, "index 0 failed: NonZeroExit (exit code 1)"},
		"with its last lines":             {[]Task{one}, 2, "index 0 failed: NonZeroExit (exit code 1)\n    | b\n    | c"},
		"one that was not started":        {[]Task{{State: Failed, Reason: "StartError", ExitCode: ptr.To(int32(128)), Tries: 1, Message: "no such file"}}, 0, "index 0 failed: StartError: no such file"},
		"a reason that was not kept":      {[]Task{{State: Failed, Tries: 1}}, 0, "index 0 failed: for a reason that is not known any more"},
		"one of several":                  {[]Task{{State: Succeeded}, {Index: 1, State: Failed, Reason: "SandboxLost", Tries: 4}}, 0, "1 of 2 tasks failed:\n  index 1: SandboxLost (4 tries)"},
		"more than are told, ten of them": {many, 0, "12 of 13 tasks failed:" + tenTimes() + "\n  and 2 more"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Failures(tc.tasks, tc.lines)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func tenTimes() string {
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "\n  index %d: TimedOut (signal 15, 2 tries): ran longer than 5s", i+1)
	}
	return b.String()
}

func TestProgressAndHopeless(t *testing.T) {
	condition := func(kind, status, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: message}
	}
	allocated := condition("Allocated", "True", "Allocated", "every requested sandbox has a pod")
	waiting := condition("Allocated", "False", "WaitingForPool", "waiting for pods of Pool small")
	ready := condition("Ready", "True", "PodsReady", "every requested sandbox is Ready")
	noPool := condition("Allocated", "False", "PoolNotFound", "there is no Pool small")
	cases := map[string]struct {
		sb       *v1alpha1.BatchSandbox
		progress string
		hopeless string
	}{
		"nobody looked at it": {
			batch(1, v1alpha1.BatchSandboxStatus{}), "no controller has looked at it yet (does one run, and does it watch this namespace?)", "",
		},
		"it waits in the queue": {
			batch(3, v1alpha1.BatchSandboxStatus{
				Phase: "Pending", Replicas: 1, Conditions: []metav1.Condition{waiting}, Queue: &v1alpha1.QueueStatus{Position: 2, Waiting: 7},
			}),
			"waiting for pods of Pool small (1 of 3 are there) (place 2 in the queue, 7 sandboxes are wanted in all)", "",
		},
		"there is no pool": {
			batch(1, v1alpha1.BatchSandboxStatus{Phase: "Failed", Conditions: []metav1.Condition{noPool}}),
			"PoolNotFound: there is no Pool small", "PoolNotFound: there is no Pool small",
		},
		"there is no pool any more, and tasks run": {
			batch(2, v1alpha1.BatchSandboxStatus{Phase: "Failed", TaskRunning: 1, Conditions: []metav1.Condition{noPool}}),
			"PoolNotFound: there is no Pool small; tasks: 1 running", "",
		},
		"the status is of another spec": {
			batch(1, v1alpha1.BatchSandboxStatus{ObservedGeneration: 7, Phase: "Failed", Conditions: []metav1.Condition{noPool}}),
			"PoolNotFound: there is no Pool small", "",
		},
		"its pods start": {
			batch(2, v1alpha1.BatchSandboxStatus{Conditions: []metav1.Condition{allocated, condition("Ready", "False", "PodsNotReady", "0 of 2 sandboxes are Ready")}}),
			"0 of 2 sandboxes are Ready", "",
		},
		"its tasks start": {
			batch(2, v1alpha1.BatchSandboxStatus{Conditions: []metav1.Condition{allocated, ready}}), "tasks are being started", "",
		},
		"its tasks run, and one will run again": {
			batch(3, v1alpha1.BatchSandboxStatus{
				TaskRunning: 2, TaskSucceed: 1,
				Conditions: []metav1.Condition{allocated, ready, condition("TasksCompleted", "False", "TasksRunning", "not every task has ended; index 1 failed and is run again")},
			}),
			"tasks: 2 running, 1 succeeded; index 1 failed and is run again", "",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Progress(tc.sb); got != tc.progress {
				t.Errorf("progress %q, want %q", got, tc.progress)
			}
			if got := Hopeless(tc.sb); got != tc.hopeless {
				t.Errorf("hopeless %q, want %q", got, tc.hopeless)
			}
		})
	}
	going := batch(1, v1alpha1.BatchSandboxStatus{})
	going.DeletionTimestamp = &metav1.Time{}
	if got := Progress(going); got != "it is being deleted" {
		t.Errorf("of one that is deleted: %q", got)
	}
}
