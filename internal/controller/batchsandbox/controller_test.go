// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func pooledBatch(replicas int32) *wrappers.BatchWrapper {
	return wrappers.MakeBatch(namespace, "b").Pool("p").Replicas(replicas)
}

func TestADeliveryIsTwoWrites(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(2).Obj())
		w.reconcile()
		if diff := cmp.Diff([]string{"patch b", "patch status b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1"]}`)
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.10","10.0.0.11"]`)
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		w.wantCondition(v1alpha1.ConditionReady, "True/PodsReady")
		sb := w.batch()
		if !slices.Contains(sb.Finalizers, v1alpha1.PoolAllocationFinalizer) {
			t.Errorf("finalizers %v", sb.Finalizers)
		}
		if s := sb.Status; s.Replicas != 2 || s.Ready != 2 || s.Allocated != 2 || s.Phase != v1alpha1.PhaseSucceed {
			t.Errorf("status %+v", s)
		}
		if told := w.toldEvents(); len(told) != 0 {
			t.Errorf("events %v, want none: a delivery at once is told by its status", told)
		}
		w.reconcile()
		if writes := w.takeWrites(); len(writes) != 0 {
			t.Errorf("a batch at rest writes %v", writes)
		}
	})
}

func TestABatchIsDeliveredBeforeAnotherIsReported(t *testing.T) {
	for name, c := range map[string]struct {
		newcomer bool
		batch    *v1alpha1.BatchSandbox
		want     []string
	}{
		"nobody else waits":                     {batch: pooledBatch(1).Obj(), want: []string{"patch b", "patch status b"}},
		"another batch came meanwhile":          {newcomer: true, batch: pooledBatch(1).Obj(), want: []string{"patch b"}},
		"but this one has a task to be run now": {newcomer: true, batch: pooledBatch(1).Task("true").Obj(), want: []string{"patch b", "patch status b"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 1)
				if c.newcomer {
					w.r.sights.note(wrappers.MakeBatch(namespace, "c").Pool("p").Obj())
				}
				w.create(c.batch)
				w.reconcile()
				if diff := cmp.Diff(c.want, w.takeWrites()); diff != "" {
					t.Errorf("writes at the first look (-want +got):\n%s", diff)
				}
				w.reconcile() // whoever else waits by then
				if diff := cmp.Diff([]string{"patch b", "patch status b"}[len(c.want):], w.takeWrites(), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("writes at the second look (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestALabelFollowsTheDelivery(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		if res := w.reconcile(); res.RequeueAfter != labelDelay {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, labelDelay)
		}
		time.Sleep(labelDelay)
		w.settled()
		pod := w.pods()[0]
		if pod.Labels[v1alpha1.BatchNameLabel] != "b" || pod.Labels[v1alpha1.PodIndexLabel] != "0" || len(pod.OwnerReferences) != 1 {
			t.Errorf("labels %v, owners %v", pod.Labels, pod.OwnerReferences)
		}
		if c := w.counts(); c.Held != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestLabelsOfAllBatchesTakeTurns(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var turns labelTurns
	for _, c := range []struct {
		name        string
		after       time.Duration
		pods        int
		wantAtAfter time.Duration
	}{
		{"the first batch has its turn at once", 0, 1, 0},
		{"the next waits for the label of the first", 0, 3, labelGap},
		{"and one more for the labels of both", 10 * time.Millisecond, 1000, 4 * labelGap},
		{"a large batch takes the time of one turn", 20 * time.Millisecond, 1, 4*labelGap + labelsPerTurn*labelGap},
		{"a turn that nobody took is not made up for", time.Minute, 1, time.Minute},
		{"so that the next waits again", time.Minute, 1, time.Minute + labelGap},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := turns.take(noon.Add(c.after), c.pods).Sub(noon); got != c.wantAtAfter {
				t.Errorf("turn at %v, want %v", got, c.wantAtAfter)
			}
		})
	}
}

func TestLabelsLeaveASlowAPIServerTime(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for took, want := range map[time.Duration]time.Duration{
		0: labelGap, labelGap / labelShare: labelGap, 40 * time.Millisecond: labelShare * 40 * time.Millisecond, time.Minute: maxLabelGap,
	} {
		var turns labelTurns
		turns.labelled(took)
		turns.take(noon, 1)
		if got := turns.take(noon, 1).Sub(noon); got != want {
			t.Errorf("the turn after a label that took %v is %v later, want %v", took, got, want)
		}
	}
}

func TestLabelsComeLaterWhileOthersTakePods(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name       string
		ago        time.Duration // that the batch was given its pods
		anyAgo     time.Duration // that any batch was
		wantDelays time.Duration
	}{
		{"at first nobody knows how long it keeps them", time.Second, time.Second, labelDelay - time.Second},
		{"then it takes a turn", labelDelay, labelDelay, 0},
		{"unless others take pods now", labelDelay, busyFor - 1, busyLabelDelay - labelDelay},
		{"and a second ago is not now", labelDelay, busyFor, 0},
		{"after a minute it takes one all the same", busyLabelDelay, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var turns labelTurns
			turns.deliver(noon.Add(-c.anyAgo))
			if got := turns.delay(noon, c.ago); got != c.wantDelays {
				t.Errorf("waits %v, want %v", got, c.wantDelays)
			}
		})
	}
}

func TestABatchThatHasNoTurnYetLabelsLater(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 11)
		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 11 })
		w.create(pooledBatch(11).Obj())
		w.reconcile()
		time.Sleep(labelDelay)
		w.r.labels.take(time.Now(), 1) // by another batch
		if res := w.reconcile(); res.RequeueAfter != labelGap {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, labelGap)
		}
		time.Sleep(labelGap)
		if res := w.reconcile(); res.RequeueAfter != labelsPerTurn*labelGap {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, labelsPerTurn*labelGap)
		}
		labelled := func() (n int) {
			for _, pod := range w.pods() {
				if pod.Labels[v1alpha1.BatchNameLabel] == "b" {
					n++
				}
			}
			return n
		}
		if got := labelled(); got != labelsPerTurn {
			t.Errorf("%d labelled in the first turn, want %d", got, labelsPerTurn)
		}
		time.Sleep(labelsPerTurn * labelGap)
		w.settled()
		if got := labelled(); got != 11 {
			t.Errorf("%d labelled in the end, want 11", got)
		}
	})
}

// Somebody may change a pod at the same moment, such as the garbage collector, without any change that brings the batch back.
func TestALabelThatMeetsAConflictIsTriedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.reconcile()
		time.Sleep(labelDelay)
		w.onPatch = func(_ context.Context, _ client.WithWatch, obj client.Object, _ client.Patch) error {
			return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, obj.GetName(), errors.New("changed"))
		}
		if res := w.reconcile(); res.RequeueAfter != labelRetry {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, labelRetry)
		}
		w.onPatch = nil
		time.Sleep(labelRetry)
		w.settled()
		if pod := w.pods()[0]; pod.Labels[v1alpha1.BatchNameLabel] != "b" {
			t.Errorf("labels %v", pod.Labels)
		}
	})
}

func TestHeldPodsAreLabelledAtOnceWhenTheirPoolGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.reconcile()
		if err := w.client.Delete(t.Context(), wrappers.MakePool(namespace, "p").Obj()); err != nil {
			t.Fatal(err)
		}
		w.reconcile()
		if pod := w.pods()[0]; pod.Labels[v1alpha1.BatchNameLabel] != "b" || len(pod.OwnerReferences) != 1 {
			t.Errorf("labels %v, owners %v", pod.Labels, pod.OwnerReferences)
		}
	})
}

func TestAConflictSetsThePodsFreeThatTheBatchDoesNotName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Obj())
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewConflict(schema.GroupResource{}, "b", errors.New("changed"))
		}
		if res := w.reconcile(); res.RequeueAfter == 0 {
			t.Error("doesn't look again after a conflict")
		}
		if c := w.counts(); c.Idle != 2 || c.Held != 0 {
			t.Errorf("counts %+v, want both pods idle again", c)
		}
		if told := w.toldEvents(); len(told) != 0 {
			t.Errorf("told %v of a delivery that failed", told)
		}
		w.onPatch = nil
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1"]}`)
	})
}

func TestWithoutALeaseNoPodIsHandedOutAndNoneStaysHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Obj())
		w.deposed = true
		w.takeWrites()
		for range 2 {
			if _, err := w.tryReconcile(); !errors.Is(err, leading.ErrLost) {
				t.Errorf("got %v, want %v", err, leading.ErrLost)
			}
		}
		if writes := w.takeWrites(); len(writes) > 0 {
			t.Errorf("wrote %v", writes)
		}
		w.deposed = false
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1"]}`)
	})
}

// lostAnswer lets a patch land and loses the answer.
func lostAnswer(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
	if err := c.Patch(ctx, obj, p); err != nil {
		return err
	}
	return apierrors.NewTimeoutError("the answer is lost", 1)
}

func TestALostAnswerKeepsThePodsThatTheBatchNames(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(2).Obj())
		before := w.batch()
		w.onPatch = lostAnswer
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the lost answer is no error")
		}
		held := scheduler.Counts{Idle: 1, Held: 2}
		if diff := cmp.Diff(held, w.counts(), cmp.FilterPath(isUpdated, cmp.Ignore())); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		w.onPatch, w.cached = nil, before // the watch lags: the cache shows the batch as it was
		w.reconcile()                     // goes by the truth it has read
		if diff := cmp.Diff(held, w.counts(), cmp.FilterPath(isUpdated, cmp.Ignore())); diff != "" {
			t.Errorf("counts after a look at an old cache (-want +got):\n%s", diff)
		}
		w.cached = nil
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1"]}`)
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		if c := w.counts(); c.Held != 2 || c.Unusable != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

func isUpdated(p cmp.Path) bool { return p.String() == "Updated" }

func TestADoubtStaysUntilTheTruthCanBeRead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Obj())
		before := w.batch()
		w.onPatch = lostAnswer
		down := func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewServiceUnavailable("down")
		}
		for range 3 {
			if _, err := w.tryReconcile(); err == nil {
				t.Error("a doubt that can't be settled is no error")
			}
			w.onPatch, w.cached = down, before
			if c := w.counts(); c.Held != 2 {
				t.Fatalf("counts %+v: pods that the batch may have are handed out", c)
			}
		}
		w.onPatch = nil
		w.takeWrites()
		w.reconcile()
		w.cached = nil
		w.settled()
		writes := slices.DeleteFunc(w.takeWrites(), func(write string) bool { return write != "patch b" })
		if len(writes) != 1 {
			t.Errorf("patched the batch %d times, want once to find out the truth", len(writes))
		}
		if c := w.counts(); c.Held != 2 || c.Unusable != 0 {
			t.Errorf("counts %+v", c)
		}
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
	})
}

// An allocation whose sender gave up may still be on its way. Its pods go to somebody else, so it must not land.
func TestAnAllocationThatWasNeverAnsweredCannotLandLater(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		var late func() error
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			sent := obj.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy has the type of the original
			late = func() error { return c.Patch(ctx, sent, p) }
			w.onPatch = nil
			return apierrors.NewTimeoutError("no answer", 1)
		}
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the lost answer is no error")
		}
		if c := w.counts(); c.Idle != 1 {
			t.Errorf("counts %+v, want the pod idle again", c)
		}
		if err := late(); !apierrors.IsConflict(err) {
			t.Errorf("the allocation lands later: %v, want a conflict", err)
		}
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
	})
}

func TestABatchThatIsGoneGetsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.cached = w.batch()
		w.remove()
		w.reconcile()
		if c := w.counts(); c.Idle != 1 {
			t.Errorf("counts %+v, want the pod idle", c)
		}
		if told := w.toldEvents(); len(told) != 0 {
			t.Errorf("told %v of a batch that is gone", told)
		}
		if n := w.executor("10.0.0.10").setCount(); n != 0 {
			t.Error("ran a task in a pod that nobody holds")
		}
	})
}

func TestAnEditOfTheAllocationIsTheTruth(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(2).Obj())
		w.settled()
		w.edit(func(sb *v1alpha1.BatchSandbox) {
			sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["","p-1"]}`
		})
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-2","p-1"]}`)
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.12","10.0.0.11"]`)
		if c := w.counts(); c.Held != 2 || c.Idle != 0 || c.Unusable != 1 {
			t.Errorf("counts %+v: a pod that a batch lost without recycling must not be idle", c)
		}
	})
}

func TestAPodThatAnotherBatchHoldsStaysWithIt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		other := types.NamespacedName{Namespace: namespace, Name: "other"}
		w.ledger.Assume(scheduler.Demand{Batch: other, UID: "other", Pool: "p", Missing: []int{0}})
		w.ledger.Confirm(other)
		w.create(pooledBatch(1).AllocStatus(`{"pods":["p-0"]}`).Obj())
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		if told := w.toldEvents(); !slices.Contains(told, "DoubleAllocation") {
			t.Errorf("told %v", told)
		}
	})
}

func TestAMalformedAnnotationIsToldOnceAndHeals(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.toldEvents()
		for _, bad := range []string{`x`, `{"pods":["p-0","p-0"]}`} {
			w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = bad })
			w.settled()
			w.wantCondition(v1alpha1.ConditionAllocated, "False/InvalidAnnotation")
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, bad)
			if diff := cmp.Diff([]string{v1alpha1.ReasonInvalidAnnotation}, w.toldEvents()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if c := w.counts(); c.Held != 1 || c.Idle != 1 {
				t.Errorf("counts %+v: the edit touched other pods", c)
			}
		}
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-0"]}` })
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = `x` })
		w.remove()
		w.reconcile()
		if !w.gone() {
			t.Error("a malformed annotation keeps the batch from going")
		}
	})
}

func TestAnEditedListOfAddressesIsWrittenAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.EndpointsAnnotation] = `{{` })
		w.settled()
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.10"]`)
	})
}

func TestABatchThatGoesGivesItsPodsBack(t *testing.T) {
	cases := map[string]struct {
		recycle  v1alpha1.RecycleType
		wantPods string
		wantIdle int
	}{
		"Noop hands the pods on":  {v1alpha1.RecycleNoop, "p-0 p-1", 2},
		"Delete deletes the pods": {v1alpha1.RecycleDelete, "", 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(c.recycle, 2)
				w.create(pooledBatch(2).Obj())
				w.reconcile()
				time.Sleep(labelDelay)
				w.settled() // and the labels are on
				w.remove()
				w.reconcile()
				if !w.gone() {
					t.Error("the finalizer is still there")
				}
				if got := w.podNames(); got != c.wantPods {
					t.Errorf("pods %q, want %q", got, c.wantPods)
				}
				for _, pod := range w.pods() {
					if pod.Labels[v1alpha1.BatchNameLabel] != "" || len(pod.OwnerReferences) != 0 {
						t.Errorf("pod %s keeps labels %v, owners %v", pod.Name, pod.Labels, pod.OwnerReferences)
					}
				}
				if got := w.counts(); got.Idle != c.wantIdle || got.Held != 0 {
					t.Errorf("counts %+v", got)
				}
				w.reconcile()
			})
		})
	}
}

func TestABatchThatGoesStopsItsTasksFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		executor := w.executor("10.0.0.10")
		w.create(pooledBatch(1).Task("sleep", "1000").Obj())
		w.reconcile()
		executor.becomes(running)
		w.settled()
		if s := w.batch().Status; s.TaskRunning != 1 {
			t.Errorf("status %+v", s)
		}
		executor.keeps = true
		w.remove()
		w.reconcile()
		time.Sleep(5 * time.Second)
		w.reconcile()
		if w.gone() {
			t.Fatal("the batch went before its task had stopped")
		}
		if c := w.counts(); c.Held != 1 {
			t.Errorf("counts %+v", c)
		}
		executor.change(func() { executor.tasks = nil })
		time.Sleep(time.Second)
		w.reconcile()
		if c := w.counts(); !w.gone() || c.Idle != 1 {
			t.Errorf("gone %v, counts %+v", w.gone(), c)
		}
	})
}

func TestAPodWhoseTasksCannotBeStoppedIsDeletedUnderNoopToo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.executor("10.0.0.10").down = errors.New("no route")
		w.create(pooledBatch(1).Task("true").Obj())
		w.reconcile()
		w.remove()
		w.reconcile()
		time.Sleep(unreachableAfter + 3*time.Second)
		w.reconcile()
		if !w.gone() || w.podNames() != "" {
			t.Errorf("gone %v, pods %q", w.gone(), w.podNames())
		}
	})
}

func TestABatchIsDeletedWhenItsTimeIsOver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Expires(time.Now().Add(time.Second)).Obj())
		if res := w.reconcile(); res.RequeueAfter != time.Second {
			t.Errorf("looks again after %s, want 1 s", res.RequeueAfter)
		}
		time.Sleep(time.Second)
		w.reconcile()
		w.reconcile()
		if c := w.counts(); !w.gone() || c.Idle != 1 {
			t.Errorf("gone %v, counts %+v", w.gone(), c)
		}
		if told := w.toldEvents(); !slices.Contains(told, "Expired") {
			t.Errorf("told %v", told)
		}
	})
}

func TestABatchWithoutItsPoolHealsWhenThePoolAppears(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/PoolNotFound")
		w.wantCondition(v1alpha1.ConditionReady, "False/PoolNotFound")
		if s := w.batch().Status; s.Phase != v1alpha1.PhaseFailed {
			t.Errorf("phase %s", s.Phase)
		}
		if diff := cmp.Diff([]string{v1alpha1.ReasonPoolNotFound}, w.toldEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.reconcile()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/WaitingForPool")
		if s := w.batch().Status; s.Phase != v1alpha1.PhasePending || s.Queue == nil || s.Queue.Position != 1 || s.Queue.Waiting != 1 {
			t.Errorf("status %+v", s)
		}
		w.addPoolPod(0)
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		if s := w.batch().Status; s.Phase != v1alpha1.PhaseSucceed || s.Queue != nil {
			t.Errorf("status %+v", s)
		}
	})
}

func TestALostPodIsReplacedUnderItsIndexAndItsTryCountedBefore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(2).Task("true").Obj())
		w.reconcile()
		w.executor("10.0.0.11").becomes(running)
		w.settled()
		w.takeWrites()
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed, PodIP: "10.0.0.11"} }, "p-1")
		w.reconcile()
		writes := w.takeWrites()
		if len(writes) < 2 || writes[0] != "patch status b" || writes[1] != "patch b" {
			t.Errorf("writes %v, want the try before the replacement", writes)
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-2"]}`)
		if diff := cmp.Diff([]v1alpha1.TaskTries{{Index: 1, Lost: 1, LostWith: "p-1"}}, w.batch().Status.TaskTries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		if sets := w.executor("10.0.0.12").told(); len(sets) != 1 || sets[0][0].Name != "uid-b-1-2" {
			t.Errorf("told %v, want the second try of index 1", sets)
		}
	})
}

func TestALostPodCostsOneTryHoweverLongItGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed} }, "p-0")
		w.reconcile()
		if got := w.podNames(); got != "" {
			t.Errorf("pods %q are left: in a pool that is full there would never be another", got)
		}
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":[""]}`)
		if diff := cmp.Diff([]v1alpha1.TaskTries{{Index: 0, Lost: 1, LostWith: "p-0"}}, w.batch().Status.TaskTries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
	})
}

func TestATaskIsFollowedToTheNewAddressOfItsPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.99") }, "p-0")
		w.settled()
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.99"]`)
		if n := w.executor("10.0.0.99").setCount(); n != 1 {
			t.Errorf("%d sets at the new address, want 1", n)
		}
	})
}

func TestNobodyFollowsTheTaskOfALostSandboxThatIsNotWantedAnyMore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Task("true").Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed, PodIP: "10.0.0.11"} }, "p-1")
		w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		if followed := sortedIndexes(w.runner.states("uid-b")); !slices.Equal(followed, []int{0}) {
			t.Errorf("follows indexes %v, want 0 alone", followed)
		}
	})
}

func TestUnderReleaseASandboxGoesWithItsTaskAndTheRestStays(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Task("true").Releases().Obj())
		w.reconcile()
		w.executor("10.0.0.10").becomes(endedWith(taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}))
		synctest.Wait()
		w.settled() // records the end, and has the sandbox stopped
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["","p-1"]}`)
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["","10.0.0.11"]`)
		if s := w.batch().Status; s.TaskSucceed != 1 || s.CompletedIndexes != "0" || s.Replicas != 1 || s.Phase != v1alpha1.PhaseSucceed {
			t.Errorf("status %+v", s)
		}
		if c := w.counts(); c.Idle != 1 || c.Held != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestOwnPodsAreMadeScaledAndReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(3).Obj())
		w.settled()
		if got := w.podNames(); got != "b-0 b-1 b-2" {
			t.Fatalf("pods %q", got)
		}
		w.wantCondition(v1alpha1.ConditionReady, "False/PodsNotReady")
		w.setPods(func(i int) corev1.PodStatus { return readyStatus([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}[i]) }, "b-0", "b-1", "b-2")
		w.settled()
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.1","10.0.0.2","10.0.0.3"]`)
		w.wantCondition(v1alpha1.ConditionReady, "True/PodsReady")
		w.removePod("b-1")
		w.settled()
		if got := w.podNames(); got != "b-0 b-1 b-2" {
			t.Errorf("pods %q, want b-1 back", got)
		}
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.1","","10.0.0.3"]`)
		w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		w.settled()
		if got := w.podNames(); got != "b-0" {
			t.Errorf("pods %q, want the lowest index alone", got)
		}
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.1"]`)
	})
}

func TestARefusedPodIsToldAndTriedLaterOrWithANewSpec(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(5).Obj())
		long := strings.Repeat("ä", 2000)
		w.onCreate = func(*corev1.Pod) error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "b-0", errors.New(long))
		}
		res := w.reconcile()
		w.wantCondition(v1alpha1.ConditionReady, "False/PodsForbidden")
		if res.RequeueAfter != initialBackoff {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, initialBackoff)
		}
		if writes := w.takeWrites(); slices.Index(writes, "create b-1") >= 0 {
			t.Errorf("went on after the first refusal: %v", writes)
		}
		w.reconcile()
		if writes := w.takeWrites(); len(writes) != 0 {
			t.Errorf("writes %v while it waits: a message cut inside of a letter never reads back as it was", writes)
		}
		w.wantCondition(v1alpha1.ConditionReady, "False/PodsForbidden")
		time.Sleep(initialBackoff)
		if res := w.reconcile(); res.RequeueAfter != 2*initialBackoff {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, 2*initialBackoff)
		}
		w.onCreate = nil
		w.edit(func(*v1alpha1.BatchSandbox) {})
		w.settled()
		if got := len(w.pods()); got != 5 {
			t.Errorf("%d pods after the spec changed", got)
		}
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
	})
}

func TestManyPodsThatFailAtOnceAreOneFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(8).Obj())
		w.settled()
		var names []string
		for _, pod := range w.pods() {
			names = append(names, pod.Name)
		}
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed} }, names...)
		if res := w.reconcile(); res.RequeueAfter == 0 || res.RequeueAfter > initialBackoff {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, initialBackoff)
		}
		if got := w.podNames(); got != "" {
			t.Errorf("failed pods are still there: %s", got)
		}
		time.Sleep(initialBackoff)
		w.settled()
		if got := len(w.pods()); got != 8 {
			t.Errorf("%d pods, want 8 new ones", got)
		}
	})
}

func TestTheBackoffDoublesUpToItsLimitAndForgets(t *testing.T) {
	var b backoff
	now := noon
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		b.failed(now)
		if got := b.until.Sub(now); got != want*time.Second {
			t.Errorf("waits %s, want %d s", got, want)
		}
		now = b.until
	}
	now = now.Add(2*maxBackoff + 1)
	if b.failed(now); b.until.Sub(now) != initialBackoff {
		t.Errorf("waits %s after a quiet time", b.until.Sub(now))
	}
}

func TestAPodOfSomebodyElseKeepsItsName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "b-0"}})
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Obj())
		w.settled()
		w.wantCondition(v1alpha1.ConditionReady, "False/PodNameTaken")
		w.removePod("b-0")
		time.Sleep(initialBackoff)
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
	})
}

func TestOneBadPatchLeavesTheOtherPodsAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(3).ShardPatches(`{}`, `[]`).Obj())
		w.settled()
		if got := w.podNames(); got != "b-0 b-2" {
			t.Errorf("pods %q", got)
		}
		w.wantCondition(v1alpha1.ConditionReady, "False/InvalidShardPatch")
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.ShardPatches = nil })
		w.settled()
		if got := w.podNames(); got != "b-0 b-1 b-2" {
			t.Errorf("pods %q after the patch was removed", got)
		}
		w.wantCondition(v1alpha1.ConditionReady, "False/PodsNotReady")
	})
}

func TestMistakesAreToldAndTakeNothing(t *testing.T) {
	cases := map[string]struct {
		batch     *wrappers.BatchWrapper
		condition string
		want      string
	}{
		"neither pool nor template": {wrappers.MakeBatch(namespace, "b"), v1alpha1.ConditionAllocated, "False/NoTemplate"},
		"a task without a command":  {pooledBatch(1).Task(), v1alpha1.ConditionReady, "False/InvalidTask"},
		"a bad task patch":          {pooledBatch(2).Task("true").TaskPatches(`{}`, `[]`), v1alpha1.ConditionReady, "False/InvalidTask"},
		"far too many replicas":     {pooledBatch(1<<31 - 1), v1alpha1.ConditionAllocated, "False/TooManyReplicas"},
		"a negative number":         {pooledBatch(-1), v1alpha1.ConditionAllocated, "False/InvalidSpec"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				w.create(c.batch.Obj())
				w.settled()
				w.wantCondition(c.condition, c.want)
				if got := w.counts(); got.Idle != 2 {
					t.Errorf("counts %+v: took a pod for a batch that can't be served", got)
				}
				if told := w.toldEvents(); len(told) != 1 || told[0] != strings.TrimPrefix(c.want, "False/") {
					t.Errorf("told %v, want the mistake once", told)
				}
			})
		})
	}
}

func TestANewBatchOfAnOldNameStartsAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task().Obj())
		w.settled()
		w.wantCondition(v1alpha1.ConditionReady, "False/InvalidTask")
		w.remove() // and nobody looks before the next one is there
		w.create(pooledBatch(1).UID("uid-2").Task("true").Obj())
		w.settled()
		w.wantCondition(v1alpha1.ConditionReady, "True/PodsReady")
	})
}

func TestARestartTakesOverWhatIsHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		w.create(pooledBatch(4).Obj())
		w.settled()
		w.startController()
		w.takeWrites()
		if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
			t.Fatal(err)
		}
		w.news()
		if diff := cmp.Diff([]string{"patch b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got), want the fence of a batch with unmet demand:\n%s", diff)
		}
		w.wantAnnotation(v1alpha1.LeaderEpochAnnotation, "epoch")
		if c := w.counts(); c.Held != 3 || c.Idle != 0 {
			t.Errorf("counts %+v", c)
		}
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1","p-2",""]}`)
	})
}
