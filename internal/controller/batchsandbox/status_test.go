// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func conditionsOf(s *v1alpha1.BatchSandboxStatus) map[string]string {
	all := map[string]string{}
	for _, c := range s.Conditions {
		all[c.Type] = string(c.Status) + "/" + c.Reason
	}
	return all
}

func TestBatchStatus(t *testing.T) {
	own := func() *wrappers.BatchWrapper { return makeBatch("b").Container("sandbox").Replicas(2) }
	pooled := func() *wrappers.BatchWrapper { return makeBatch("b").Pool("p").Replicas(2) }
	mistake := &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTask, "m"}
	noPool := &problem{v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolNotFound, "m"}
	bound := sandbox{podName: "c", node: "n"}
	cases := map[string]struct {
		obs        observed
		plan       plan
		out        outcome
		phase      v1alpha1.BatchSandboxPhase
		counts     [3]int32 // replicas, allocated, ready
		allocated  string
		ready      string
		wantQueued bool
	}{
		"all are usable": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{readySandbox("a"), readySandbox("b")}}, phase: v1alpha1.PhaseSucceed,
			counts: [3]int32{2, 2, 2}, allocated: "True/Allocated", ready: "True/PodsReady",
		},
		"pods made now are counted before the cache shows them": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{unseenSandbox("a"), unseenSandbox("b")}}, phase: v1alpha1.PhasePending,
			counts: [3]int32{2, 0, 0}, allocated: "True/Allocated", ready: "False/PodsNotReady",
		},
		"some pods are still to be made": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{unseenSandbox("a"), {}}}, phase: v1alpha1.PhasePending,
			counts: [3]int32{1, 0, 0}, allocated: "False/CreatingPods", ready: "False/PodsNotReady",
		},
		"a pod on a node counts as allocated, one without doesn't": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{startingSandbox("a"), bound}}, phase: v1alpha1.PhasePending,
			counts: [3]int32{2, 1, 0}, allocated: "True/Allocated", ready: "False/PodsNotReady",
		},
		"a lost sandbox is not held": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{readySandbox("a"), lostSandbox("b")}}, phase: v1alpha1.PhasePending,
			counts: [3]int32{1, 1, 1}, allocated: "False/CreatingPods", ready: "False/PodsNotReady",
		},
		"sandboxes above replicas are held and don't stand in for missing ones": {
			obs: observed{sb: own().Obj(), sandboxes: []sandbox{readySandbox("a"), {}, readySandbox("c")}}, phase: v1alpha1.PhasePending,
			counts: [3]int32{2, 2, 2}, allocated: "False/CreatingPods", ready: "False/PodsNotReady",
		},
		"a batch that waits for its pool": {
			obs: observed{sb: pooled().Obj(), sandboxes: make([]sandbox, 2)}, out: outcome{queue: &v1alpha1.QueueStatus{Position: 3, Waiting: 9}},
			phase: v1alpha1.PhasePending, allocated: "False/WaitingForPool", ready: "False/PodsNotReady", wantQueued: true,
		},
		"a mistake that concerns the allocation": {
			obs: observed{sb: pooled().Obj(), sandboxes: make([]sandbox, 2)}, plan: plan{problem: noPool},
			phase: v1alpha1.PhaseFailed, allocated: "False/PoolNotFound", ready: "False/PoolNotFound",
		},
		"a mistake in the task of a batch without sandboxes": {
			obs: observed{sb: pooled().Obj(), sandboxes: make([]sandbox, 2)}, plan: plan{problem: mistake},
			phase: v1alpha1.PhaseFailed, allocated: "False/InvalidTask", ready: "False/InvalidTask",
		},
		"a mistake doesn't take away what is allocated": {
			obs: observed{sb: pooled().Obj(), sandboxes: []sandbox{readySandbox("a"), readySandbox("b")}}, plan: plan{problem: mistake},
			phase: v1alpha1.PhaseFailed, counts: [3]int32{2, 2, 2}, allocated: "True/Allocated", ready: "False/InvalidTask",
		},
		"what the plan found goes before what the API server said": {
			obs: observed{sb: pooled().Obj(), sandboxes: make([]sandbox, 2)}, plan: plan{problem: noPool}, out: outcome{problem: mistake},
			phase: v1alpha1.PhaseFailed, allocated: "False/PoolNotFound", ready: "False/PoolNotFound",
		},
		"a batch of no replicas has all it wants": {
			obs: observed{sb: own().Replicas(0).Obj()}, phase: v1alpha1.PhaseSucceed, allocated: "True/Allocated", ready: "True/PodsReady",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, before := range []v1alpha1.BatchSandboxPhase{"", v1alpha1.PhaseFailed, v1alpha1.PhaseSucceed} {
				c.obs.sb.Status.Phase, c.obs.now = before, noon
				got := batchStatus(&c.obs, c.plan, c.out)
				if got.Phase != c.phase {
					t.Errorf("phase %s after %q, want %s", got.Phase, before, c.phase)
				}
				if counts := [3]int32{got.Replicas, got.Allocated, got.Ready}; counts != c.counts {
					t.Errorf("replicas, allocated, ready = %v, want %v", counts, c.counts)
				}
				want := map[string]string{v1alpha1.ConditionAllocated: c.allocated, v1alpha1.ConditionReady: c.ready}
				if diff := cmp.Diff(want, conditionsOf(got)); diff != "" {
					t.Errorf("conditions (-want +got):\n%s", diff)
				}
				if (got.Queue != nil) != c.wantQueued || got.ObservedGeneration != 1 ||
					got.Selector != "batch-sandbox.sandbox.opensandbox.io/name=b" {
					t.Errorf("status %+v", got)
				}
			}
		})
	}
}

func TestAConditionKeepsItsTimeWhileItsStatusIsTheSame(t *testing.T) {
	obs := &observed{sb: makeBatch("b").Container("sandbox").Obj(), sandboxes: []sandbox{readySandbox("a")}, now: noon}
	first := batchStatus(obs, plan{}, outcome{})
	obs.sb.Status, obs.now = *first, noon.Add(time.Hour)
	if diff := cmp.Diff(first, batchStatus(obs, plan{}, outcome{})); diff != "" {
		t.Errorf("an hour changes the status (-before +after):\n%s", diff)
	}
	obs.sandboxes[0].ready = false
	c := meta.FindStatusCondition(batchStatus(obs, plan{}, outcome{}).Conditions, v1alpha1.ConditionReady)
	if c.Status != metav1.ConditionFalse || !c.LastTransitionTime.Time.Equal(obs.now) {
		t.Errorf("condition %+v, want a change at %s", c, obs.now)
	}
}

func TestTasksCompleted(t *testing.T) {
	ok, failed := taskEnd{ok: true}, taskEnd{}
	failedFor := func(reason string) taskEnd { return taskEnd{failed: &v1alpha1.FailedTask{Reason: reason}} }
	cases := map[string]struct {
		ends  map[int]taskEnd
		tasks map[int]taskState
		want  string
		say   string
	}{
		"none has ended":  {nil, nil, "False/TasksRunning", "not every task has ended"},
		"some have ended": {map[int]taskEnd{0: ok}, nil, "False/TasksRunning", "not every task has ended"},
		"all succeeded":   {map[int]taskEnd{0: ok, 1: ok}, nil, "True/TasksSucceeded", "every task succeeded"},
		"one failed":      {map[int]taskEnd{0: ok, 1: failed}, nil, "True/TasksFailed", "1 of 2 tasks failed"},
		"one was not started": {map[int]taskEnd{0: ok, 1: failedFor(v1alpha1.TaskReasonStartError)}, nil, "True/TasksFailed",
			"1 of 2 tasks failed: 1 by the infrastructure (StartError)"},
		"one failed by itself, one with its sandbox": {
			map[int]taskEnd{0: failedFor(v1alpha1.TaskReasonNonZeroExit), 1: failedFor(v1alpha1.TaskReasonSandboxLost)}, nil, "True/TasksFailed",
			"2 of 2 tasks failed: 1 by themselves (NonZeroExit), 1 by the infrastructure (SandboxLost)"},
		"both failed by themselves, in two ways": {
			map[int]taskEnd{0: failedFor(v1alpha1.TaskReasonTimedOut), 1: failedFor(v1alpha1.TaskReasonNonZeroExit)}, nil, "True/TasksFailed",
			"2 of 2 tasks failed: 2 by themselves (1 NonZeroExit, 1 TimedOut)"},
		"of one nobody knows why": {map[int]taskEnd{0: failed, 1: {recorded: true, reason: v1alpha1.TaskReasonExecutorLost}}, nil, "True/TasksFailed",
			"2 of 2 tasks failed: 1 by the infrastructure (ExecutorLost), 1 for reasons that are not known any more"},
		"one can't be asked about": {nil, map[int]taskState{1: {phase: taskUnknown, err: silence(errors.New("no route to host"))}}, "False/TasksRunning",
			"not every task has ended; the task-executor of index 1 can't be reached: is there one in the pod, and is its port open?"},
		"one obeys another root": {
			nil, map[int]taskState{1: {phase: taskUnknown, err: silence(fmt.Errorf("set tasks: %w", &taskexecutor.StatusError{Status: 401}))}}, "False/TasksRunning",
			"not every task has ended; the task-executor of index 1 refuses the controller, whose root is not the one it got with its pod",
		},
		"ends above replicas don't count": {
			map[int]taskEnd{0: ok, 2: ok}, map[int]taskState{3: {phase: taskUnknown}}, "False/TasksRunning", "not every task has ended",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			obs := &observed{
				sb: makeBatch("b").Pool("p").Replicas(2).Task("true").Obj(), sandboxes: make([]sandbox, 2), ends: c.ends, tasks: c.tasks, now: noon,
			}
			got := batchStatus(obs, plan{}, outcome{})
			if reason := conditionsOf(got)[v1alpha1.ConditionTasksCompleted]; reason != c.want {
				t.Errorf("TasksCompleted is %s, want %s", reason, c.want)
			}
			message := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionTasksCompleted).Message
			if message != c.say {
				t.Errorf("message %q, want %q", message, c.say)
			}
		})
	}
}

func TestTheCountersOfTasksSumUpToTheirNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "replicas")
		obs := &observed{
			sb: makeBatch("b").Pool("p").Replicas(int32(n)).Task("true").Obj(), sandboxes: make([]sandbox, n), now: noon, //nolint:gosec // at most 30
			ends: map[int]taskEnd{}, tasks: map[int]taskState{},
		}
		obs.sb.Status.TaskRunning, obs.sb.Status.TaskFailed = 7, 7 // of a status written before
		for i := range n + 3 {
			switch rapid.IntRange(0, 3).Draw(t, fmt.Sprint("what is known of ", i)) {
			case 0:
				obs.ends[i] = taskEnd{ok: rapid.Bool().Draw(t, "ok"), failed: &v1alpha1.FailedTask{Index: int32(i)}} //nolint:gosec // at most 33
			case 1:
				obs.tasks[i] = taskState{phase: taskPhase(rapid.IntRange(int(taskPending), int(taskUnstoppable)).Draw(t, "phase"))}
			}
		}
		s := batchStatus(obs, plan{}, outcome{})
		if sum := s.TaskRunning + s.TaskSucceed + s.TaskFailed + s.TaskPending + s.TaskUnknown; int(sum) != n {
			t.Fatalf("the counters sum up to %d, want %d: %+v", sum, n, s)
		}
		if len(s.FailedTasks) > maxFailedTasks || len(s.FailedTasks) != min(int(s.TaskFailed), maxFailedTasks) {
			t.Fatalf("%d failures listed of %d", len(s.FailedTasks), s.TaskFailed)
		}
		for i := 1; i < len(s.FailedTasks); i++ {
			if s.FailedTasks[i-1].Index >= s.FailedTasks[i].Index {
				t.Fatalf("failures out of order: %v", s.FailedTasks)
			}
		}
		// What the status says is all that the next look needs.
		obs.sb.Status = *s
		again := recordedEnds(&obs.sb.Status)
		if len(again) != int(s.TaskSucceed+s.TaskFailed) {
			t.Fatalf("read back %d ends of %d", len(again), s.TaskSucceed+s.TaskFailed)
		}
	})
}

func TestWaitingIsCountedFromWhenTheBatchBeganToWait(t *testing.T) {
	created, lost, now := time.Unix(1000, 0), time.Unix(2000, 0), time.Unix(3000, 0)
	allocated := func(status metav1.ConditionStatus) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionAllocated, Status: status, LastTransitionTime: metav1.NewTime(lost)}}
	}
	cases := map[string]struct {
		conditions []metav1.Condition
		want       time.Time
	}{
		"a new batch waits since its creation":               {nil, created},
		"one that had all and now lacks some waits from now": {allocated(metav1.ConditionTrue), now},
		"one that lacks some waits since it was told so":     {allocated(metav1.ConditionFalse), lost},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := &v1alpha1.BatchSandbox{}
			sb.CreationTimestamp = metav1.NewTime(created)
			sb.Status.Conditions = c.conditions
			if got := (&observed{sb: sb, now: now}).waitingSince(); !got.Equal(c.want) {
				t.Errorf("waits since %s, want %s", got, c.want)
			}
		})
	}
}

func TestOnlyNumbersDiffer(t *testing.T) {
	base := v1alpha1.BatchSandboxStatus{
		Phase: v1alpha1.PhasePending, ObservedGeneration: 1, Ready: 1,
		Conditions: []metav1.Condition{{Type: "Ready", Status: "False", Reason: "PodsNotReady", Message: "1 of 3"}},
	}
	cases := map[string]struct {
		change func(*v1alpha1.BatchSandboxStatus)
		want   bool
	}{
		"more are ready":          {func(s *v1alpha1.BatchSandboxStatus) { s.Ready, s.Conditions[0].Message = 2, "2 of 3" }, true},
		"another phase":           {func(s *v1alpha1.BatchSandboxStatus) { s.Phase = v1alpha1.PhaseSucceed }, false},
		"another spec":            {func(s *v1alpha1.BatchSandboxStatus) { s.ObservedGeneration = 2 }, false},
		"another reason":          {func(s *v1alpha1.BatchSandboxStatus) { s.Conditions[0].Reason = "InvalidTemplate" }, false},
		"a condition turned":      {func(s *v1alpha1.BatchSandboxStatus) { s.Conditions[0].Status = "True" }, false},
		"it waits in a queue now": {func(s *v1alpha1.BatchSandboxStatus) { s.Queue = &v1alpha1.QueueStatus{} }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			after := base.DeepCopy()
			c.change(after)
			if got := sameButNumbers(&base, after); got != c.want {
				t.Errorf("same but numbers: %v, want %v", got, c.want)
			}
		})
	}
}
