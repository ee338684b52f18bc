// SPDX-License-Identifier: Apache-2.0

// Package slowstart runs many like calls in parallel without flooding an API server that refuses them.
package slowstart

import (
	"context"
	"errors"
	"sync"
)

// MaxParallel is the greatest number of calls in flight at once.
const MaxParallel = 64

// Do calls f(0) to f(n-1) in batches of 1, 2, 4, ... up to MaxParallel, and stops after the first batch with an
// error. It returns the number of calls that succeeded and the errors of that batch, joined.
func Do(ctx context.Context, n int, f func(ctx context.Context, i int) error) (succeeded int, err error) {
	for done, size := 0, 1; done < n; size = min(2*size, MaxParallel) {
		size = min(size, n-done)
		errs := make([]error, size)
		var wg sync.WaitGroup
		for i := range size {
			wg.Go(func() { errs[i] = f(ctx, done+i) })
		}
		wg.Wait()
		done += size
		for _, e := range errs {
			if e == nil {
				succeeded++
			}
		}
		if err := errors.Join(errs...); err != nil {
			return succeeded, err
		}
	}
	return succeeded, nil
}
