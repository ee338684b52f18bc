// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

func TestARefillYieldsToDeliveries(t *testing.T) {
	const took = 20 * time.Millisecond // the last create
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		taken  time.Duration // ago
		made   time.Duration // ago, the last pod
		counts scheduler.Counts
		soon   scheduler.Forecast
		want   int

		poolMin int32
	}{
		{name: "a pool that nobody takes from is filled at once", taken: calmAfter, counts: scheduler.Counts{Idle: 90}, want: maxBurst},
		{name: "a full pool rests", made: longestRest*took - 1, counts: scheduler.Counts{Idle: 100}},
		{name: "and makes one after its rest", made: longestRest * took, counts: scheduler.Counts{Idle: 100}, want: 1},
		{name: "halfway to the reserve it rests half as long", made: longestRest * took / 2, counts: scheduler.Counts{Idle: 40, Starting: 22}, want: 1},
		{name: "but not shorter", made: longestRest*took/2 - 1, counts: scheduler.Counts{Idle: 41, Starting: 22}},
		{name: "with no more than the reserve it rests no more", counts: scheduler.Counts{Idle: 25}, want: 1},
		{name: "what is missing of the reserve is made at once", counts: scheduler.Counts{Idle: 10, Starting: 8}, want: 7},
		{name: "batches wait for what is there", counts: scheduler.Counts{Idle: 40, Waiting: 25}, want: 10},
		{
			name: "the reserve lasts while a pod starts", counts: scheduler.Counts{Idle: 35},
			soon: scheduler.Forecast{ClaimRate: 10, StartTime: 3 * time.Second}, want: 20,
		},
		{
			name: "more is taken while a pod starts than the spec asks for", counts: scheduler.Counts{Idle: 100},
			soon: scheduler.Forecast{ClaimRate: 100, StartTime: time.Second}, want: 25,
		},
		{name: "poolMin asks for more than bufferMin", counts: scheduler.Counts{Idle: 40, Held: 50}, poolMin: 250, want: 10},
		{name: "very much is missing", counts: scheduler.Counts{Waiting: 5000}, want: maxBurst},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r refill
			r.observe(7, now.Add(-c.taken))
			r.made(took, now.Add(-c.made))
			spec := v1alpha1.CapacitySpec{BufferMin: 100, BufferMax: 200, PoolMin: c.poolMin, PoolMax: 10000}
			if got := r.yield(now, spec, c.counts, c.soon).maxCreate(); got != c.want {
				t.Errorf("creates up to %d, want %d", got, c.want)
			}
		})
	}
}

func TestAPoolIsRefilledOneByOneAndAtOnceWhenItIsLeftAlone(t *testing.T) {
	const slow = 10 * time.Millisecond
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(20, 20).Size(0, 100).Obj())
	w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		w.clock.SetTime(w.clock.Now().Add(slow))
		return c.Create(ctx, pod)
	}
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.after(time.Minute)
	w.reconcile()
	if w.creates != 20 {
		t.Fatalf("%d creates to fill the pool, want 20", w.creates)
	}
	w.hold("b", 9)
	for range 3 {
		res := w.reconcile()
		if res.RequeueAfter <= 0 || res.RequeueAfter > (1+longestRest)*slow {
			t.Fatalf("looks again after %v, want to go on within %v", res.RequeueAfter, (1+longestRest)*slow)
		}
		w.after(res.RequeueAfter)
	}
	if made := w.creates - 20; made != 3 {
		t.Errorf("%d pods made in three looks, want one in each", made)
	}
	w.hold("c", 10) // 1 is idle and 3 start
	before := w.ledger.Counts(w.key)
	w.reconcile()
	if after := w.ledger.Counts(w.key); after.Buffer() < 5 {
		t.Errorf("a buffer of %d after %d, want a quarter of bufferMin at once", after.Buffer(), before.Buffer())
	}
	w.after(calmAfter)
	w.reconcile()
	if n := w.ledger.Counts(w.key); n.Buffer() != 20 {
		t.Errorf("a buffer of %d when nobody takes any more, want 20", n.Buffer())
	}
}
