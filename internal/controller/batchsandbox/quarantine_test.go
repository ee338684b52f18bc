// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func TestVerdictOf(t *testing.T) {
	failed := func(reason string) taskEnd { return taskEnd{failed: &v1alpha1.FailedTask{Reason: reason}} }
	stopped := func(reason string) taskState {
		return taskState{phase: taskStopped, end: &taskexecutor.Terminated{ExitCode: -1, Reason: reason}}
	}
	for name, c := range map[string]struct {
		end  *taskEnd // nil: not ended
		task taskState
		want verdict
	}{
		"no task":                              {nil, taskState{}, verdictNone},
		"it runs":                              {nil, taskState{phase: taskRunning}, verdictNone},
		"it was stopped before it ended":       {nil, taskState{phase: taskStopped}, verdictNone},
		"it succeeded":                         {&taskEnd{ok: true}, taskState{}, verdictSound},
		"it failed by itself":                  {new(failed(v1alpha1.TaskReasonNonZeroExit)), taskState{}, verdictSound},
		"it ran too long":                      {new(failed(v1alpha1.TaskReasonTimedOut)), taskState{}, verdictSound},
		"it was cancelled":                     {new(failed(v1alpha1.TaskReasonCancelled)), taskState{}, verdictNone},
		"its sandbox ended":                    {new(failed(v1alpha1.TaskReasonSandboxLost)), taskState{}, verdictNone},
		"it could not be started":              {new(failed(v1alpha1.TaskReasonStartError)), taskState{}, verdictFailed},
		"it lost its executor":                 {new(failed(v1alpha1.TaskReasonExecutorLost)), taskState{}, verdictFailed},
		"the status has its reason alone":      {&taskEnd{recorded: true, reason: v1alpha1.TaskReasonStartError}, taskState{}, verdictFailed},
		"the status doesn't list it":           {&taskEnd{recorded: true}, taskState{}, verdictNone},
		"the status doesn't list it, but seen": {&taskEnd{recorded: true}, stopped(v1alpha1.TaskReasonStartError), verdictFailed},
		"seen, and not in the status yet":      {nil, stopped(v1alpha1.TaskReasonStartError), verdictFailed},
		"seen to succeed, not in the status":   {nil, stopped(taskexecutor.ReasonCompleted), verdictSound},
		"the status knows better":              {&taskEnd{ok: true, recorded: true}, stopped(v1alpha1.TaskReasonStartError), verdictSound},
	} {
		t.Run(name, func(t *testing.T) {
			obs := &observed{sb: wrappers.MakeBatch(namespace, "b").Obj(), tasks: map[int]taskState{3: c.task}, ends: map[int]taskEnd{}}
			if c.end != nil {
				obs.ends[3] = *c.end
			}
			if got := verdictOf(obs, 3); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

func TestFailuresInARowAreCountedOncePerHolder(t *testing.T) {
	pod := &corev1.Pod{}
	for _, step := range []struct {
		what    string
		holder  string
		verdict verdict
		want    string // the annotation
	}{
		{"without a task", "a/0", verdictNone, ""},
		{"a task that ends", "b/0", verdictSound, ""},
		{"a task that fails", "c/0", verdictFailed, `{"count":1,"last":"c/0"}`},
		{"the same release again", "c/0", verdictFailed, `{"count":1,"last":"c/0"}`},
		{"a holder without a task", "d/0", verdictNone, `{"count":1,"last":"c/0"}`},
		{"a task that ends", "e/0", verdictSound, ""},
		{"a task that fails again", "f/0", verdictFailed, `{"count":1,"last":"f/0"}`},
		{"another index of that batch", "f/1", verdictFailed, `{"count":2,"last":"f/1"}`},
	} {
		f := failuresOf(pod).after(step.holder, step.verdict)
		if want := step.holder == "f/1"; f.quarantined() != want {
			t.Errorf("%s: quarantined %t, want %t", step.what, f.quarantined(), want)
		}
		patch := map[string]any{}
		f.note(patch, pod)
		if value, changes := patch[v1alpha1.TaskFailuresAnnotation]; changes {
			pod.Annotations = map[string]string{}
			if text, ok := value.(string); ok {
				pod.Annotations[v1alpha1.TaskFailuresAnnotation] = text
			}
		}
		if got := pod.Annotations[v1alpha1.TaskFailuresAnnotation]; got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
	for _, text := range []string{"", "x", "[]", `{"count":-3}`, `{"count":"1"}`} {
		pod.Annotations = map[string]string{v1alpha1.TaskFailuresAnnotation: text}
		if got := failuresOf(pod); got != (failures{}) {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

var (
	startError = taskexecutor.ProcessStatus{Terminated: &taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonStartError}}
	completed  = taskexecutor.ProcessStatus{Terminated: &taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}}
)

// holdOnce has a batch take the pod of index 0, whose task ends so, and deletes the batch again.
func (w *world) holdOnce(end *taskexecutor.ProcessStatus) {
	w.t.Helper()
	sb := pooledBatch(1).UID(uuid.NewUUID())
	if end != nil {
		sb = sb.Task("true")
	}
	w.create(sb.Obj())
	w.settled()
	if w.condition(v1alpha1.ConditionAllocated) != "True/Allocated" {
		w.t.Fatal("the batch got no pod")
	}
	if end != nil {
		w.executor("10.0.0.10").becomes(*end)
		w.settled()
	}
	w.remove()
	for range 5 {
		if !w.gone() {
			_, _ = w.tryReconcile() // some tests have it fail
		}
	}
	if !w.gone() {
		w.t.Fatal("the batch isn't gone")
	}
	w.r.forget(w.key)
}

func TestAPodWhoseTasksFailTwiceInARowIsDeleted(t *testing.T) {
	for name, c := range map[string]struct {
		ends        []*taskexecutor.ProcessStatus // of one holder after another
		wantDeleted bool
	}{
		"once":                                  {[]*taskexecutor.ProcessStatus{&startError}, false},
		"twice":                                 {[]*taskexecutor.ProcessStatus{&startError, &startError}, true},
		"twice, and one without a task between": {[]*taskexecutor.ProcessStatus{&startError, nil, &startError}, true},
		"twice, and one that succeeded between": {[]*taskexecutor.ProcessStatus{&startError, &completed, &startError}, false},
		"never, and many":                       {[]*taskexecutor.ProcessStatus{&completed, nil, &completed}, false},
		"never, and one that was stopped between": {[]*taskexecutor.ProcessStatus{&completed, &running, &startError}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 1)
				for _, end := range c.ends {
					w.holdOnce(end)
					w.startController() // what it knows is on the pod
					if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
						t.Fatal(err)
					}
					w.news()
				}
				if deleted := w.podNames() == ""; deleted != c.wantDeleted {
					t.Errorf("deleted %t, want %t", deleted, c.wantDeleted)
				}
				if told := slices.Contains(w.toldEvents(), "PodQuarantined"); told != c.wantDeleted {
					t.Errorf("told %t, want %t", told, c.wantDeleted)
				}
			})
		})
	}
}

func TestAFailingPodIsDeletedAndNotMarked(t *testing.T) {
	for _, how := range []v1alpha1.RecycleType{"", v1alpha1.RecycleRestart} {
		inWorld(t, func(w *world) {
			w.addRestartable(how, func(p *corev1.Pod) {
				p.Annotations = map[string]string{v1alpha1.TaskFailuresAnnotation: `{"count":1,"last":"another/0"}`}
			})
			w.holdOnce(&startError)
			if w.podNames() != "" || !slices.Contains(w.toldEvents(), "PodQuarantined") {
				t.Errorf("type %q: pods %q, marked %s", how, w.podNames(), w.recyclingMark())
			}
		})
	}
}

// The number goes with the write of the mark, and is not lost with it.
func TestAFailureIsNotedWithTheMark(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable("", nil)
		w.takeWrites()
		w.holdOnce(&startError)
		pod := w.pods()[0]
		if w.recyclingMark() == "" || failuresOf(&pod).Count != 1 {
			t.Errorf("annotations %v", pod.Annotations)
		}
		if writes := w.takeWrites(); countOf(writes, "patch p-0") != 1 {
			t.Errorf("writes %v, want one of the pod", writes)
		}
	})
}

func countOf(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

// A pod that is handed on unlabelled costs no write, unless its count changes.
func TestUnderNoopAPodIsWrittenOnlyForItsCount(t *testing.T) {
	for name, c := range map[string]struct {
		end  *taskexecutor.ProcessStatus
		want int
	}{
		"no task":              {nil, 0},
		"a task that ended":    {&completed, 0},
		"a task that couldn't": {&startError, 1},
	} {
		inWorld(t, func(w *world) {
			w.addPool(v1alpha1.RecycleNoop, 1)
			w.takeWrites()
			w.holdOnce(c.end)
			if writes := w.takeWrites(); countOf(writes, "patch p-0") != c.want {
				t.Errorf("%s: writes %v, want %d of the pod", name, writes, c.want)
			}
		})
	}
}

// The finalizer could not be removed at once: the release is done again.
func TestAReleaseThatIsTriedAgainCountsOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		failures := 0
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if _, ok := obj.(*v1alpha1.BatchSandbox); ok && !obj.GetDeletionTimestamp().IsZero() && failures < 2 {
				failures++
				return errors.New("unavailable")
			}
			return c.Patch(ctx, obj, p)
		}
		w.holdOnce(&startError)
		pods := w.pods()
		if len(pods) != 1 || failuresOf(&pods[0]).Count != 1 || failures != 2 {
			t.Errorf("%d pods, %+v after %d failures", len(pods), pods, failures)
		}
		if taken := w.ledger.TakeReleased(poolKey(pooledBatch(1).Obj())); taken.Recycled != 1 || taken.Replaced != 0 {
			t.Errorf("counted %+v, want one pod that came back", taken)
		}
	})
}
