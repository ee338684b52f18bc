// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

func TestPodsAreOwnedByTheirNamespaceToo(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: "uid-ns"}}
	if err := w.client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	w.settled()
	for _, pod := range w.pods() {
		owners := pod.OwnerReferences
		if len(owners) != 2 || !metav1.IsControlledBy(pod, w.pool()) || owners[1].UID != "uid-ns" || owners[1].Kind != "Namespace" || owners[1].Controller != nil {
			t.Errorf("owners of %s: %+v, want the pool as controller and the namespace", pod.Name, owners)
		}
	}
	if n := len(w.pods()); n != 2 {
		t.Errorf("%d pods, want 2", n)
	}
}

func TestPodsAreMadeWhereTheNamespaceCanNotBeRead(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	w.onRead = func() error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "namespaces"}, namespace, errors.New("no"))
	}
	w.settled()
	if n := len(w.pods()); n != 2 {
		t.Errorf("%d pods, want 2", n)
	}
}

// orphan takes the pool's finalizer away and deletes it, as a user may do by hand.
func (w *world) orphan() {
	w.t.Helper()
	w.edit(func(p *v1alpha1.Pool) { p.Finalizers = nil })
	if err := w.client.Delete(w.t.Context(), w.pool()); err != nil {
		w.t.Fatal(err)
	}
}

func TestWhatAPoolLeavesBehindIsDeletedAndHeldPodsStay(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(3, 3).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.hold("b", 1)
	w.settled()
	w.orphan()
	w.onRead = func() error { return apierrors.NewServiceUnavailable("down") }
	deletes := w.deletes
	if _, err := w.tryReconcile(); err == nil || w.deletes != deletes {
		t.Errorf("error %v and %d deletes while nobody can say that the pool is gone", err, w.deletes-deletes)
	}
	w.onRead = nil
	if res := w.reconcile(); res != (ctrl.Result{}) {
		t.Errorf("asks for another reconcile: %+v", res)
	}
	w.news()
	if n := len(w.pods()); n != 1 || w.ledger.Counts(w.key).Held != 1 {
		t.Errorf("%d pods, counts %+v, want the held one alone", n, w.ledger.Counts(w.key))
	}
}

func TestWhatAPoolLeavesBehindOnACordonedNodeIsDeletedToo(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	w.settled()
	w.bindTo("n")
	w.settled()
	w.ledger.ObserveNode("n", scheduler.NodeCordoned)
	w.settled()
	if n := w.ledger.Counts(w.key); n.Stranded() != 1 || n.Starting != 1 {
		t.Fatalf("counts %+v, want one stranded pod and one in its place", n)
	}
	w.orphan()
	w.reconcile()
	w.news()
	if n := len(w.pods()); n != 0 {
		t.Errorf("%d pods are left", n)
	}
}

func TestInANamespaceThatGoesNothingIsTriedAgain(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	w.onCreate = func(_ context.Context, _ client.WithWatch, pod *corev1.Pod) error {
		err := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, pod.Name, errors.New("it is being terminated"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return err
	}
	for range 3 {
		if res := w.reconcile(); res != (ctrl.Result{}) {
			t.Errorf("asks for another reconcile: %+v", res)
		}
	}
	if w.creates != 1 {
		t.Errorf("%d creates, want the one that told", w.creates)
	}
	if told := len(w.recorder.Events); told != 0 {
		t.Errorf("%d events that nobody can write", told)
	}
}
