// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func TestATaskIsAsLargeAsAnExecutorCanAnswerForAtMost(t *testing.T) {
	cases := map[string]struct {
		arg  string
		fits bool
	}{
		"a small one": {"x", true},
		"one of almost as many bytes as there may":      {strings.Repeat("x", maxTaskBytes-200), true},
		"one of as many bytes as a call may have":       {strings.Repeat("x", taskexecutor.MaxBodyBytes-200), false},
		"one that is small until it is written in JSON": {strings.Repeat("<", maxTaskBytes/5), false},
		"one that is large until it is written in JSON": {strings.Repeat("x", maxTaskBytes/5), true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := makeBatch("b").Pool("p").Task("echo", c.arg).Obj()
			task, _, problem := desiredTask(sb, 0, 1)
			if (problem == nil) != c.fits {
				t.Fatalf("problem %v for a task of %d bytes", problem, len(mustJSON(&task)))
			}
			if problem != nil && !strings.Contains(problem.message, "put it into a file") {
				t.Errorf("message %q doesn't say what to change", problem.message)
			}
		})
	}
}

func TestMuchPatchingIsRefusedBeforeItIsBegun(t *testing.T) {
	patches := slices.Repeat([]string{`{}`}, 1000)
	large := strings.Repeat("x", maxPatchedBytes/500)
	cases := map[string]struct {
		batch    *wrappers.BatchWrapper
		replicas int
		fits     bool
	}{
		"a large task without patches":                    {makeBatch("b").Task("echo", large), 1000, true},
		"a small task with many patches":                  {makeBatch("b").Task("echo").TaskPatches(patches...), 1000, true},
		"a large task with many patches":                  {makeBatch("b").Task("echo", large).TaskPatches(patches...), 1000, false},
		"a large task with many patches and few replicas": {makeBatch("b").Task("echo", large).TaskPatches(patches...), 400, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			problem := tooMuchPatching(c.batch.Obj(), c.replicas)
			if (problem == nil) != c.fits {
				t.Fatalf("problem %v", problem)
			}
			if problem != nil && !strings.Contains(problem.message, "use several batches") {
				t.Errorf("message %q doesn't say what to change", problem.message)
			}
		})
	}
}

func TestAnAllocationThatOthersAnnotationsLeaveNoRoomForIsToldAndTakesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		sb := pooledBatch(3).Obj()
		sb.Annotations = map[string]string{"example.com/mine": strings.Repeat("x", maxAnnotations-250)}
		w.create(sb)
		w.reconcile()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/TooManyReplicas")
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, "")
		if c := w.counts(); c.Idle != 3 || c.Waiting != 0 {
			t.Errorf("counts %+v, want every pod idle and nobody waiting", c)
		}
		message := condition(w.batch(), v1alpha1.ConditionAllocated).Message
		if !strings.Contains(message, "beside its other annotations") {
			t.Errorf("message %q doesn't say what to change", message)
		}
		w.edit(func(sb *v1alpha1.BatchSandbox) { delete(sb.Annotations, "example.com/mine") })
		w.reconcile()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
	})
}

func TestManyPodsAreMadeInTurns(t *testing.T) {
	cases := map[string]struct{ template, want int }{
		"small templates":  {100, maxCreates},
		"large ones":       {512 << 10, maxCreateBytes / (512 << 10)},
		"the largest ones": {8 << 20, minCreates},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := makeBatch("b").Template(strings.Repeat("x", c.template)).Obj()
			if got := createsPerTurn(sb); got != c.want {
				t.Errorf("%d pods in a turn, want %d", got, c.want)
			}
		})
	}
	inWorld(t, func(w *world) {
		large := `{"metadata":{"annotations":{"x":"` + strings.Repeat("x", maxCreateBytes/minCreates) + `"}},"spec":{"containers":[{"name":"sandbox"}]}}`
		w.create(wrappers.MakeBatch(namespace, "b").Template(large).Replicas(minCreates + 2).Obj())
		if res := w.reconcile(); len(w.creates()) != minCreates || res.RequeueAfter != time.Millisecond {
			t.Errorf("goes on after %s", res.RequeueAfter)
		}
		if w.reconcile(); len(w.creates()) != 2 {
			t.Errorf("%d pods in the end", len(w.pods()))
		}
		if w.reconcile(); len(w.pods()) != minCreates+2 || len(w.creates()) != 0 {
			t.Errorf("%d pods in the end", len(w.pods()))
		}
	})
}

func TestABatchThatHasNoRoomForAWriteIsToldInAnEvent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(1).Obj())
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewInternalError(fmt.Errorf("etcdserver: request is too large"))
		}
		if _, err := w.tryReconcile(); err == nil {
			t.Error("a write that is refused is no error")
		}
		if told := w.toldEvents(); !slices.Contains(told, v1alpha1.ReasonTooLarge) {
			t.Errorf("told %v", told)
		}
		if c := w.counts(); c.Idle != 3 {
			t.Errorf("counts %+v, want every pod idle", c)
		}
	})
}

// One user's object must not keep the controller from all others after an election.
func TestABatchThatCanNotBeWrittenKeepsNoControllerFromItsStart(t *testing.T) {
	refusals := map[string]error{
		"its annotations are full":    apierrors.NewInvalid(v1alpha1.GroupVersion.WithKind("BatchSandbox").GroupKind(), "b", nil),
		"it is as large as it can be": apierrors.NewInternalError(fmt.Errorf("etcdserver: request is too large")),
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 3)
				w.create(pooledBatch(1).Obj())
				w.startController()
				w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error { return refusal }
				if err := w.r.Rebuild(t.Context(), "epoch", nil); err != nil {
					t.Fatalf("rebuild: %v", err)
				}
				w.onPatch = nil
				w.reconcile()
				w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
			})
		})
	}
}

func TestAnAnswerThatSaysNothingOfTheObjectKeepsTheControllerFromItsStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(1).Obj())
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewForbidden(corev1.Resource("batchsandboxes"), "b", nil)
		}
		if err := w.r.Rebuild(t.Context(), "epoch", nil); err == nil {
			t.Error("goes on without a fence")
		}
	})
}
