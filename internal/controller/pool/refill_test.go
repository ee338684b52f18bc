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

func TestARefillYieldsToDeliveriesWhereCreatesAreSlow(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		taken  time.Duration // ago
		took   time.Duration // the last create
		made   time.Duration // ago
		counts scheduler.Counts
		soon   scheduler.Forecast
		want   int

		poolMin int32
	}{
		{name: "a pool that nobody takes from", taken: calmAfter, took: time.Second, counts: scheduler.Counts{Idle: 90}, want: maxBurst},
		{name: "creates are fast", took: slowCreate - 1, counts: scheduler.Counts{Idle: 90}, want: maxBurst},
		{name: "creates are slow", took: slowCreate, counts: scheduler.Counts{Idle: 90}},
		{name: "the pool has rested as long as the create took", took: slowCreate, made: slowCreate, counts: scheduler.Counts{Idle: 90}, want: 1},
		{name: "half of bufferMin is there, or comes", took: slowCreate, counts: scheduler.Counts{Idle: 30, Starting: 20}},
		{name: "less than half of bufferMin is there", took: slowCreate, counts: scheduler.Counts{Idle: 30, Starting: 13}, want: 7},
		{name: "batches wait for what is there", took: slowCreate, counts: scheduler.Counts{Idle: 60, Waiting: 20}, want: 10},
		{
			name: "as many are taken while a pod starts", took: slowCreate, counts: scheduler.Counts{Idle: 60},
			soon: scheduler.Forecast{ClaimRate: 10, StartTime: 3 * time.Second}, want: 20,
		},
		{name: "poolMin asks for more than bufferMin", took: slowCreate, counts: scheduler.Counts{Idle: 60, Held: 50}, poolMin: 250, want: 40},
		{name: "very much is missing", took: slowCreate, counts: scheduler.Counts{Waiting: 5000}, want: maxBurst},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r refill
			r.observe(7, now.Add(-c.taken))
			r.made(c.took, now.Add(-c.made))
			spec := v1alpha1.CapacitySpec{BufferMin: 99, BufferMax: 200, PoolMin: c.poolMin, PoolMax: 10000}
			if got := r.yield(now).maxCreate(spec, c.counts, c.soon); got != c.want {
				t.Errorf("creates up to %d, want %d", got, c.want)
			}
		})
	}
}

func TestASlowPoolIsRefilledOneByOneAndAtOnceWhenItIsLeftAlone(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(20, 20).Size(0, 100).Obj())
	w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		w.clock.SetTime(w.clock.Now().Add(slowCreate))
		return c.Create(ctx, pod)
	}
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.after(time.Minute)
	w.reconcile()
	if w.creates != 20 {
		t.Fatalf("%d creates to fill the pool, want 20", w.creates)
	}
	w.hold("b", 1)
	w.reconcile() // which meets a slow create again
	w.hold("c", 8)
	for range 3 {
		res := w.reconcile()
		if res.RequeueAfter <= 0 || res.RequeueAfter > 2*slowCreate {
			t.Fatalf("looks again after %v, want to go on within %v", res.RequeueAfter, 2*slowCreate)
		}
		w.after(res.RequeueAfter)
	}
	if made := w.creates - 20; made < 2 || made > 4 {
		t.Errorf("%d pods made in three looks, want one in each that comes after a rest", made)
	}
	w.hold("d", 3) // 8 are idle and 1 to 3 start
	before := w.ledger.Counts(w.key)
	w.reconcile()
	if after := w.ledger.Counts(w.key); after.Buffer() < 10 {
		t.Errorf("a buffer of %d after %d, want at least half of bufferMin at once", after.Buffer(), before.Buffer())
	}
	w.after(calmAfter)
	w.reconcile()
	if n := w.ledger.Counts(w.key); n.Buffer() != 20 {
		t.Errorf("a buffer of %d when nobody takes any more, want 20", n.Buffer())
	}
}
