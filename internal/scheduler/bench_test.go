// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
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
