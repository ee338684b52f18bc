// SPDX-License-Identifier: Apache-2.0

package slowstart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDoCallsEachIndexOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 64, 200} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var mu sync.Mutex
			var called []int
			succeeded, err := Do(context.Background(), n, func(_ context.Context, i int) error {
				mu.Lock()
				defer mu.Unlock()
				called = append(called, i)
				return nil
			})
			if err != nil || succeeded != n {
				t.Errorf("Do(%d) = %d, %v, want all to succeed", n, succeeded, err)
			}
			slices.Sort(called)
			var want []int
			for i := range n {
				want = append(want, i)
			}
			if diff := cmp.Diff(want, called); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// Every call takes one second of the bubble's time, so that the calls of one batch share their second.
func TestDoDoublesItsBatchesUpToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		bySecond := map[int]int{}
		succeeded, err := Do(context.Background(), 200, func(context.Context, int) error {
			mu.Lock()
			bySecond[int(time.Since(start).Seconds())]++
			mu.Unlock()
			time.Sleep(time.Second)
			return nil
		})
		if err != nil || succeeded != 200 {
			t.Fatalf("Do = %d, %v", succeeded, err)
		}
		want := map[int]int{0: 1, 1: 2, 2: 4, 3: 8, 4: 16, 5: 32, 6: MaxParallel, 7: MaxParallel, 8: 9}
		if diff := cmp.Diff(want, bySecond); diff != "" {
			t.Errorf("calls by second (-want +got):\n%s", diff)
		}
	})
}

func TestDoStopsAfterTheFirstBatchWithAnError(t *testing.T) {
	refused := errors.New("refused")
	var mu sync.Mutex
	calls := 0
	succeeded, err := Do(context.Background(), 100, func(_ context.Context, i int) error {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if i == 4 { // in the third batch: 3, 4, 5, 6
			return refused
		}
		return nil
	})
	if !errors.Is(err, refused) {
		t.Errorf("err = %v, want the error of the call", err)
	}
	if calls != 7 || succeeded != 6 {
		t.Errorf("%d calls, %d succeeded, want 7 and 6: the rest of the batch counts, nothing comes after it", calls, succeeded)
	}
}

func TestDoJoinsTheErrorsOfABatch(t *testing.T) {
	var errs [3]error
	for i := range errs {
		errs[i] = fmt.Errorf("refused %d", i)
	}
	_, err := Do(context.Background(), 3, func(_ context.Context, i int) error {
		if i == 0 {
			return nil
		}
		return errs[i]
	})
	if errors.Is(err, errs[0]) || !errors.Is(err, errs[1]) || !errors.Is(err, errs[2]) {
		t.Errorf("err = %v, want those of calls 1 and 2", err)
	}
}
