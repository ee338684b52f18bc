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

func TestReleasedPodsAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(l *Ledger) // to p-0, while b holds it
		want    Released
	}{
		"handed on as it is":          {func(*Ledger) {}, Released{Recycled: 1}},
		"handed on, and not Ready":    {change(func(p *Pod) { p.State = PodStarting }), Released{Recycled: 1}},
		"marked":                      {change(func(p *Pod) { p.State, p.Recycling = PodStarting, true }), Released{}},
		"marked for eviction":         {change(func(p *Pod) { p.State = PodUnusable }), Released{}},
		"deleted by somebody":         {change(func(p *Pod) { p.State = PodTerminating }), Released{}},
		"deleted, and gone":           {func(l *Ledger) { l.RemovePod(poolP, "p-0", "uid-p-0") }, Released{}},
		"replaced":                    {func(l *Ledger) { l.Replace(poolP, "p-0") }, Released{Replaced: 1}},
		"replaced, tried twice":       {func(l *Ledger) { l.Replace(poolP, "p-0"); l.Replace(poolP, "p-0") }, Released{Replaced: 1}},
		"lost, and discarded":         {func(l *Ledger) { l.Discard(poolP, "p-0") }, Released{}},
		"replaced, its news was here": {func(l *Ledger) { l.RemovePod(poolP, "p-0", "uid-p-0"); l.Replace(poolP, "p-0") }, Released{Replaced: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newPool(1)
			l.Assume(demand("b", 0, 0))
			l.Confirm(key("b"))
			c.happens(l)
			l.ReleaseAll(key("b"))
			l.RemovePod(poolP, "p-0", "uid-p-0") // the pool is empty, and the count is kept
			if got := l.TakeReleased(poolP); got != c.want {
				t.Errorf("counted %+v, want %+v", got, c.want)
			}
			if got := l.TakeReleased(poolP); got != (Released{}) || len(l.pools) > 0 {
				t.Errorf("counted again: %+v; %d pools are remembered", got, len(l.pools))
			}
		})
	}
}

// A pod that was only assumed was never in use.
func TestAPodThatABatchDidNotGetIsNotCounted(t *testing.T) {
	l, _ := newPool(1)
	l.Assume(demand("b", 0, 0))
	l.Settle(Settlement{Batch: key("b"), UID: "uid-b", Pool: "p"})
	l.Assume(demand("b", 0, 0))
	l.BatchGone(key("b"))
	if got := l.TakeReleased(poolP); got != (Released{}) {
		t.Errorf("counted %+v", got)
	}
}

// change changes p-0 as the watch shows it.
func change(f func(*Pod)) func(*Ledger) {
	return func(l *Ledger) {
		pod := readyPod("p-0")
		pod.ResourceVersion = "2"
		f(&pod)
		l.ObservePod(poolP, pod)
	}
}

// poolWaker notes the pools that are woken.
type poolWaker func(types.NamespacedName)

func (poolWaker) WakeBatch(types.NamespacedName)       {}
func (f poolWaker) WakePool(pool types.NamespacedName) { f(pool) }
