// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
)

// inParallel calls do(0) to do(n-1), so many at once, until one fails. It returns the first error.
func inParallel(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turns := make(chan int)
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for i := range turns {
				if err := do(ctx, i); err != nil {
					cancel(err) // the first counts
					return
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case turns <- i:
		case <-ctx.Done():
		}
	}
	close(turns)
	wg.Wait()
	return context.Cause(ctx)
}

// arrivals are the moments, after the beginning, at which a Poisson process of that rate a second has its events in a time.
// The same seed has the same moments.
func arrivals(seed uint64, rate float64, d time.Duration) []time.Duration {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it needs to be repeatable, not secret
	var due []time.Duration
	for at := 0.0; ; {
		at += random.ExpFloat64() / rate
		if at >= d.Seconds() {
			return due
		}
		due = append(due, time.Duration(at*float64(time.Second)))
	}
}

// volley is how batches are asked for.
type volley struct {
	kind, pool string
	// replicas is the size of each batch; 0 is 1.
	replicas int
	// n is how many, clients how many are asked for at once.
	n, clients int
	// due are the moments, after the beginning, at which they are asked for; nil for as fast as the clients can.
	due []time.Duration
	// then is what a client does once it has asked for a batch; nil for nothing.
	then func(ctx context.Context, b *board, sb *v1alpha1.BatchSandbox) error
	// patience is how long those that are missing are waited for in the end; 0 for stepTimeout.
	patience time.Duration
}

// deliveries are what came of a volley.
type deliveries struct {
	// times are from when each was due, or else asked for, to its delivery as the watch shows it.
	times []time.Duration
	// took is from the beginning to the last delivery, clients to when the last client was done.
	took, clients time.Duration
	// missing is the number of those that were not delivered.
	missing int
	// sample is one of the batches, as delivered and reported.
	sample *v1alpha1.BatchSandbox
}

// fire has ask ask for the batches of a volley, and waits until all are delivered and reported.
func (e *env) fire(ctx context.Context, b *board, v volley, ask func(ctx context.Context, sb *v1alpha1.BatchSandbox) error) (deliveries, error) {
	run := uniqueName(v.kind)
	names, asked := make([]string, v.n), make([]time.Time, v.n)
	_, before := b.counts()
	begin := time.Now()
	err := inParallel(ctx, v.clients, v.n, func(ctx context.Context, i int) error {
		sb := batchOf(fmt.Sprintf("%s-%05d", run, i), v.pool, max(1, v.replicas))
		names[i], asked[i] = sb.Name, time.Now()
		if v.due != nil {
			asked[i] = begin.Add(v.due[i])
			if err := pause(ctx, time.Until(asked[i])); err != nil {
				return err
			}
		}
		if err := ask(ctx, sb); err != nil {
			return err
		}
		if v.then == nil {
			return nil
		}
		return v.then(ctx, b, sb)
	})
	clients := time.Since(begin)
	if err != nil {
		return deliveries{}, err
	}
	patience := v.patience
	if patience == 0 {
		patience = stepTimeout
	}
	err = e.until(ctx, patience, "all are delivered", func() (bool, string) {
		delivered, settled := b.counts()
		return settled-before >= v.n, fmt.Sprintf("%d of %d are reported, and %d of all delivered (%v)", settled-before, v.n, delivered, b.check())
	})
	if err != nil && (v.patience == 0 || !errors.Is(err, context.DeadlineExceeded)) {
		return deliveries{}, err
	}
	d := b.deliveries(begin, names, asked)
	d.clients = clients
	return d, nil
}

// deliveries reads what came of batches that were asked for at these times.
func (b *board) deliveries(begin time.Time, names []string, asked []time.Time) deliveries {
	var d deliveries
	for i, name := range names {
		it := b.get(name)
		if it.delivered.IsZero() {
			d.missing++
			continue
		}
		d.times = append(d.times, it.delivered.Sub(asked[i]))
		d.took = max(d.took, it.delivered.Sub(begin))
		d.sample = it.object
	}
	return d
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// create asks for a batch, as clients do.
func (e *env) create(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
	if err := e.cluster.Client.Create(ctx, sb); err != nil {
		return fmt.Errorf("make batch %s: %w", sb.Name, err)
	}
	return nil
}

// remove deletes a batch, as clients do.
func (e *env) remove(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
	if err := e.cluster.Client.Delete(ctx, sb); err != nil {
		return fmt.Errorf("delete batch %s: %w", sb.Name, err)
	}
	return nil
}

// round is a volley with what it cost.
type round struct {
	deliveries
	costs costs
}

// fireCounted fires a volley with a watch of its own, and counts what it cost.
func (e *env) fireCounted(ctx context.Context, v volley, ask func(ctx context.Context, sb *v1alpha1.BatchSandbox) error) (round, error) {
	b, err := e.watchBatches(ctx)
	if err != nil {
		return round{}, err
	}
	defer b.stop()
	s, err := e.beginSpan(ctx)
	if err != nil {
		return round{}, err
	}
	var r round
	if r.deliveries, err = e.fire(ctx, b, v, ask); err != nil {
		return round{}, err
	}
	r.costs, err = s.end(ctx)
	return r, err
}

// floorOf does what the controller did, with bare clients and no controller, and cleans up. The pools must be gone.
func (e *env) floorOf(ctx context.Context, v volley, d delivery) (round, error) {
	if err := e.stopController(); err != nil {
		return round{}, err
	}
	e.tell("the floor: bare clients make the same writes")
	r, err := e.fireCounted(ctx, v, func(ctx context.Context, sb *v1alpha1.BatchSandbox) error { return e.deliverBare(ctx, sb, d) })
	if err != nil {
		return round{}, err
	}
	return r, e.clearBare(ctx)
}

// milliseconds are durations as numbers, for plots.
func milliseconds(all []time.Duration) []float64 {
	values := make([]float64, 0, len(all))
	for _, d := range slices.Sorted(slices.Values(all)) {
		values = append(values, float64(d)/float64(time.Millisecond))
	}
	return values
}
