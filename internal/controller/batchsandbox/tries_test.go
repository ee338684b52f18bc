// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func TestNextTry(t *testing.T) {
	for name, c := range map[string]struct {
		before tries
		reason string
		limit  int32
		want   tries
		wait   time.Duration
		again  bool
	}{
		"a failure without a backoffLimit is the end":        {tries{}, "NonZeroExit", 0, tries{}, 0, false},
		"the first failure is run again after a second":      {tries{}, "NonZeroExit", 2, tries{failed: 1}, time.Second, true},
		"the second after two":                               {tries{failed: 1}, "NonZeroExit", 2, tries{failed: 2}, 2 * time.Second, true},
		"the third is the end where backoffLimit is 2":       {tries{failed: 2}, "NonZeroExit", 2, tries{failed: 2}, 0, false},
		"a task that ran too long is run again":              {tries{}, "TimedOut", 1, tries{failed: 1}, time.Second, true},
		"a lost sandbox costs nothing of backoffLimit":       {tries{}, "SandboxLost", 0, tries{lost: 1}, 0, true},
		"nor does a lost executor":                           {tries{failed: 1}, "ExecutorLost", 1, tries{failed: 1, lost: 1}, 0, true},
		"the third loss is run again":                        {tries{lost: 2}, "SandboxLost", 0, tries{lost: 3}, 0, true},
		"the fourth is the end":                              {tries{lost: 3}, "SandboxLost", 9, tries{lost: 3}, 0, false},
		"both kinds of loss count together":                  {tries{lost: 3}, "ExecutorLost", 9, tries{lost: 3}, 0, false},
		"losses leave the failures their tries":              {tries{lost: 3}, "NonZeroExit", 1, tries{failed: 1, lost: 3}, time.Second, true},
		"the wait grows with the failures alone":             {tries{failed: 2, lost: 3}, "NonZeroExit", 9, tries{failed: 3, lost: 3}, 4 * time.Second, true},
		"the wait grows to five minutes":                     {tries{failed: 9}, "NonZeroExit", 99, tries{failed: 10}, 5 * time.Minute, true},
		"and stays there":                                    {tries{failed: math.MaxInt32 - 1}, "NonZeroExit", math.MaxInt32, tries{failed: math.MaxInt32}, 5 * time.Minute, true},
		"a task that can't be started is not tried again":    {tries{}, "StartError", 9, tries{}, 0, false},
		"nor is one that somebody cancelled":                 {tries{}, "Cancelled", 9, tries{}, 0, false},
		"nor one that ended for a reason which nobody knows": {tries{}, "Whatever", 9, tries{}, 0, false},
		"more failures than backoffLimit allows are the end": {tries{failed: 5}, "NonZeroExit", 2, tries{failed: 5}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, wait, again := nextTry(c.before, c.reason, c.limit)
			if got != c.want || wait != c.wait || again != c.again {
				t.Errorf("%+v after %s, again %t; want %+v after %s, again %t", got, wait, again, c.want, c.wait, c.again)
			}
		})
	}
}

// However the tries of a task end, their numbers grow by one, there are at most 1 + backoffLimit + MaxLostTries, and
// each kind keeps to its own bound.
func TestTheTriesOfATaskAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int32Range(0, 5).Draw(t, "backoffLimit")
		reasons := []string{"NonZeroExit", "TimedOut", "SandboxLost", "ExecutorLost"}
		used, ran := tries{}, 1
		for again := true; again; {
			before := used
			var wait time.Duration
			used, wait, again = nextTry(used, rapid.SampledFrom(reasons).Draw(t, "reason"), limit)
			switch {
			case !again && used != before:
				t.Fatalf("an end changes %+v to %+v", before, used)
			case again && used.number() != before.number()+1:
				t.Fatalf("try %d follows try %d", used.number(), before.number())
			case again && (wait > 0) != (used.failed > before.failed):
				t.Fatalf("a wait of %s from %+v to %+v", wait, before, used)
			case used.failed > limit || used.lost > v1alpha1.MaxLostTries:
				t.Fatalf("%+v with a backoffLimit of %d", used, limit)
			case again:
				ran++
			}
			status := &v1alpha1.BatchSandboxStatus{}
			if used != (tries{}) {
				addTries(status, map[int]tries{4: used})
			}
			if got := allTries(status)[4]; got != used {
				t.Fatalf("%+v is read back as %+v", used, got)
			}
		}
		if ran != used.number() || ran > 1+int(limit)+v1alpha1.MaxLostTries {
			t.Fatalf("%d tries, the last of them number %d, with a backoffLimit of %d", ran, used.number(), limit)
		}
	})
}

func TestTriesInTheStatus(t *testing.T) {
	status := &v1alpha1.BatchSandboxStatus{TaskTries: []v1alpha1.TaskTries{{Index: 5, Failed: -1, Lost: math.MinInt32}, {Index: 1, Failed: 2, Lost: 3}}}
	for index, want := range map[int]int{0: 1, 1: 6, 2: 1, 5: 1} {
		if got := allTries(status)[index].number(); got != want {
			t.Errorf("try of index %d is %d, want %d", index, got, want)
		}
	}
	addTries(status, map[int]tries{3: {failed: 1}, 1: {failed: 2, lost: 4}, 0: {lost: 1}})
	want := []v1alpha1.TaskTries{{Index: 0, Lost: 1}, {Index: 1, Failed: 2, Lost: 4}, {Index: 3, Failed: 1}, {Index: 5}}
	if diff := cmp.Diff(want, status.TaskTries); diff != "" {
		t.Errorf("tries (-want +got):\n%s", diff)
	}
	status.TaskTries[0] = v1alpha1.TaskTries{Failed: math.MaxInt32, Lost: math.MaxInt32}
	if got := allTries(status)[0].number(); got <= 0 {
		t.Errorf("try %d", got)
	}
}

func TestJudgeTries(t *testing.T) {
	endedAs := func(try int, reason string) taskState {
		return taskState{phase: taskEnded, try: try, end: &taskexecutor.Terminated{ExitCode: 1, Reason: reason}}
	}
	used := func(failed, lost int32) []v1alpha1.TaskTries {
		return []v1alpha1.TaskTries{{Failed: failed, Lost: lost}}
	}
	given := lostSandbox("p")
	given.givenBack = true
	for name, c := range map[string]struct {
		sandbox  sandbox
		task     taskState
		tries    []v1alpha1.TaskTries
		recorded bool
		pending  retryMemory
		want     string
	}{
		"a task that runs goes on":                               {sandbox: readySandbox("p"), task: taskState{phase: taskRunning, try: 1}},
		"one that succeeded has ended":                           {sandbox: readySandbox("p"), task: endedAs(1, "Completed"), want: "succeeded"},
		"one that failed is run again":                           {sandbox: readySandbox("p"), task: endedAs(1, "NonZeroExit"), want: "try 2 (1 failed, 0 lost) in 1s"},
		"one that has used its tries up has failed":              {sandbox: readySandbox("p"), task: endedAs(3, "NonZeroExit"), tries: used(2, 0), want: "NonZeroExit at try 3"},
		"one whose end stands in the status is over":             {sandbox: readySandbox("p"), task: endedAs(1, "NonZeroExit"), recorded: true, want: "recorded"},
		"the end of a try before this one is past":               {sandbox: readySandbox("p"), task: endedAs(1, "NonZeroExit"), tries: used(1, 0)},
		"so is a success of it":                                  {sandbox: readySandbox("p"), task: endedAs(1, "Completed"), tries: used(0, 1)},
		"one that lost its executor is run again at once":        {sandbox: readySandbox("p"), task: endedAs(1, "ExecutorLost"), want: "try 2 (0 failed, 1 lost) in 0s"},
		"one that lost its sandbox is run again at once":         {sandbox: lostSandbox("p"), task: taskState{phase: taskRunning, try: 1}, want: "try 2 (0 failed, 1 lost) in 0s, lost with p"},
		"so is one whose sandbox is gone":                        {sandbox: goneSandbox("p"), task: taskState{phase: taskRunning, try: 1}, want: "try 2 (0 failed, 1 lost) in 0s, lost with p"},
		"and one whose pod vanished":                             {task: taskState{phase: taskRunning, try: 1}, want: "try 2 (0 failed, 1 lost) in 0s"},
		"one that another controller may have run is lost":       {sandbox: lostSandbox("p"), want: "try 2 (0 failed, 1 lost) in 0s, lost with p"},
		"an index that never had a sandbox lost nothing":         {},
		"one whose task was stopped before lost nothing":         {task: taskState{phase: taskStopped}},
		"one that an older controller gave back lost nothing":    {sandbox: given},
		"an end that was seen counts, not that the sandbox went": {sandbox: lostSandbox("p"), task: endedAs(1, "NonZeroExit"), want: "try 2 (1 failed, 0 lost) in 1s, lost with p"},
		"the fourth loss is the end":                             {sandbox: lostSandbox("p"), tries: used(0, 3), want: "SandboxLost at try 4"},
		"a try that was not begun goes on in another sandbox": {
			sandbox: lostSandbox("p"), task: endedAs(1, "NonZeroExit"), tries: used(1, 0),
			pending: retryMemory{0: {before: tries{failed: 1}, notBefore: noon.Add(time.Minute)}}, want: "try 2 (1 failed, 0 lost) in 1m0s",
		},
		"one that was decided on and may not be written yet stays": {
			sandbox: lostSandbox("p"), task: endedAs(1, "NonZeroExit"),
			pending: retryMemory{0: {before: tries{failed: 1}, notBefore: noon.Add(time.Second)}}, want: "try 2 (1 failed, 0 lost) in 1s",
		},
		"a loss that another controller has counted counts once": {
			sandbox: lostSandbox("p"), tries: []v1alpha1.TaskTries{{Lost: 1, LostWith: "p"}},
		},
		"the loss of another sandbox counts after it": {
			sandbox: lostSandbox("q"), tries: []v1alpha1.TaskTries{{Lost: 1, LostWith: "p"}}, want: "try 3 (0 failed, 2 lost) in 0s, lost with q",
		},
		"a try that runs in the sandbox that was lost before is lost with it": {
			sandbox: lostSandbox("p"), tries: used(0, 1), task: taskState{phase: taskRunning, try: 2}, want: "try 3 (0 failed, 2 lost) in 0s, lost with p",
		},
		"a sandbox that is back is noted before the try begins there": {
			sandbox: readySandbox("p"), tries: []v1alpha1.TaskTries{{Lost: 1, LostWith: "p"}}, want: "try 2 (0 failed, 1 lost) in 0s",
		},
		"so it is by the controller that counted": {
			sandbox: readySandbox("p"), tries: []v1alpha1.TaskTries{{Lost: 1, LostWith: "p"}},
			pending: retryMemory{0: {before: tries{lost: 1, lostWith: "p"}, notBefore: noon}}, want: "try 2 (0 failed, 1 lost) in 0s",
		},
		"one that is past in the status is forgotten": {
			sandbox: readySandbox("p"), task: taskState{phase: taskRunning, try: 3}, tries: used(1, 1), pending: retryMemory{0: {before: tries{failed: 1}}},
		},
		"one of a task that has ended is forgotten": {
			sandbox: readySandbox("p"), recorded: true, pending: retryMemory{0: {before: tries{failed: 1}}}, want: "recorded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			limit := int32(2)
			sb := makeBatch("b").Pool("p").Task("true").TaskSpec(func(s *v1alpha1.TaskSpec) { s.BackoffLimit = &limit }).Obj()
			sb.Status.TaskTries = c.tries
			obs := &observed{
				sb: sb, now: noon, sandboxes: []sandbox{c.sandbox}, tasks: map[int]taskState{0: c.task}, ends: map[int]taskEnd{},
			}
			if c.recorded {
				obs.ends[0] = taskEnd{recorded: true}
			}
			pending := maps.Clone(c.pending)
			if pending == nil {
				pending = retryMemory{}
			}
			judgeTries(obs, pending)
			if got := judgement(obs); got != c.want {
				t.Errorf("judged %q, want %q", got, c.want)
			}
		})
	}
}

// judgement says what becomes of index 0.
func judgement(obs *observed) string {
	end, ended := obs.ends[0]
	next, again := obs.retries[0]
	switch {
	case ended && again:
		return "both an end and another try"
	case end.recorded:
		return "recorded"
	case end.ok:
		return "succeeded"
	case ended:
		return fmt.Sprintf("%s at try %d", end.failed.Reason, end.failed.Tries)
	case again:
		how := fmt.Sprintf("try %d (%d failed, %d lost) in %s", next.number(), next.before.failed, next.before.lost, next.notBefore.Sub(obs.now))
		if next.before.lostWith != "" {
			how += ", lost with " + next.before.lostWith
		}
		return how
	default:
		return ""
	}
}

func TestWhyAgain(t *testing.T) {
	code := int32(1)
	for want, c := range map[string]struct {
		f     v1alpha1.FailedTask
		after tries
	}{
		"index 3 failed with exit code 1, try 2 of 4 follows after 4s":         {v1alpha1.FailedTask{Index: 3, Reason: "NonZeroExit", ExitCode: &code}, tries{failed: 1}},
		"index 3 was ended by signal 9, try 3 of 5 follows after 4s":           {v1alpha1.FailedTask{Index: 3, Reason: "NonZeroExit", ExitCode: &code, Signal: 9}, tries{failed: 1, lost: 1}},
		"index 3 ran too long, try 2 of 4 follows after 4s":                    {v1alpha1.FailedTask{Index: 3, Reason: "TimedOut"}, tries{failed: 1}},
		"index 3 lost its sandbox (1 of at most 3 times), try 3 follows":       {v1alpha1.FailedTask{Index: 3, Reason: "SandboxLost"}, tries{failed: 1, lost: 1}},
		"index 3 lost its task-executor (3 of at most 3 times), try 4 follows": {v1alpha1.FailedTask{Index: 3, Reason: "ExecutorLost"}, tries{lost: 3}},
	} {
		if got := whyAgain(&c.f, c.after, 4*time.Second, 3); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

var failed1 = endedWith(taskexecutor.Terminated{ExitCode: 1, Reason: taskexecutor.ReasonNonZeroExit})

// ran are the names of the tasks that an executor was told to run, in order, as numbers of tries of index 0.
func (w *world) ran(ip string) string {
	var names []string
	for _, set := range w.executor(ip).told() {
		for _, task := range set {
			if name := strings.TrimPrefix(task.Name, "uid-b-0-"); len(names) == 0 || names[len(names)-1] != name {
				names = append(names, name)
			}
		}
	}
	return strings.Join(names, " ")
}

func (w *world) wantRan(ip, want string) {
	w.t.Helper()
	if got := w.ran(ip); got != want {
		w.t.Errorf("the executor at %s was told to run the tries %q, want %q", ip, got, want)
	}
}

func (w *world) wantTries(want ...v1alpha1.TaskTries) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.batch().Status.TaskTries); diff != "" {
		w.t.Errorf("tries (-want +got):\n%s", diff)
	}
}

// tasksMessage is that of the condition TasksCompleted.
func (w *world) tasksMessage() string {
	w.t.Helper()
	return meta.FindStatusCondition(w.batch().Status.Conditions, v1alpha1.ConditionTasksCompleted).Message
}

// goesOn reconciles for so long, whenever the batch asks for it.
func (w *world) goesOn(d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); ; {
		again := w.reconcile().RequeueAfter
		left := time.Until(end)
		if left <= 0 {
			return
		}
		if again == 0 || again > left {
			again = left
		}
		time.Sleep(again)
	}
}

func retriedBatch(limit int32) *v1alpha1.BatchSandbox {
	return pooledBatch(1).Task("true").TaskSpec(func(s *v1alpha1.TaskSpec) { s.BackoffLimit = &limit }).Obj()
}

func TestAFailedTaskIsRunAgainAfterItsWaitInTheSameSandbox(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(retriedBatch(2))
		w.settled()
		executor := w.executor("10.0.0.10")
		executor.becomes(failed1)
		w.goesOn(900 * time.Millisecond)
		w.wantTries(v1alpha1.TaskTries{Failed: 1})
		w.wantRan("10.0.0.10", "1")
		if s := w.batch().Status; s.TaskPending != 1 || taskSum(s) != 1 || s.FailedIndexes != "" {
			t.Errorf("status %+v, want it pending", s)
		}
		w.wantCondition(v1alpha1.ConditionTasksCompleted, "False/TasksRunning")
		if got, want := w.tasksMessage(), "not every task has ended; index 0 failed with exit code 1, try 2 of 3 follows after 1s"; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		w.takeWrites()
		w.goesOn(50 * time.Millisecond)
		if writes := w.takeWrites(); len(writes) > 0 {
			t.Errorf("writes %v while nothing changes", writes)
		}
		w.goesOn(100 * time.Millisecond)
		w.wantRan("10.0.0.10", "1 2")
		executor.becomes(failed1)
		w.goesOn(1900 * time.Millisecond)
		w.wantRan("10.0.0.10", "1 2")
		w.wantTries(v1alpha1.TaskTries{Failed: 2})
		w.goesOn(200 * time.Millisecond)
		w.wantRan("10.0.0.10", "1 2 3")
		executor.becomes(failed1)
		w.goesOn(time.Minute)
		w.wantRan("10.0.0.10", "1 2 3")
		code := int32(1)
		want := []v1alpha1.FailedTask{{Reason: "NonZeroExit", ExitCode: &code, Tries: 3}}
		if diff := cmp.Diff(want, w.batch().Status.FailedTasks); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
		w.wantCondition(v1alpha1.ConditionTasksCompleted, "True/TasksFailed")
		if sets := executor.told(); len(sets) != 5 || len(sets[1]) != 0 || len(sets[3]) != 0 {
			t.Errorf("told %v, want that each try is cleared away before the next", sets)
		}
	})
}

func taskSum(s v1alpha1.BatchSandboxStatus) int32 {
	return s.TaskRunning + s.TaskSucceed + s.TaskFailed + s.TaskPending + s.TaskUnknown
}

func TestALostExecutorCostsNoneOfBackoffLimitAndTheFourthIsTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(retriedBatch(0))
		w.settled()
		lost := endedWith(taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonExecutorLost})
		for range 4 {
			w.executor("10.0.0.10").becomes(lost)
			w.goesOn(time.Second)
		}
		w.wantRan("10.0.0.10", "1 2 3 4")
		w.wantTries(v1alpha1.TaskTries{Lost: 3})
		want := []v1alpha1.FailedTask{{Reason: "ExecutorLost", Tries: 4}}
		if diff := cmp.Diff(want, w.batch().Status.FailedTasks); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
	})
}

// Under Retain the batch still wants its sandbox, under Release it doesn't.
func TestAnIndexThatLostAllItsTriesHasFailedAndItsSandboxIsReplacedUnderRetainAlone(t *testing.T) {
	for _, release := range []bool{false, true} {
		t.Run(fmt.Sprint("Release ", release), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 5)
				b := pooledBatch(1).Task("true")
				if release {
					b.Releases()
				}
				w.create(b.Obj())
				w.settled()
				for i := range 4 {
					w.executor(fmt.Sprintf("10.0.0.%d", 10+i)).becomes(running)
					w.setPods(failedStatus, fmt.Sprintf("p-%d", i))
					w.goesOn(time.Second)
				}
				w.wantTries(v1alpha1.TaskTries{Lost: 3, LostWith: "p-2"})
				want := []v1alpha1.FailedTask{{Reason: "SandboxLost", Message: "the sandbox was lost: failed", Tries: 4}}
				if diff := cmp.Diff(want, w.batch().Status.FailedTasks); diff != "" {
					t.Errorf("failures (-want +got):\n%s", diff)
				}
				for i, try := range []string{"1", "2", "3", "4", ""} {
					w.wantRan(fmt.Sprintf("10.0.0.%d", 10+i), try)
				}
				pods := `{"pods":["p-4"]}`
				if release {
					pods = `{"pods":[""]}`
				}
				w.wantAnnotation(v1alpha1.AllocStatusAnnotation, pods)
				w.wantCondition(v1alpha1.ConditionTasksCompleted, "True/TasksFailed")
			})
		})
	}
}

func TestATryThatWaitsIsNotLostWithItsSandbox(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(retriedBatch(1))
		w.settled()
		w.executor("10.0.0.10").becomes(failed1)
		w.goesOn(500 * time.Millisecond)
		w.setPods(failedStatus, "p-0")
		w.goesOn(400 * time.Millisecond)
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		w.wantRan("10.0.0.11", "")
		w.goesOn(time.Second)
		w.wantTries(v1alpha1.TaskTries{Failed: 1})
		w.wantRan("10.0.0.11", "2")
	})
}

// dies ends the controller, and starts another one that finds what that one left.
func (w *world) dies() {
	w.t.Helper()
	w.runner.ForgetBatch("uid-b")
	w.startAgain()
}

// A controller that starts while a try waits asks the executor whether it was begun.
func TestAfterARestartATryThatWaitsBeginsItsWaitAnewAndOneThatRunsIsFollowed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(retriedBatch(3))
		w.settled()
		w.executor("10.0.0.10").becomes(failed1)
		w.goesOn(500 * time.Millisecond)
		w.dies()
		w.goesOn(900 * time.Millisecond)
		w.wantRan("10.0.0.10", "1")
		w.goesOn(200 * time.Millisecond)
		w.wantRan("10.0.0.10", "1 2")
		w.executor("10.0.0.10").becomes(running)
		w.goesOn(time.Second)
		w.dies()
		w.goesOn(time.Second)
		w.goesOn(time.Second) // nothing wakes the batch here when the executor has answered
		if s := w.batch().Status; s.TaskRunning != 1 {
			t.Errorf("status %+v, want it to run", s)
		}
		w.executor("10.0.0.10").becomes(completed)
		w.goesOn(100 * time.Millisecond)
		w.wantRan("10.0.0.10", "1 2")
		w.wantCondition(v1alpha1.ConditionTasksCompleted, "True/TasksSucceeded")
	})
}

// A controller that counts a loss and dies leaves the next one a batch that still names the lost pod.
func TestALossThatWasCountedCountsOnceThoughTheControllerDies(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.setPods(failedStatus, "p-0")
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error { return errors.New("dead") }
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the replacement can't be written, and that is no error")
		}
		w.onPatch = nil
		w.dies()
		w.goesOn(time.Second)
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		w.wantTries(v1alpha1.TaskTries{Lost: 1, LostWith: "p-0"})
		w.wantRan("10.0.0.11", "2")
	})
}

// The end of the last try stands in the status before the batch names another pod: after a crash in between the try would be
// run again there.
func TestAnEndIsWrittenBeforeItsSandboxIsReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.executor("10.0.0.10").becomes(completed)
		w.setPods(failedStatus, "p-0")
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if done := w.batch().Status.CompletedIndexes; done != "0" {
				t.Errorf("the replacement is written while the status has the ends %q", done)
			}
			return c.Patch(ctx, obj, p)
		}
		w.goesOn(time.Second)
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		w.wantRan("10.0.0.11", "")
	})
}

// A batch without pool has nothing but its endpoints to tell a new controller that a pod which is gone had a task.
func TestATaskWhosePodVanishedWhileNoControllerRanHasLostATry(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").UID("uid-b").Container("sandbox").Task("true").Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.10") }, "b-0")
		w.goesOn(time.Second)
		w.wantRan("10.0.0.10", "1")
		w.removePod("b-0")
		w.dies()
		w.goesOn(time.Second)
		w.wantTries(v1alpha1.TaskTries{Lost: 1, LostWith: "10.0.0.10"})
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.10") }, w.podNames())
		w.goesOn(time.Second)
		w.wantRan("10.0.0.10", "1 2")
		w.wantTries(v1alpha1.TaskTries{Lost: 1}) // the address is in use again
	})
}

// Addresses are told at most every 250 ms; until then nothing durable would tell that the task was begun.
func TestATaskOfABatchWithoutPoolIsDispatchedWhenItsAddressIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").UID("uid-b").Container("sandbox").Replicas(3).Task("true").Obj())
		w.settled()
		time.Sleep(time.Second)
		for i, ip := range []string{"10.0.0.10", "10.0.0.11"} {
			w.setPods(func(int) corev1.PodStatus { return readyStatus(ip) }, fmt.Sprintf("b-%d", i))
			w.reconcile()
			if n, want := w.executor(ip).setCount(), 1-i; n != want {
				t.Errorf("the executor at %s was told %d times what to run, want %d", ip, n, want)
			}
		}
		w.goesOn(pace)
		if n := w.executor("10.0.0.11").setCount(); n != 1 {
			t.Errorf("the second executor was told %d times what to run once its address is told", n)
		}
	})
}

func TestAPodThatNeverHadAnAddressHasLostNoTry(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").UID("uid-b").Container("sandbox").Task("true").Obj())
		for range 6 {
			w.settled()
			w.setPods(failedStatus, w.podNames())
			w.goesOn(time.Minute)
		}
		w.wantTries()
	})
}

// A try that is stopped because replicas are lowered is over: where they are raised again the index begins another one.
func TestAnIndexThatIsAskedForAgainRunsAnotherTry(t *testing.T) {
	scale := func(w *world, n int32) {
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas = &n })
	}
	for name, c := range map[string]struct {
		ends bool // before replicas are lowered
		soon bool // raised again before the sandbox is given back
		dies bool // the controller, while the task is stopped
		want int32
	}{
		"after it was given back while its task ran":                {want: 1},
		"after it was given back when its task had ended":           {ends: true, want: 1},
		"before it was given back":                                  {soon: true, want: 1},
		"before it was given back, by another controller":           {soon: true, dies: true, want: 1},
		"after another controller had given it back (counts twice)": {dies: true, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				w.create(pooledBatch(1).Task("true").Obj())
				w.settled()
				executor := w.executor("10.0.0.10")
				executor.becomes(running)
				if c.ends {
					executor.becomes(completed)
				}
				w.goesOn(time.Second)
				executor.keeps = true
				scale(w, 0)
				w.goesOn(time.Second)
				if c.dies {
					w.dies()
				}
				if !c.soon {
					w.goesOn(time.Second)
					executor.change(func() { executor.tasks, executor.keeps = nil, false })
					w.goesOn(time.Second)
					w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":[]}`)
				}
				scale(w, 1)
				executor.change(func() { executor.tasks, executor.keeps = nil, false })
				w.goesOn(5 * time.Second)
				w.wantTries(v1alpha1.TaskTries{Withdrawn: c.want})
				again := fmt.Sprint(1 + c.want)
				if got := strings.TrimPrefix(w.ran("10.0.0.10"), "1") + w.ran("10.0.0.11"); strings.TrimSpace(got) != again {
					t.Errorf("then it ran the tries %q, want %s", got, again)
				}
				if s := w.batch().Status; s.CompletedIndexes != "" || s.TaskPending != 1 {
					t.Errorf("status %+v, want it to be run", s)
				}
			})
		})
	}
}

// The status has the try before it is run, and the end of the last before its sandbox is named no more.
func TestNothingIsDispatchedBeforeTheTryIsWritten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(retriedBatch(1))
		w.settled()
		w.executor("10.0.0.10").becomes(failed1)
		w.onStatus = func() error { return fmt.Errorf("down") }
		for range 5 {
			if _, err := w.tryReconcile(); err == nil {
				t.Error("a status that can't be written is no error")
			}
			time.Sleep(time.Second)
		}
		w.wantRan("10.0.0.10", "1")
		w.onStatus = nil
		w.goesOn(time.Second)
		w.wantRan("10.0.0.10", "1 2")
		w.wantTries(v1alpha1.TaskTries{Failed: 1})
	})
}

func TestTriesOfOneIndexDoNotConcernTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Task("true").TaskPatches(`{"spec":{"backoffLimit":1}}`, `{}`).Obj())
		w.settled()
		w.executor("10.0.0.10").becomes(failed1)
		w.executor("10.0.0.11").becomes(failed1)
		w.goesOn(500 * time.Millisecond)
		s := w.batch().Status
		if s.FailedIndexes != "1" || s.TaskPending != 1 {
			t.Errorf("status %+v, want 1 failed and 0 to be run again", s)
		}
		w.wantTries(v1alpha1.TaskTries{Failed: 1})
	})
}

func TestWhatABatchDoesWhileATryWaits(t *testing.T) {
	waits := func(w *world, b *v1alpha1.BatchSandbox) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(b)
		w.settled()
		w.executor("10.0.0.10").becomes(failed1)
		w.goesOn(100 * time.Millisecond)
		w.wantTries(v1alpha1.TaskTries{Failed: 1})
	}
	t.Run("under Release its sandbox stays until the last try has ended", func(t *testing.T) {
		inWorld(t, func(w *world) {
			limit := int32(1)
			waits(w, pooledBatch(1).Task("true").Releases().TaskSpec(func(s *v1alpha1.TaskSpec) { s.BackoffLimit = &limit }).Obj())
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
			w.goesOn(time.Second)
			w.executor("10.0.0.10").becomes(failed1)
			w.goesOn(time.Second)
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":[""]}`)
		})
	})
	t.Run("its time to live doesn't begin", func(t *testing.T) {
		inWorld(t, func(w *world) {
			b := retriedBatch(1)
			b.Spec.TTLSecondsAfterFinished = new(int32)
			waits(w, b)
			w.goesOn(800 * time.Millisecond)
			if w.gone() {
				t.Fatal("it is deleted while a try waits")
			}
			w.goesOn(200 * time.Millisecond)
			w.executor("10.0.0.10").becomes(completed)
			for range 10 {
				w.reconcile()
			}
			if !w.gone() && w.batch().DeletionTimestamp == nil {
				t.Error("it is not deleted")
			}
		})
	})
	t.Run("when its time is over it goes, and the try is never run", func(t *testing.T) {
		inWorld(t, func(w *world) {
			b := retriedBatch(1)
			b.Spec.ExpireTime = nil
			waits(w, b)
			w.remove()
			for range 5 {
				w.reconcile()
				time.Sleep(time.Second)
			}
			if !w.gone() {
				t.Error("it doesn't go")
			}
			w.wantRan("10.0.0.10", "1")
		})
	})
	t.Run("scaled down, its sandbox goes and the try is never run", func(t *testing.T) {
		inWorld(t, func(w *world) {
			waits(w, retriedBatch(1))
			w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas = new(int32) })
			w.goesOn(5 * time.Second)
			w.wantRan("10.0.0.10", "1")
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":[]}`)
		})
	})
	t.Run("its node is lost and comes back: the try runs there, once", func(t *testing.T) {
		inWorld(t, func(w *world) {
			waits(w, retriedBatch(1))
			w.removePod("p-1")
			w.ledger.ObserveNode("n", scheduler.NodeLost)
			w.goesOn(5 * time.Second)
			w.wantRan("10.0.0.10", "1")
			w.ledger.ObserveNode("n", scheduler.NodeFit)
			w.goesOn(time.Second)
			w.wantRan("10.0.0.10", "1 2")
			w.wantTries(v1alpha1.TaskTries{Failed: 1})
		})
	})
}

// An executor that ended leaves the sandbox as it is: the try after it is the pod's next, and its failures count for the pod only
// when the task has come to its end.
func TestAPodWhoseTaskFoundItsWayAfterALostExecutorIsSound(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(retriedBatch(0))
		w.settled()
		w.executor("10.0.0.10").becomes(endedWith(taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonExecutorLost}))
		w.goesOn(time.Second)
		w.executor("10.0.0.10").becomes(completed)
		w.goesOn(time.Second)
		w.remove()
		for range 5 {
			w.reconcile()
			time.Sleep(time.Second)
		}
		pods := w.pods()
		if i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == "p-0" }); i < 0 || pods[i].Annotations[v1alpha1.TaskFailuresAnnotation] != "" {
			t.Errorf("pods %v, want p-0 back without a count", pods)
		}
	})
}
