// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/bench/internal/stats"
)

const (
	scalePools = 20
	// scaleShare is one batch for so many pods.
	scaleShare = 5
	// scaleSingles is the number of single deliveries whose times are compared.
	scaleSingles = 50
	// Goals: memory in MiB, the time from a restart to the first delivery in ms, and a single delivery's p50 in those of a small
	// cluster.
	scaleMemory, scaleRestart, scaleRatio = 250, 5000, 1.5
)

func scaleScenario() scenario {
	return scenario{
		name:  "scale",
		about: fmt.Sprintf("N pods in %d pools and a batch for each %d pods, beside one pool of POOL", scalePools, scaleShare),
		sizes: sizes{N: 10_000, Pool: 400},
		run:   runScale,
		plot:  distributions("A single delivery, one after the other", plot.Log),
	}
}

func runScale(ctx context.Context, e *env, s sizes) (findings, error) {
	each := s.N / scalePools
	if each/scaleShare+2 > each || s.Pool < 2 {
		return findings{}, fmt.Errorf("%d pods in %d pools are too few, or a pool of %d: raise N or POOL", s.N, scalePools, s.Pool)
	}
	small := fixedPool("small", s.Pool, v1alpha1.RecycleNoop)
	if err := e.fresh(ctx, s.Pool, small); err != nil {
		return findings{}, err
	}
	before, err := e.singles(ctx, small.Name)
	if err != nil {
		return findings{}, err
	}
	pools, err := e.grow(ctx, each)
	if err != nil {
		return findings{}, err
	}
	after, err := e.singles(ctx, pools[0].Name)
	if err != nil {
		return findings{}, err
	}
	use, err := e.snapshot(ctx)
	if err != nil {
		return findings{}, err
	}
	if err := e.profileHeap(ctx); err != nil {
		return findings{}, err
	}
	restart, err := e.restart(ctx, pools[1].Name)
	if err != nil {
		return findings{}, err
	}
	again, err := e.usage()
	if err := errors.Join(err, e.clear(ctx), e.stopController()); err != nil {
		return findings{}, err
	}
	floor, err := e.floorOf(ctx, volley{kind: "single", pool: pools[0].Name, n: scaleSingles, clients: 1, then: e.turnOverBare}, deliveryOf(after.sample))
	if err != nil {
		return findings{}, err
	}
	return scaleFindings(before, after, floor, scaleUse{use, restart, float64(again.PeakMemory)}), nil
}

// grow makes the pools with their batches, and waits until the controller is at rest.
func (e *env) grow(ctx context.Context, each int) ([]*v1alpha1.Pool, error) {
	pools := make([]*v1alpha1.Pool, 0, scalePools)
	for i := range scalePools {
		pools = append(pools, fixedPool(fmt.Sprintf("scale-%d", i), each, v1alpha1.RecycleNoop))
	}
	if err := e.fresh(ctx, each, pools...); err != nil {
		return nil, err
	}
	for i, pool := range pools {
		e.tell("batches of pool %d of %d", i+1, len(pools))
		if _, err := e.fireCounted(ctx, volley{kind: pool.Name, pool: pool.Name, n: each / scaleShare, clients: churnClients}, e.create); err != nil {
			return nil, err
		}
	}
	return pools, e.settle(ctx)
}

// singles delivers batches of one, one after the other.
func (e *env) singles(ctx context.Context, pool string) (round, error) {
	return e.fireCounted(ctx, volley{kind: "single", pool: pool, n: scaleSingles, clients: 1, then: e.turnOver}, e.create)
}

// turnOverBare is turnOver where no controller lets the batch go.
func (e *env) turnOverBare(ctx context.Context, b *board, sb *v1alpha1.BatchSandbox) error {
	if err := b.await(ctx, sb.Name); err != nil {
		return err
	}
	if err := e.remove(ctx, sb); err != nil {
		return err
	}
	if err := e.letGo(ctx, sb); err != nil {
		return err
	}
	return b.awaitEnd(ctx, sb.Name)
}

// restart returns how long after the start of a new controller a batch is delivered that waits for it.
func (e *env) restart(ctx context.Context, pool string) (time.Duration, error) {
	if err := e.stopController(); err != nil {
		return 0, err
	}
	b, err := e.watchBatches(ctx)
	if err != nil {
		return 0, err
	}
	defer b.stop()
	sb := batchOf(uniqueName("restart"), pool, 1)
	if err := e.create(ctx, sb); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := e.startController(ctx); err != nil {
		return 0, err
	}
	if err := b.await(ctx, sb.Name); err != nil {
		return 0, err
	}
	return b.get(sb.Name).delivered.Sub(began), nil
}

// scaleUse is what the controller used with all pods and batches.
type scaleUse struct {
	snapshot
	restart time.Duration
	// again is the most memory it had after the restart, in bytes.
	again float64
}

func scaleFindings(before, after, floor round, use scaleUse) findings {
	few, many, bare := before.shown("small", "single deliveries from the one pool of POOL"), after.shown("delivered", "single deliveries with all pods"), floor.shown("floor", "floor: the same by a bare client")
	few.took, many.took, bare.took = 0, 0, 0 // one after the other
	var f findings
	f.add(
		report.Metric{Key: "peakMemory", What: "the most memory of the controller, before and after a restart", Unit: "MiB", Goal: report.AtMost(scaleMemory), Value: mib(max(use.peak, use.again))},
		report.Metric{Key: "memory", What: "its memory at rest", Unit: "MiB", Value: mib(use.memory)},
		report.Metric{Key: "restart", What: "from the start of a new controller to the delivery of a batch that waits for it", Unit: "ms", Goal: report.AtMost(scaleRestart), Value: stats.Milliseconds(use.restart)},
		report.Metric{Key: "p50Ratio", What: "p50 of a single delivery over that from the one pool of POOL", Goal: report.AtMost(scaleRatio), Value: ratio(many.quantile(0.5), few.quantile(0.5))},
		report.Metric{Key: "floorRatio", What: "p50 of a single delivery over the floor's", Value: ratio(many.quantile(0.5), bare.quantile(0.5))},
	)
	for _, t := range []times{many, few, bare} {
		f.add(t.metrics()...)
	}
	f.add(after.costs.metrics("", "round of a single", scaleSingles)...)
	f.keep("with all pods", after.times)
	f.keep("with one pool", before.times)
	f.keep(floorName, floor.times)
	return f
}
