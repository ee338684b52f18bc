// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestOnlyWhatIsExactlyOurWriteIsAnEcho(t *testing.T) {
	before := func() *v1alpha1.BatchSandbox {
		return makeBatch("b").Pool("p").Annotation("user", "x").Annotation(v1alpha1.AllocReleasedAnnotation, `{"pods":[]}`).Finalizers("other").Obj()
	}
	annotations := map[string]any{v1alpha1.EndpointsAnnotation: `["10.0.0.1"]`, v1alpha1.AllocReleasedAnnotation: nil}
	wait := echoOf(before(), annotations, []string{v1alpha1.PoolAllocationFinalizer})
	cases := map[string]struct {
		change func(*v1alpha1.BatchSandbox)
		want   bool
	}{
		"the write itself is":                              {func(*v1alpha1.BatchSandbox) {}, true},
		"the write and a status are":                       {func(sb *v1alpha1.BatchSandbox) { sb.Status.Ready = 1 }, true},
		"another batch of the name is not":                 {func(sb *v1alpha1.BatchSandbox) { sb.UID = "another" }, false},
		"an edit of the spec is not":                       {func(sb *v1alpha1.BatchSandbox) { sb.Generation++ }, false},
		"a deletion is not":                                {func(sb *v1alpha1.BatchSandbox) { now := metav1.Now(); sb.DeletionTimestamp = &now }, false},
		"an edit of an annotation that we wrote is not":    {func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.EndpointsAnnotation] = "[]" }, false},
		"an edit of an annotation of somebody else is not": {func(sb *v1alpha1.BatchSandbox) { sb.Annotations["user"] = "y" }, false},
		"one more annotation is not":                       {func(sb *v1alpha1.BatchSandbox) { sb.Annotations["more"] = "y" }, false},
		"a finalizer less is not":                          {func(sb *v1alpha1.BatchSandbox) { sb.Finalizers = sb.Finalizers[1:] }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			after := before()
			after.Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.1"]`
			delete(after.Annotations, v1alpha1.AllocReleasedAnnotation)
			after.Finalizers = append(after.Finalizers, v1alpha1.PoolAllocationFinalizer)
			c.change(after)
			if got := wait.is(after); got != c.want {
				t.Errorf("is an echo: %v, want %v", got, c.want)
			}
		})
	}
}

func (w *world) wakes(before, after *v1alpha1.BatchSandbox) bool {
	change := event.UpdateEvent{ObjectOld: before, ObjectNew: after}
	return changedByUsers().Update(change) && w.r.echoes.predicate().Update(change)
}

// deliver makes a batch and delivers it. It returns the batch as it asked, and as it was delivered.
func (w *world) deliver() (asked, delivered *v1alpha1.BatchSandbox) {
	w.t.Helper()
	w.addPool(v1alpha1.RecycleDelete, 1)
	w.create(makeBatch("b").Pool("p").Obj())
	asked = w.batch()
	w.reconcile()
	return asked, w.batch()
}

func TestTheEchoOfADeliveryWakesNobodyAndTheSameEditLaterDoes(t *testing.T) {
	inWorld(t, func(w *world) {
		asked, delivered := w.deliver()
		if w.wakes(asked, delivered) {
			t.Error("our own write wakes the batch")
		}
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.EndpointsAnnotation] = "[]" })
		edited := w.batch()
		if !w.wakes(delivered, edited) {
			t.Error("an edit doesn't wake the batch")
		}
		if !w.wakes(edited, delivered) {
			t.Error("an edit that makes the batch what we had made it doesn't wake it")
		}
	})
}

func TestAnEditBeforeTheEchoEndsTheWaitForIt(t *testing.T) {
	inWorld(t, func(w *world) {
		asked, delivered := w.deliver()
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations["example.com/user"] = "x" })
		if edited := w.batch(); !w.wakes(asked, edited) || !w.wakes(edited, delivered) {
			t.Error("an edit that the watch shows together with our write, or its undoing, doesn't wake the batch")
		}
	})
}

func TestNothingIsTakenForTheEchoOfAWriteThatFailed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleDelete, 1)
		w.create(makeBatch("b").Pool("p").Obj())
		asked := w.batch()
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("batchsandboxes").GroupResource(), "b", nil)
		}
		w.reconcile()
		edited := asked.DeepCopy()
		edited.Annotations = map[string]string{
			v1alpha1.AllocStatusAnnotation: formatAllocStatus([]string{"p-0"}), v1alpha1.EndpointsAnnotation: formatEndpoints([]string{"10.0.0.10"}),
		}
		edited.Finalizers = []string{v1alpha1.PoolAllocationFinalizer}
		if !w.wakes(asked, edited) {
			t.Error("what somebody else wrote is taken for our write, which was refused")
		}
	})
}

func TestNoEchoIsKeptOfABatchThatIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deliver()
		if _, waits := w.r.echoes.byName[w.key]; !waits {
			t.Fatal("no echo is expected")
		}
		w.remove()
		w.settled()
		if !w.gone() {
			t.Fatal("the batch is still there")
		}
		w.reconcile()
		if len(w.r.echoes.byName) != 0 {
			t.Errorf("echoes of %v are kept", w.r.echoes.byName)
		}
	})
}
