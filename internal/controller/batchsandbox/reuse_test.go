// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func TestAHeldPodThatIsToBeEvictedIsStillReady(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.settled()
		pod := w.pods()[0]
		metav1.SetMetaDataLabel(&pod.ObjectMeta, v1alpha1.EvictLabel, "please")
		if err := w.client.Update(context.Background(), &pod); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.settled()
		w.wantCondition(v1alpha1.ConditionReady, "True/PodsReady")
		w.setPods(func(int) corev1.PodStatus {
			return corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.10"}
		}, "p-0")
		w.settled()
		w.wantCondition(v1alpha1.ConditionReady, "False/PodsNotReady")
	})
}

// A batch may have waited for longer than it wants to when it is looked at for the first time.
func TestABatchThatTimedOutUnseenStaysSo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.create(pooledBatch(1).AllocationTimeout(10).Obj())
		time.Sleep(time.Minute)
		for range 3 {
			w.reconcile()
			w.wantCondition(v1alpha1.ConditionAllocated, "False/AllocationTimedOut")
		}
	})
}

func TestWhatWasAssumedForAnEarlierBatchOfTheNameIsGivenUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		lost := errors.Join(apierrors.NewTimeoutError("the answer is lost", 1))
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error { return lost }
		w.onRead = func() error { return lost }
		if _, err := w.tryReconcile(); err == nil {
			t.Fatal("the lost answer is no error")
		}
		w.remove()
		w.create(pooledBatch(0).UID("uid-2").Obj()) // and wants nothing
		w.settled()
		if c := w.counts(); c.Idle != 1 || c.Held != 0 {
			t.Errorf("counts %+v, want the pod idle", c)
		}
	})
}

// A watch that broke tells of an object that was deleted and made anew as of one that changed.
func TestAnObjectMadeAnewUnseenIsLookedAt(t *testing.T) {
	before, after := pooledBatch(1).UID("uid-1").Obj(), pooledBatch(1).UID("uid-2").Obj()
	if !changedByUsers().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}) {
		t.Error("nobody looks at a batch that was made anew")
	}
	if changedByUsers().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: before}) {
		t.Error("a batch that did not change is looked at")
	}
	pool, again := wrappers.MakePool(namespace, "p").Obj(), wrappers.MakePool(namespace, "p").Obj()
	again.UID = "uid-2"
	if !poolMatters().Update(event.UpdateEvent{ObjectOld: pool, ObjectNew: again}) {
		t.Error("no batch looks at a pool that was made anew")
	}
}

// A finalizer of somebody else may keep a batch long after it gave its pods back.
func TestAfterARestartABatchThatGaveItsPodsBackHoldsNone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Finalizers("example.com/keep").Obj())
		w.settled()
		w.remove()
		w.settled()
		w.startController()
		if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
			t.Fatal(err)
		}
		if c := w.counts(); c.Idle != 1 || c.Held != 0 {
			t.Errorf("counts %+v, want the pod idle: the next batch that had it would lose it", c)
		}
	})
}

func TestABatchWhoseFinalizersWentWithALostAnswerHoldsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Finalizers("example.com/keep").Obj())
		w.settled()
		w.remove()
		w.onPatch = lostAnswer
		if _, err := w.tryReconcile(); err == nil {
			t.Fatal("the lost answer is no error")
		}
		w.onPatch = nil
		w.settled()
		if c := w.counts(); c.Idle != 0 || c.Held != 0 {
			t.Errorf("counts %+v, want the pod neither held nor handed on: nobody knows that it was recycled", c)
		}
	})
}
