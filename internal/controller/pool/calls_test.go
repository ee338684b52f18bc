// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// slowExecutors answer after a second, and count.
type slowExecutors struct {
	mu       sync.Mutex
	inFlight map[string]int // by the first part of the address
	most     map[string]int
	asked    []string // addresses, in order
}

func (s *slowExecutors) dial(ip string, _ types.UID) Executor {
	return &slowExecutor{slowExecutors: s, ip: ip}
}

type slowExecutor struct {
	*slowExecutors
	ip string
}

func (e *slowExecutor) Recycle(ctx context.Context, _ string) error {
	kind, _, _ := strings.Cut(e.ip, "-")
	e.count(kind, 1)
	defer e.count(kind, -1)
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *slowExecutor) Recycled(ctx context.Context) (taskexecutor.RecycleState, error) {
	return taskexecutor.RecycleState{ID: e.ip, Clean: true}, e.Recycle(ctx, "")
}

func (s *slowExecutors) count(kind string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []string{kind, "all"} {
		s.inFlight[key] += by
		s.most[key] = max(s.most[key], s.inFlight[key])
	}
	if by > 0 {
		s.asked = append(s.asked, kind)
	}
}

// callsWorld is Calls in a bubble whose time moves only while everything waits, and which fails if a goroutine is left.
type callsWorld struct {
	*Calls
	slow   *slowExecutors
	cancel context.CancelFunc

	mu    sync.Mutex
	woken map[string]int
}

func inCalls(t *testing.T, f func(w *callsWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &callsWorld{
			cancel: cancel, woken: map[string]int{},
			slow: &slowExecutors{inFlight: map[string]int{}, most: map[string]int{}},
		}
		w.Calls = NewCalls(ctx, func(pool types.NamespacedName) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.woken[pool.Name]++
		}, w.slow.dial)
		defer w.Wait()
		defer cancel()
		f(w)
	})
}

func callOf(pool string, i int) call {
	pod := fmt.Sprintf("%s-%d", pool, i)
	return call{pool: types.NamespacedName{Name: pool}, pod: types.UID(pod), ip: pod, version: "1"}
}

func TestEveryCallIsAnsweredAndWakesItsPool(t *testing.T) {
	inCalls(t, func(w *callsWorld) {
		const n = 200
		for i := range n {
			w.make(callOf("a", i))
			w.make(callOf("a", i)) // a second one of the same pod is dropped
		}
		ask := callOf("b", 0)
		ask.recycling = "batch"
		w.make(ask)
		w.Wait()
		answers := w.take(types.NamespacedName{Name: "a"})
		if len(answers) != n || w.woken["a"] != n || w.woken["b"] != 1 {
			t.Errorf("%d answers, pools woken %v, want %d", len(answers), w.woken, n)
		}
		if a := answers["a-7"]; a.report.ID != "a-7" || a.err != nil || a.version != "1" {
			t.Errorf("answer %+v", a)
		}
		if again := w.take(types.NamespacedName{Name: "a"}); len(again) > 0 {
			t.Errorf("%d answers are given twice", len(again))
		}
		if b := w.take(types.NamespacedName{Name: "b"}); len(b) != 1 || b["b-0"].recycling != "batch" {
			t.Errorf("answers %+v", b)
		}
		if len(w.pools) > 0 || len(w.turns) > 0 {
			t.Errorf("remembered for ever: %v, %v", w.pools, w.turns)
		}
	})
}

func TestCallsAreBoundedAndPoolsTakeTurns(t *testing.T) {
	inCalls(t, func(w *callsWorld) {
		for i := range 200 {
			w.make(callOf("large", i))
		}
		synctest.Wait()
		start := time.Now()
		w.make(callOf("small", 0))
		synctest.Wait()
		if w.slow.inFlight["small"] != 1 || !time.Now().Equal(start) {
			t.Errorf("a call waits for those of another pool: in flight are %v", w.slow.inFlight)
		}
		for pool := range 10 {
			for i := range 100 {
				w.make(callOf(fmt.Sprintf("p%d", pool), i))
			}
		}
		w.Wait()
		if most := w.slow.most; most["all"] != maxCalls || most["large"] > maxCallsOfPool || most["p3"] > maxCallsOfPool {
			t.Errorf("most at once: %v, want %d and %d of a pool", most, maxCalls, maxCallsOfPool)
		}
		for _, kind := range w.slow.asked[len(w.slow.asked)-5:] {
			if kind == "small" {
				t.Error("the small pool came last")
			}
		}
	})
}

func TestNoCallOutlivesItsProcess(t *testing.T) {
	inCalls(t, func(w *callsWorld) {
		for i := range 100 {
			w.make(callOf("a", i))
		}
		synctest.Wait()
		start := time.Now()
		w.cancel()
		w.Wait()
		if took := time.Since(start); took > 0 || len(w.slow.asked) != maxCallsOfPool {
			t.Errorf("the end took %v, and %d calls were made", took, len(w.slow.asked))
		}
		if a := w.take(types.NamespacedName{Name: "a"})["a-0"]; !errors.Is(a.err, context.Canceled) {
			t.Errorf("answer %+v", a)
		}
		w.make(callOf("b", 0))
		w.Wait()
		if len(w.slow.asked) != maxCallsOfPool {
			t.Error("a call was made after the end")
		}
	})
}
