// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// batchWaker notes the batches that are woken.
type batchWaker func(types.NamespacedName)

func (f batchWaker) WakeBatch(batch types.NamespacedName) { f(batch) }
func (batchWaker) WakePool(types.NamespacedName)          {}

func TestTheHolderOfAPodIsToldOfRestartsAndOfWhyItWent(t *testing.T) {
	woken := 0
	l := NewLedger(batchWaker(func(types.NamespacedName) { woken++ }))
	pool, batch := types.NamespacedName{Namespace: "ns", Name: "p"}, types.NamespacedName{Namespace: "ns", Name: "b"}
	pod := Pod{Name: "a", UID: "a", ResourceVersion: "1", State: PodReady}
	l.ObservePod(pool, pod)
	l.Assume(Demand{Batch: batch, UID: "b", Pool: "p", Missing: []int{0}})
	l.Confirm(batch)

	woken = 0
	pod.ResourceVersion, pod.Restarts = "2", 1
	l.ObservePod(pool, pod)
	if woken != 1 {
		t.Errorf("a restart wakes the holder %d times, want once", woken)
	}
	pod.ResourceVersion, pod.State, pod.Loss = "3", PodTerminating, "evicted"
	l.ObservePod(pool, pod)
	if h := l.Holdings(batch, "b"); h[0].Pod == nil || h[0].Pod.Loss != "evicted" {
		t.Errorf("holdings %+v of a pod on its way out, want evicted", h)
	}
	l.RemovePod(pool, "a", "a")
	if h := l.Holdings(batch, "b"); h[0].Pod != nil || h[0].Loss != "evicted" {
		t.Errorf("holdings %+v of a pod that is gone, want evicted", h)
	}
}
