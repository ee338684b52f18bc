// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// drawEnd is any end of a task that is not run again.
func drawEnd(t *rapid.T, label string) taskexecutor.Terminated {
	reason := rapid.SampledFrom([]string{
		taskexecutor.ReasonCompleted, taskexecutor.ReasonCompleted, taskexecutor.ReasonNonZeroExit, taskexecutor.ReasonTimedOut,
		taskexecutor.ReasonStartError, taskexecutor.ReasonCancelled, "Bored",
	}).Draw(t, label)
	end := taskexecutor.Terminated{Reason: reason, Output: label}
	if reason != taskexecutor.ReasonCompleted {
		end.ExitCode = 1
	}
	return end
}

// resultsOf is what a status says of tasks, whenever it was written.
func resultsOf(s *v1alpha1.BatchSandboxStatus) v1alpha1.BatchSandboxStatus {
	return v1alpha1.BatchSandboxStatus{
		TaskRunning: s.TaskRunning, TaskSucceed: s.TaskSucceed, TaskFailed: s.TaskFailed, TaskPending: s.TaskPending, TaskUnknown: s.TaskUnknown,
		CompletedIndexes: s.CompletedIndexes, FailedIndexes: s.FailedIndexes, FailedTasks: s.FailedTasks, FailedReasons: s.FailedReasons,
		Conditions: s.Conditions,
	}
}

// Whatever the order in which ends come in, however many of them a write takes up, and wherever the controller starts anew
// in between: the counters sum up in each status, and the last one is the same.
func TestTheOrderOfEndsDoesNotShowInTheResults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(rt, "tasks")
		ends := make([]taskexecutor.Terminated, n)
		for i := range ends {
			ends[i] = drawEnd(rt, fmt.Sprint("end ", i))
		}
		order := rapid.Permutation(indexesBelow(n)).Draw(rt, "order")
		clk := clocktesting.NewFakeClock(noon)
		l := makeLarge(t, clk, n, func(*v1alpha1.BatchSandbox) {})
		for _, index := range order {
			l.end(index, ends[index])
			if !rapid.Bool().Draw(rt, "a write follows") {
				continue
			}
			clk.Step(time.Second)
			l.reconcile()
			mustAddUp(rt, &l.sb.Status, n)
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				l.forgetEnded()
			}
		}
		clk.Step(time.Second)
		l.reconcile()
		mustAddUp(rt, &l.sb.Status, n)

		clk = clocktesting.NewFakeClock(noon)
		once := makeLarge(t, clk, n, func(*v1alpha1.BatchSandbox) {})
		for i := range ends {
			once.end(i, ends[i])
		}
		clk.Step(time.Second)
		once.reconcile()
		diff := cmp.Diff(resultsOf(&once.sb.Status), resultsOf(&l.sb.Status), cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime"))
		if diff != "" {
			rt.Fatalf("results in one write (-) and in several (+):\n%s", diff)
		}
	})
}

// forgetEnded is what a controller that starts anew doesn't know: the ends that are in the status, of which no executor is
// asked again.
func (l *large) forgetEnded() {
	for _, list := range []string{l.sb.Status.CompletedIndexes, l.sb.Status.FailedIndexes} {
		indexes, err := indexset.Parse(list)
		if err != nil {
			l.b.Fatal(err)
		}
		for _, index := range indexes {
			l.r.runner.Forget(l.sb.UID, index)
		}
	}
}

func indexesBelow(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// mustAddUp checks what any status of n tasks must hold.
func mustAddUp(t *rapid.T, s *v1alpha1.BatchSandboxStatus, n int) {
	t.Helper()
	if sum := s.TaskRunning + s.TaskSucceed + s.TaskFailed + s.TaskPending + s.TaskUnknown; int(sum) != n {
		t.Fatalf("the counters sum up to %d, want %d: %+v", sum, n, s)
	}
	completed, err := indexset.Parse(s.CompletedIndexes)
	if err != nil || len(completed) != int(s.TaskSucceed) {
		t.Fatalf("%d succeeded, but completedIndexes has %v (%v)", s.TaskSucceed, completed, err)
	}
	failed, err := indexset.Parse(s.FailedIndexes)
	if err != nil || len(failed) != int(s.TaskFailed) {
		t.Fatalf("%d failed, but failedIndexes has %v (%v)", s.TaskFailed, failed, err)
	}
	reasonOf := map[int]string{}
	for _, f := range s.FailedReasons {
		indexes, err := indexset.Parse(f.Indexes)
		if err != nil || len(indexes) == 0 {
			t.Fatalf("reason %+v (%v)", f, err)
		}
		for _, index := range indexes {
			reasonOf[index] = f.Reason
		}
	}
	if diff := cmp.Diff(failed, sortedIndexes(reasonOf), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("failedIndexes (-) and those of failedReasons (+):\n%s", diff)
	}
	for i, f := range s.FailedTasks {
		if int(f.Index) != failed[i] || f.Reason != reasonOf[failed[i]] || f.Output != fmt.Sprint("end ", f.Index) {
			t.Fatalf("failedTasks[%d] is %+v, want index %d with %s and its own output", i, f, failed[i], reasonOf[failed[i]])
		}
	}
	if want := min(len(failed), maxFailedTasks); len(s.FailedTasks) != want {
		t.Fatalf("%d failures are told, want the %d lowest", len(s.FailedTasks), want)
	}
}

// A list that somebody else wrote is no reason to fail or to count an index twice.
func TestReasonsThatMakeNoSenseAreNone(t *testing.T) {
	sb := makeBatch("b").Pool("p").Replicas(5).Task("true").Obj()
	sb.Status.CompletedIndexes, sb.Status.FailedIndexes = "0", "1-3"
	sb.Status.FailedTasks = []v1alpha1.FailedTask{{Index: 1, Reason: v1alpha1.TaskReasonTimedOut}}
	sb.Status.FailedReasons = []v1alpha1.FailedReason{
		{Reason: v1alpha1.TaskReasonStartError, Indexes: "0-2,4"}, // 0 succeeded, 1 is told of, 4 has not ended
		{Reason: v1alpha1.TaskReasonExecutorLost, Indexes: "2"},
		{Reason: v1alpha1.TaskReasonSandboxLost, Indexes: "3-"},
	}
	obs := &observed{sb: sb, now: noon, sandboxes: make([]sandbox, 5), ends: mergeEnds(sb, nil)}
	got := batchStatus(obs, plan{}, outcome{})
	want := []v1alpha1.FailedReason{{Reason: v1alpha1.TaskReasonStartError, Indexes: "2"}, {Reason: v1alpha1.TaskReasonTimedOut, Indexes: "1"}}
	if diff := cmp.Diff(want, got.FailedReasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	if got.FailedIndexes != "1-3" || got.TaskFailed != 3 || got.TaskPending != 1 {
		t.Errorf("status %+v", got)
	}
}
