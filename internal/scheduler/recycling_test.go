// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestRecyclingListsMarkedPodsThatNobodyHolds(t *testing.T) {
	var woken []types.NamespacedName
	l := NewLedger(poolWaker(func(pool types.NamespacedName) { woken = append(woken, pool) }))
	pool := types.NamespacedName{Namespace: "ns", Name: "p"}
	names := func() (list []string) {
		for _, p := range l.Recycling(pool) {
			list = append(list, p.Name)
		}
		return list
	}
	marked := Pod{Name: "a", UID: "a", ResourceVersion: "2", State: PodStarting, Recycling: true}
	l.ObservePod(pool, Pod{Name: "a", UID: "a", ResourceVersion: "1", State: PodReady})
	batch := types.NamespacedName{Namespace: "ns", Name: "b"}
	l.Assume(Demand{Batch: batch, UID: "b", Pool: "p", Missing: []int{0}})
	l.Confirm(batch)
	l.ObservePod(pool, marked)
	if got := names(); len(got) != 0 {
		t.Errorf("held pods are listed: %v", got)
	}
	l.ReleaseAll(batch)
	if got := names(); len(got) != 1 || l.Counts(pool).Idle != 0 {
		t.Errorf("released: %v, counts %+v", got, l.Counts(pool))
	}

	woken = nil
	l.ObservePod(pool, marked)
	if len(woken) != 0 {
		t.Error("old news wakes the pool")
	}
	marked.ResourceVersion = "3" // its containers are others now
	l.ObservePod(pool, marked)
	if len(woken) != 1 {
		t.Errorf("news of a marked pod wakes the pool %d times, want once", len(woken))
	}

	l.Discard(pool, "a")
	if got := names(); len(got) != 0 {
		t.Errorf("a deleted pod is listed: %v", got)
	}
	l.Unretire(pool, "a")
	marked.ResourceVersion, marked.Recycling, marked.State = "4", false, PodReady
	l.ObservePod(pool, marked)
	if got := names(); len(got) != 0 || l.Counts(pool).Idle != 1 {
		t.Errorf("unmarked: %v, counts %+v", got, l.Counts(pool))
	}
	marked.ResourceVersion, marked.Recycling, marked.State = "5", true, PodStarting
	l.ObservePod(pool, marked)
	l.RemovePod(pool, "a", "a")
	if got := names(); len(got) != 0 {
		t.Errorf("a pod that is gone is listed: %v", got)
	}
}

// poolWaker notes the pools that are woken.
type poolWaker func(types.NamespacedName)

func (poolWaker) WakeBatch(types.NamespacedName)       {}
func (f poolWaker) WakePool(pool types.NamespacedName) { f(pool) }
