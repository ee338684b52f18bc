// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func taskBatch(patches ...string) *wrappers.BatchWrapper {
	seconds := int64(30)
	return makeBatch("b").Pool("p").Replicas(3).Task("python", "-c").TaskSpec(func(s *v1alpha1.TaskSpec) {
		s.Process.Args = []string{"print()"}
		s.Process.Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}
		s.Process.WorkingDir = "/work"
		s.TimeoutSeconds = &seconds
	}).TaskPatches(patches...)
}

func TestDesiredTask(t *testing.T) {
	plain := func(change func(*taskexecutor.Process)) taskexecutor.Process {
		p := taskexecutor.Process{
			Command: []string{"python", "-c"}, Args: []string{"print()"}, WorkingDir: "/work", TimeoutSeconds: 30,
			Env: []taskexecutor.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
		}
		change(&p)
		return p
	}
	cases := map[string]struct {
		patches []string
		want    taskexecutor.Process
	}{
		"without a patch it is the template": {nil, plain(func(*taskexecutor.Process) {})},
		"an empty patch changes nothing":     {[]string{`{}`}, plain(func(*taskexecutor.Process) {})},
		"env merges by name": {
			[]string{`{"spec":{"process":{"env":[{"name":"B","value":"3"},{"name":"C","value":"4"}]}}}`},
			plain(func(p *taskexecutor.Process) {
				p.Env = []taskexecutor.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "3"}, {Name: "C", Value: "4"}}
			}),
		},
		"one of env can be removed": {
			[]string{`{"spec":{"process":{"env":[{"name":"A","$patch":"delete"}]}}}`},
			plain(func(p *taskexecutor.Process) { p.Env = []taskexecutor.EnvVar{{Name: "B", Value: "2"}} }),
		},
		"command and args replace": {
			[]string{`{"spec":{"process":{"command":["sh"],"args":[]}}}`},
			plain(func(p *taskexecutor.Process) { p.Command, p.Args = []string{"sh"}, []string{} }),
		},
		"timeoutSeconds is honoured": {
			[]string{`{"spec":{"timeoutSeconds":5}}`}, plain(func(p *taskexecutor.Process) { p.TimeoutSeconds = 5 }),
		},
		"timeoutSeconds can be removed": {
			[]string{`{"spec":{"timeoutSeconds":null}}`}, plain(func(p *taskexecutor.Process) { p.TimeoutSeconds = 0 }),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, _, problem := desiredTask(taskBatch(c.patches...).Obj(), 0, 2)
			if problem != nil {
				t.Fatal(problem.message)
			}
			if diff := cmp.Diff(c.want, got.Process); diff != "" {
				t.Errorf("process (-want +got):\n%s", diff)
			}
			if want := taskName("uid-b", 0, 2); got.Name != want {
				t.Errorf("name %s, want %s", got.Name, want)
			}
		})
	}
}

func TestATaskPatchIsForItsIndexAlone(t *testing.T) {
	sb := taskBatch(`{}`, `{"spec":{"timeoutSeconds":1}}`).Obj()
	for index, want := range map[int]int64{0: 30, 1: 1, 2: 30} {
		task, _, problem := desiredTask(sb, index, 1)
		if problem != nil {
			t.Fatal(problem.message)
		}
		if task.Process.TimeoutSeconds != want {
			t.Errorf("timeout of index %d is %d s, want %d", index, task.Process.TimeoutSeconds, want)
		}
	}
}

func TestDesiredTaskRefuses(t *testing.T) {
	cases := map[string]struct {
		batch *wrappers.BatchWrapper
		want  string // in the message
	}{
		"a task without a command":      {makeBatch("b").Task(), "command"},
		"an empty command":              {makeBatch("b").Task(""), "command"},
		"a patch that takes it away":    {taskBatch(`{"spec":{"process":{"command":null}}}`), "command"},
		"a patch that empties the spec": {taskBatch(`{"spec":null}`), "command"},
		"a patch that is no object":     {taskBatch(`["x"]`), "spec.shardTaskPatches[0] is no strategic merge patch"},
		"a patch that is broken":        {taskBatch(`{`), "spec.shardTaskPatches[0] is no strategic merge patch"},
		"a patch of another type":       {taskBatch(`{"spec":{"timeoutSeconds":"soon"}}`), "spec.shardTaskPatches[0] makes something that is no task"},
		"a timeout below 0":             {taskBatch(`{"spec":{"timeoutSeconds":-1}}`), "timeoutSeconds"},
		"a variable without a name":     {taskBatch(`{"spec":{"process":{"env":[{"name":"","value":"x"}]}}}`), "env"},
		"a variable from somewhere else": {
			taskBatch(`{"spec":{"process":{"env":[{"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}}}`), "takes S from a Secret",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			task, _, problem := desiredTask(c.batch.Obj(), 0, 1)
			if problem == nil {
				t.Fatalf("made %+v", task)
			}
			if problem.reason != v1alpha1.ReasonInvalidTask || !strings.Contains(problem.message, c.want) {
				t.Errorf("problem %+v, want InvalidTask with %q", *problem, c.want)
			}
		})
	}
}

func TestTryOf(t *testing.T) {
	status := &v1alpha1.BatchSandboxStatus{TaskTries: []v1alpha1.TaskTries{{Index: 1, Failed: 2, Lost: 3}}}
	for index, want := range map[int]int{0: 1, 1: 6, 2: 1} {
		if got := tryOf(status, index); got != want {
			t.Errorf("try of index %d is %d, want %d", index, got, want)
		}
	}
	setLostTries(status, 1, 4)
	setLostTries(status, 0, 1)
	want := []v1alpha1.TaskTries{{Index: 1, Failed: 2, Lost: 4}, {Index: 0, Lost: 1}}
	if diff := cmp.Diff(want, status.TaskTries); diff != "" {
		t.Errorf("tries (-want +got):\n%s", diff)
	}
}

func TestEndOf(t *testing.T) {
	code := func(n int32) *int32 { return &n }
	cases := map[string]struct {
		end  taskexecutor.Terminated
		want *v1alpha1.FailedTask // nil for a success
	}{
		"completed":                       {taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}, nil},
		"exit code 0 without a reason":    {taskexecutor.Terminated{}, nil},
		"exit code 3 without a reason":    {taskexecutor.Terminated{ExitCode: 3}, &v1alpha1.FailedTask{Reason: "NonZeroExit", ExitCode: code(3)}},
		"a signal":                        {taskexecutor.Terminated{ExitCode: 137, Signal: 9, Reason: "NonZeroExit"}, &v1alpha1.FailedTask{Reason: "NonZeroExit", ExitCode: code(137), Signal: 9}},
		"a timeout with exit code 0":      {taskexecutor.Terminated{Reason: "TimedOut"}, &v1alpha1.FailedTask{Reason: "TimedOut", ExitCode: code(0)}},
		"a start error has no exit code":  {taskexecutor.Terminated{ExitCode: 128, Reason: "StartError", Message: "no"}, &v1alpha1.FailedTask{Reason: "StartError", Message: "no"}},
		"an end that nobody saw has none": {taskexecutor.Terminated{ExitCode: -1, Reason: "ExecutorLost"}, &v1alpha1.FailedTask{Reason: "ExecutorLost"}},
		"a reason that is none of ours":   {taskexecutor.Terminated{ExitCode: 1, Reason: "Bored", Message: "m"}, &v1alpha1.FailedTask{Reason: "NonZeroExit", Message: "Bored: m", ExitCode: code(1)}},
		"such a reason without a message": {taskexecutor.Terminated{ExitCode: 1, Reason: "Bored"}, &v1alpha1.FailedTask{Reason: "NonZeroExit", Message: "Bored", ExitCode: code(1)}},
		"the last lines are kept":         {taskexecutor.Terminated{ExitCode: 1, Output: "boom"}, &v1alpha1.FailedTask{Reason: "NonZeroExit", ExitCode: code(1), Output: "boom"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := endOf(4, taskState{phase: taskEnded, try: 2, end: &c.end})
			if got.ok != (c.want == nil) || got.recorded {
				t.Errorf("ok %v, recorded %v", got.ok, got.recorded)
			}
			if c.want != nil {
				c.want.Index, c.want.Tries = 4, 2
			}
			if diff := cmp.Diff(c.want, got.failed); diff != "" {
				t.Errorf("failure (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeEnds(t *testing.T) {
	ended := taskState{phase: taskEnded, try: 1, end: &taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}}
	failedNow := taskState{phase: taskEnded, try: 1, end: &taskexecutor.Terminated{ExitCode: 1}}
	sb := makeBatch("b").Obj()
	sb.Status.CompletedIndexes, sb.Status.FailedIndexes = "0-1", "2,5"
	sb.Status.FailedTasks = []v1alpha1.FailedTask{{Index: 2, Reason: "TimedOut"}, {Index: 9, Reason: "of no failed index"}}
	got := mergeEnds(sb, map[int]taskState{
		0: failedNow, // an end is final once recorded
		3: ended, 4: {phase: taskRunning, try: 1}, 6: {phase: taskStopped}, 7: failedNow,
	})
	type end struct {
		OK, Recorded bool
		Reason       string
	}
	flat := map[int]end{}
	for i, e := range got {
		flat[i] = end{OK: e.ok, Recorded: e.recorded}
		if e.failed != nil {
			flat[i] = end{e.ok, e.recorded, e.failed.Reason}
		}
	}
	want := map[int]end{
		0: {OK: true, Recorded: true}, 1: {OK: true, Recorded: true}, 2: {Recorded: true, Reason: "TimedOut"}, 5: {Recorded: true},
		3: {OK: true}, 7: {Reason: "NonZeroExit"},
	}
	if diff := cmp.Diff(want, flat); diff != "" {
		t.Errorf("ends (-want +got):\n%s", diff)
	}
	sb.Status.CompletedIndexes, sb.Status.FailedIndexes = "x", "0-4294967295"
	if got := mergeEnds(sb, nil); len(got) != 0 {
		t.Errorf("ends %v of lists that can't be read", got)
	}
}
