// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// addNamespace makes the namespace, going or not.
func (w *world) addNamespace(goes bool) {
	w.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Finalizers: []string{"test/kubernetes"}}}
	w.create(ns)
	if !goes {
		return
	}
	if err := w.client.Delete(w.t.Context(), ns); err != nil {
		w.t.Fatal(err)
	}
}

func TestInANamespaceThatGoesALossIsNeitherReplacedNorTold(t *testing.T) {
	for name, goes := range map[string]bool{"it goes": true, "it stays": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 3)
				w.create(pooledBatch(2).Obj())
				w.settled()
				w.addNamespace(goes)
				w.removePod("p-0")
				w.takeWrites()
				w.toldEvents()
				w.settled()
				if writes := w.takeWrites(); (len(writes) == 0) != goes {
					t.Errorf("writes %v", writes)
				}
				if told := w.told("SandboxLost"); (len(told) == 0) != goes {
					t.Errorf("told %v", told)
				}
				w.remove()
				w.reconcile()
				if c := w.counts(); !w.gone() || c.Waiting != 0 || c.Held != 0 {
					t.Errorf("gone %v, counts %+v", w.gone(), c)
				}
			})
		})
	}
}

// A batch with tasks whose executors don't answer goes as soon as its pods are being deleted, with the namespace or not.
func TestNobodyWaitsForTheExecutorOfAPodThatGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleRestart, 2)
		for _, ip := range []string{"10.0.0.10", "10.0.0.11"} {
			w.executor(ip).down = apierrors.NewTimeoutError("no answer", 1)
		}
		w.create(pooledBatch(2).Task("sleep", "1000").Obj())
		w.settled()
		w.remove()
		w.reconcile()
		if w.gone() {
			t.Fatal("gone before its tasks are known to have stopped")
		}
		for _, pod := range []string{"p-0", "p-1"} {
			w.hold(pod) // it takes its time
			w.removePod(pod)
		}
		w.reconcile()
		if !w.gone() {
			t.Error("still waits for the executors of pods that go")
		}
	})
}

func TestAnOwnPodThatTheNamespaceRefusesIsNotTriedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Obj())
		w.onCreate = func(*corev1.Pod) error {
			return &apierrors.StatusError{ErrStatus: metav1.Status{
				Code: 403, Reason: metav1.StatusReasonForbidden,
				Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}},
			}}
		}
		for range 3 {
			w.reconcile()
			time.Sleep(time.Minute)
		}
		if diff := cmp.Diff([]string{"create b-0", "patch status b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got), want the one create that told:\n%s", diff)
		}
		if told := w.toldEvents(); len(told) != 0 {
			t.Errorf("told %v, which nobody can write", told)
		}
	})
}

func TestANamespaceIsAskedForAtMostOnceASecond(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addNamespace(false)
		reads := 0
		w.onRead = func() error { reads++; return nil }
		for range 10 {
			if w.r.namespaces.goes(t.Context(), namespace) {
				t.Error("a namespace that stays goes")
			}
		}
		time.Sleep(namespaceAskEvery)
		w.r.namespaces.goes(t.Context(), namespace)
		if reads != 2 {
			t.Errorf("%d reads, want 2", reads)
		}
	})
}
