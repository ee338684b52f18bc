// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func TestArrivalsAreRepeatableAndOfTheRate(t *testing.T) {
	first, second := arrivals(1, 45, time.Minute), arrivals(1, 45, time.Minute)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the same seed has other moments (-first +second):\n%s", diff)
	}
	if slices.Equal(first, arrivals(2, 45, time.Minute)) {
		t.Error("another seed has the same moments")
	}
	if n := len(first); n < 2400 || n > 3000 { // 2700, give or take 5 standard deviations
		t.Errorf("%d in a minute, want about 2700", n)
	}
	if !slices.IsSorted(first) || first[0] < 0 || first[len(first)-1] >= time.Minute {
		t.Errorf("from %s to %s, want moments of the minute in order", first[0], first[len(first)-1])
	}
}

func TestInParallelCallsAllWithSoManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		called := map[int]int{}
		var now, most atomic.Int32
		err := inParallel(t.Context(), 3, 10, func(_ context.Context, i int) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second) // of the bubble's clock
			now.Add(-1)
			mu.Lock()
			defer mu.Unlock()
			called[i]++
			return nil
		})
		if err != nil || len(called) != 10 || most.Load() != 3 {
			t.Errorf("%d called, %d at once (%v), want 10 and 3", len(called), most.Load(), err)
		}
		for i, n := range called {
			if n != 1 {
				t.Errorf("%d was called %d times", i, n)
			}
		}
	})
}

func TestInParallelStopsAtAnErrorOrTheEndOfItsContext(t *testing.T) {
	broken := errors.New("broken")
	calls := atomic.Int32{}
	err := inParallel(t.Context(), 2, 1000, func(context.Context, int) error { calls.Add(1); return broken })
	if !errors.Is(err, broken) || calls.Load() > 2 {
		t.Errorf("%d calls and %v, want at most one for each worker, and what broke", calls.Load(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := inParallel(ctx, 2, 1000, func(context.Context, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the end of the context", err)
	}
}

// boardOf has seen these batches, one a second.
func boardOf(sights ...sight[*v1alpha1.BatchSandbox]) *board {
	b := &board{batches: map[string]*shown{}}
	for i, s := range sights {
		s.at = time.Unix(int64(i), 0)
		b.see(s)
	}
	return b
}

func seen(sb *v1alpha1.BatchSandbox) sight[*v1alpha1.BatchSandbox] {
	return sight[*v1alpha1.BatchSandbox]{object: sb}
}

func TestABoardKnowsWhenABatchWasDelivered(t *testing.T) {
	batch := func() *wrappers.BatchWrapper { return wrappers.MakeBatch("ns", "b").Replicas(2) }
	asked := seen(batch().Obj())
	partly := seen(batch().Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1",""]`).Obj())
	delivered := seen(batch().Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1","127.0.0.2"]`).Obj())
	reported := seen(delivered.object.DeepCopy())
	reported.object.Status.Ready = 2
	gone := delivered
	gone.deleted = true
	for name, test := range map[string]struct {
		sights    []sight[*v1alpha1.BatchSandbox]
		delivered int64 // the second of it; 0 for not
		settled   int
	}{
		"asked for":                           {[]sight[*v1alpha1.BatchSandbox]{asked}, 0, 0},
		"one endpoint of two":                 {[]sight[*v1alpha1.BatchSandbox]{asked, partly}, 0, 0},
		"all endpoints":                       {[]sight[*v1alpha1.BatchSandbox]{asked, partly, delivered}, 2, 0},
		"shown again":                         {[]sight[*v1alpha1.BatchSandbox]{asked, delivered, delivered}, 1, 0},
		"reported":                            {[]sight[*v1alpha1.BatchSandbox]{asked, delivered, reported}, 1, 1},
		"reported, then gone":                 {[]sight[*v1alpha1.BatchSandbox]{asked, delivered, reported, gone}, 1, 1},
		"gone before it was reported":         {[]sight[*v1alpha1.BatchSandbox]{asked, delivered, gone}, 1, 1},
		"first shown when it is all there is": {[]sight[*v1alpha1.BatchSandbox]{asked, reported}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := boardOf(test.sights...)
			it := b.get("b")
			n, settled := b.counts()
			if got := !it.delivered.IsZero(); got != (test.delivered > 0) || got && it.delivered.Unix() != test.delivered || got != (n == 1) {
				t.Errorf("delivered at %v, %d in all, want second %d", it.delivered, n, test.delivered)
			}
			if settled != test.settled {
				t.Errorf("%d settled, want %d", settled, test.settled)
			}
		})
	}
}

func TestDeliveriesCountFromWhenTheyWereAskedFor(t *testing.T) {
	begin := time.Unix(-1, 0)
	delivered := func(name string) sight[*v1alpha1.BatchSandbox] {
		return seen(wrappers.MakeBatch("ns", name).Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1"]`).Obj())
	}
	b := boardOf(delivered("a"), delivered("b"))
	d := b.deliveries(begin, []string{"a", "b", "c"}, []time.Time{begin, time.Unix(0, 0), begin})
	if diff := cmp.Diff([]time.Duration{time.Second, time.Second}, d.times); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	if d.took != 2*time.Second || d.missing != 1 || d.sample.Name != "b" {
		t.Errorf("took %s, %d missing, sample %s, want 2s, 1 and b", d.took, d.missing, d.sample.Name)
	}
}
