// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// look makes the batch of this name the one that the world looks at.
func (w *world) look(name string) *world {
	w.key.Name = name
	return w
}

// waits creates a batch that asks for sandboxes, and reconciles it until it rests.
func (w *world) waits(batch *wrappers.BatchWrapper) {
	w.t.Helper()
	w.create(batch.Pool("p").Obj())
	w.look(batch.Name).settled()
}

// editPool changes the pool as a user does.
func (w *world) editPool(change func(*v1alpha1.CapacitySpec)) {
	w.t.Helper()
	pool := &v1alpha1.Pool{}
	if err := w.client.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: "p"}, pool); err != nil {
		w.t.Fatal(err)
	}
	change(&pool.Spec.CapacitySpec)
	pool.Generation++
	if err := w.client.Update(context.Background(), pool); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantPlace(name string, position, waiting int32) {
	w.t.Helper()
	want := &v1alpha1.QueueStatus{Position: position, Waiting: waiting}
	if position == 0 {
		want = nil
	}
	if diff := cmp.Diff(want, w.look(name).batch().Status.Queue); diff != "" {
		w.t.Errorf("place of %s (-want +got):\n%s", name, diff)
	}
}

func (w *world) wantPhase(name string, want v1alpha1.BatchSandboxPhase) {
	w.t.Helper()
	if got := w.look(name).batch().Status.Phase; got != want {
		w.t.Errorf("phase of %s is %s, want %s", name, got, want)
	}
}

func TestABatchThatWaitsIsQuiet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.create(pooledBatch(2).Obj())
		if res := w.reconcile(); res.RequeueAfter != 0 {
			t.Errorf("looks again after %s, want never", res.RequeueAfter)
		}
		w.wantPlace("b", 1, 2)
		if diff := cmp.Diff([]string{"patch status b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		if res := w.reconcile(); res.RequeueAfter != 0 || len(w.takeWrites()) != 0 {
			t.Errorf("a look changes something: %+v", res)
		}
	})
}

func TestABatchThatMayWaitForATimeIsLookedAtWhenItIsOver(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.create(pooledBatch(1).AllocationTimeout(60).Obj())
		w.reconcile()
		if res := w.reconcile(); res.RequeueAfter != time.Minute {
			t.Errorf("looks again after %s, want 1 min", res.RequeueAfter)
		}
	})
}

func TestAPlaceIsToldWhenItsTurnComes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.waits(wrappers.MakeBatch(namespace, "a"))
		w.waits(wrappers.MakeBatch(namespace, "b"))
		w.wantPlace("a", 1, 1) // what it was told first
		w.wantPlace("b", 2, 2)
		w.takeWrites()
		for _, name := range []string{"a", "b"} {
			w.look(name).reconcile()
		}
		if writes := w.takeWrites(); len(writes) != 0 {
			t.Errorf("writes %v before its turn", writes)
		}
		w.ledger.TellPlaces(placesPerTurn)
		for _, name := range []string{"a", "b"} {
			w.look(name).reconcile()
		}
		w.wantPlace("a", 1, 2)
		if diff := cmp.Diff([]string{"patch status a"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

func TestABatchThatIsDeletedWhileItWaitsLeavesTheQueue(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.waits(wrappers.MakeBatch(namespace, "a").Replicas(3))
		w.waits(wrappers.MakeBatch(namespace, "b"))
		w.look("a").remove()
		w.reconcile()
		if c := w.counts(); c.Waiting != 1 {
			t.Errorf("waiting %d, want 1", c.Waiting)
		}
		w.ledger.TellPlaces(placesPerTurn)
		w.look("b").settled()
		w.wantPlace("b", 1, 1)
	})
}

func TestABatchThatWaitedTooLongLetsTheNextOneThrough(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.waits(wrappers.MakeBatch(namespace, "a").Replicas(2).MinAvailable(2).AllocationTimeout(60))
		w.waits(wrappers.MakeBatch(namespace, "b"))
		w.waits(wrappers.MakeBatch(namespace, "c"))
		time.Sleep(time.Minute)
		w.look("a").settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/AllocationTimedOut")
		w.wantPhase("a", v1alpha1.PhaseFailed)
		w.wantPlace("a", 0, 0)

		w.look("b").settled() // the pod that was kept for the gang
		w.wantPhase("b", v1alpha1.PhaseSucceed)

		w.addPoolPod(1)
		w.addPoolPod(2)
		w.addPoolPod(3)
		w.look("a").settled() // it doesn't wait any more, though there are pods
		w.wantPhase("a", v1alpha1.PhaseFailed)
		if held := w.batch().Status.Replicas; held != 0 {
			t.Errorf("a holds %d", held)
		}
		w.takeWrites()
		w.reconcile()
		if writes := w.takeWrites(); len(writes) != 0 {
			t.Errorf("a batch that waited too long writes %v at rest", writes)
		}
	})
}

func TestABatchThatWaitedTooLongWaitsAgainInItsOldPlaceWhenTheTimeIsRaisedOrRemoved(t *testing.T) {
	longer := int64(3600)
	for name, timeout := range map[string]*int64{"raised": &longer, "removed": nil} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 0)
				w.waits(wrappers.MakeBatch(namespace, "a").AllocationTimeout(1))
				time.Sleep(time.Second)
				w.look("a").settled()
				w.wantPhase("a", v1alpha1.PhaseFailed)
				w.waits(wrappers.MakeBatch(namespace, "b")) // younger
				w.look("a").edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.AllocationTimeoutSeconds = timeout })
				w.settled()
				w.wantPlace("a", 1, 2)
				w.wantPhase("a", v1alpha1.PhasePending)
				w.wantCondition(v1alpha1.ConditionAllocated, "False/WaitingForPool")
				w.addPoolPod(0)
				w.look("b").reconcile()
				w.look("a").settled()
				w.wantPhase("a", v1alpha1.PhaseSucceed)
				w.wantPhase("b", v1alpha1.PhasePending)
			})
		})
	}
}

func TestAGangThatAPoolBecomesTooSmallForLeavesTheQueueAndComesBackInItsOldPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.waits(wrappers.MakeBatch(namespace, "gang").Replicas(3).MinAvailable(3))
		time.Sleep(time.Second) // ages are in seconds
		w.waits(wrappers.MakeBatch(namespace, "b").Replicas(2))
		w.wantPlace("b", 2, 5)

		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 2 })
		w.look("gang").settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/ExceedsPoolMax")
		w.wantPhase("gang", v1alpha1.PhaseFailed)
		w.wantPlace("gang", 0, 0)
		w.look("b").settled() // the idle pod is free for it
		w.wantPlace("b", 1, 1)
		if c := w.counts(); c.Held != 1 || c.Waiting != 1 {
			t.Errorf("counts %+v, want 1 held and 1 waited for", c)
		}

		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 3 })
		w.look("gang").settled()
		w.wantPlace("gang", 1, 4)
		w.wantPhase("gang", v1alpha1.PhasePending)
		w.addPoolPod(1)
		w.look("b").reconcile()
		if c := w.counts(); c.Held != 1 || c.Idle != 1 {
			t.Errorf("counts %+v: the pod is to be kept for the gang", c)
		}
	})
}

func TestWhatExceedsPoolMaxIsToldAtOnceAndSetAside(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 3 })
		w.waits(wrappers.MakeBatch(namespace, "b").Replicas(5))
		w.wantCondition(v1alpha1.ConditionAllocated, "False/ExceedsPoolMax")
		w.wantPhase("b", v1alpha1.PhasePending) // two more may still come
		w.wantPlace("b", 1, 2)
		if diff := cmp.Diff([]string{"Allocated", v1alpha1.ReasonExceedsPoolMax}, w.toldEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		w.addPoolPod(1)
		w.addPoolPod(2)
		w.settled()
		w.wantPhase("b", v1alpha1.PhaseFailed)
		w.wantPlace("b", 0, 0)
		if diff := cmp.Diff([]string{"Allocated"}, w.toldEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		w.waits(wrappers.MakeBatch(namespace, "c")) // nobody is ahead of it
		w.wantPlace("c", 1, 1)

		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 5 })
		w.look("b").settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/WaitingForPool")
		w.wantPlace("b", 1, 3)
		w.wantPhase("b", v1alpha1.PhasePending)
	})
}

func TestABatchIsNotOvertakenAfterARestart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.waits(wrappers.MakeBatch(namespace, "z-old").Replicas(2).MinAvailable(2))
		time.Sleep(time.Second)
		w.waits(wrappers.MakeBatch(namespace, "a-young"))
		w.addPoolPod(0)
		w.startController()
		if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.takeWrites()
		w.look("a-young").reconcile() // asks first
		if writes := w.takeWrites(); len(writes) != 0 {
			t.Errorf("the younger batch writes %v", writes)
		}
		w.addPoolPod(1)
		w.look("z-old").settled()
		w.wantPhase("z-old", v1alpha1.PhaseSucceed)
		w.wantPhase("a-young", v1alpha1.PhasePending)
	})
}

func TestABatchWhoseDeliveryConflictsIsNotOvertaken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.waits(wrappers.MakeBatch(namespace, "a"))
		w.waits(wrappers.MakeBatch(namespace, "b"))
		w.addPoolPod(0)
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewConflict(schema.GroupResource{Resource: "batchsandboxes"}, "a", fmt.Errorf("it has changed"))
		}
		if res := w.look("a").reconcile(); res.RequeueAfter != staleRetry {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, staleRetry)
		}
		w.onPatch = nil
		w.look("b").reconcile()
		if c := w.counts(); c.Held != 0 || c.Waiting != 2 {
			t.Errorf("counts %+v: the pod is a's", c)
		}
		w.look("a").settled()
		w.wantPhase("a", v1alpha1.PhaseSucceed)
	})
}

// wakeRecorder counts who is woken.
type wakeRecorder struct {
	mu      sync.Mutex
	batches []string
}

func (r *wakeRecorder) WakeBatch(b types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b.Name)
}

func (r *wakeRecorder) WakePool(types.NamespacedName) {}

func (r *wakeRecorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.batches
	r.batches = nil
	slices.Sort(taken)
	return taken
}

func TestPlacesAreToldByEventAndPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		rec := &wakeRecorder{}
		ledger := scheduler.NewLedger(rec)
		told := map[string]scheduler.Place{}
		ask := func(name string) {
			told[name] = ledger.Assume(scheduler.Demand{
				Batch: types.NamespacedName{Namespace: namespace, Name: name}, UID: types.UID(name), Pool: "p", Missing: []int{0}, Told: told[name],
			}).Place
		}
		ended := make(chan error)
		go func() { ended <- NewPlaces(ledger, clock.RealClock{}).Start(ctx) }()
		const n = placesPerTurn + 10
		for i := range n {
			ask(fmt.Sprintf("b-%03d", i))
		}
		time.Sleep(placesPace - time.Millisecond)
		synctest.Wait()
		if woken := rec.take(); len(woken) != 0 {
			t.Errorf("woken %v before the burst was over", woken)
		}
		total := 0
		for turn, want := range []int{placesPerTurn, 9, 0, 0} { // the last told the right total from the start
			time.Sleep(placesPace)
			synctest.Wait()
			woken := rec.take()
			if len(woken) != want {
				t.Errorf("turn %d: %d woken, want %d", turn, len(woken), want)
			}
			total += len(woken)
			for _, name := range woken {
				ask(name)
			}
		}
		if total != n-1 {
			t.Errorf("%d woken in all, want each but the last once", total)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if woken := rec.take(); len(woken) != 0 {
			t.Errorf("woken %v at rest", woken)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}
