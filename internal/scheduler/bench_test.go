// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// poolSizes are what the cost of an allocation must not depend on.
var poolSizes = []int{100, 10_000, 100_000}

type silent struct{}

func (silent) WakeBatch(types.NamespacedName) {}
func (silent) WakePool(types.NamespacedName)  {}

func newLargePool(n int) *Ledger {
	l := NewLedger(silent{})
	l.ObservePool(poolP, "r1")
	for i := range n {
		l.ObservePod(poolP, readyPod(fmt.Sprintf("p-%d", i)))
	}
	return l
}

// allocateAndRelease is one allocation of one pod, from demand to release.
func allocateAndRelease(l *Ledger) int {
	granted := len(l.Assume(demand("b", 0, 0)).Grants)
	l.Confirm(key("b"))
	l.ReleaseAll(key("b"))
	return granted
}

// BenchmarkAllocate is one allocation of one pod and its release, in pools of several sizes.
func BenchmarkAllocate(b *testing.B) {
	for _, n := range poolSizes {
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			l := newLargePool(n)
			b.ReportAllocs()
			for b.Loop() {
				if allocateAndRelease(l) != 1 {
					b.Fatal("no pod was granted")
				}
			}
		})
	}
}

// The number of memory allocations of an allocation doesn't depend on the size of the pool.
func TestCostOfAnAllocationDoesNotGrowWithThePool(t *testing.T) {
	var first float64
	for i, n := range []int{100, 10_000} {
		l := newLargePool(n)
		got := testing.AllocsPerRun(200, func() { allocateAndRelease(l) })
		if i == 0 {
			first = got
		}
		if got > first {
			t.Errorf("%d pods: %.0f allocations of memory, with 100 pods %.0f", n, got, first)
		}
	}
}

// queueLengths are what the cost of an event of a queue must not depend on.
var queueLengths = []int{10, 1_000, 10_000}

// newLongQueue returns a ledger with n batches that wait.
func newLongQueue(n int) *Ledger {
	l := NewLedger(silent{})
	l.ObservePool(poolP, "r1")
	for i := range n {
		l.Assume(demand(batchName(i), 100_000-i, 0))
	}
	return l
}

// queueEvents are what happens to a queue of n all the time; each leaves it as it was.
var queueEvents = map[string]func(n int) func(l *Ledger){
	"a batch comes and goes": func(n int) func(l *Ledger) {
		d := demand(batchName(n), 100_000-n/2, 0) // into the middle
		return func(l *Ledger) {
			l.Assume(d)
			l.BatchGone(d.Batch)
		}
	},
	"a batch looks at its place": func(n int) func(l *Ledger) {
		d := demand(batchName(n/2), 100_000-n/2, 0)
		d.Told = Place{1, 1}
		return func(l *Ledger) { l.Assume(d) }
	},
	"a priority is raised and lowered": func(n int) func(l *Ledger) {
		d := demand(batchName(n/2), 100_000-n/2, 0)
		return func(l *Ledger) {
			l.Assume(urgent(d, 1))
			l.Assume(d)
		}
	},
	"the head is served and comes back": func(int) func(l *Ledger) {
		d := demand(batchName(0), 100_000, 0)
		return func(l *Ledger) {
			l.ObservePod(poolP, readyPod("p-0"))
			l.Assume(d)
			l.Confirm(d.Batch)
			l.Discard(poolP, "p-0")
			l.RemovePod(poolP, "p-0", "uid-p-0")
			l.Release(d.Batch, []int{0})
			l.Assume(d)
		}
	},
}

// BenchmarkQueue is one event of a queue, with queues of several lengths.
func BenchmarkQueue(b *testing.B) {
	for _, name := range slices.Sorted(maps.Keys(queueEvents)) {
		for _, n := range queueLengths {
			b.Run(fmt.Sprintf("%s/waiting=%d", name, n), func(b *testing.B) {
				l, event := newLongQueue(n), queueEvents[name](n)
				b.ReportAllocs()
				for b.Loop() {
					event(l)
				}
			})
		}
	}
}

// BenchmarkTellPlaces is one turn of what tells the places, every one of which is wrong.
func BenchmarkTellPlaces(b *testing.B) {
	for _, n := range queueLengths {
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) {
			l := newLongQueue(n)
			p := l.pools[poolP]
			b.ReportAllocs()
			for b.Loop() {
				p.queue.mostWrong(50)
			}
		})
	}
}

// The number of memory allocations of an event doesn't depend on how many batches wait.
func TestCostOfAnEventDoesNotGrowWithTheQueue(t *testing.T) {
	for name, eventOf := range queueEvents {
		t.Run(name, func(t *testing.T) {
			var first float64
			for i, n := range queueLengths {
				l, event := newLongQueue(n), eventOf(n)
				event(l) // the queue's list may grow once
				got := testing.AllocsPerRun(200, func() { event(l) })
				if i == 0 {
					first = got
				}
				if got != first {
					t.Errorf("%d batches wait: %.0f allocations of memory, with %d %.0f", n, got, queueLengths[0], first)
				}
			}
		})
	}
}
