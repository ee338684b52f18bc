// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/report"
)

func idleScenario() scenario {
	return scenario{
		name:  "idle",
		about: "N batches of one from a pool of POOL, at rest for FOR",
		sizes: sizes{N: 100, Pool: 400, For: time.Minute},
		run:   runIdle,
	}
}

func runIdle(ctx context.Context, e *env, s sizes) (findings, error) {
	if s.Pool < s.N {
		return findings{}, fmt.Errorf("a pool of %d has no room for %d batches: raise POOL or lower N", s.Pool, s.N)
	}
	v := volley{kind: "idle", pool: "idle", n: s.N, clients: burstClients}
	if err := e.fresh(ctx, s.Pool, fixedPool(v.pool, s.Pool, v1alpha1.RecycleNoop)); err != nil {
		return findings{}, err
	}
	if _, err := e.fireCounted(ctx, v, e.create); err != nil {
		return findings{}, err
	}
	if err := e.settle(ctx); err != nil {
		return findings{}, err
	}
	before, err := e.snapshot(ctx)
	if err != nil {
		return findings{}, err
	}
	span, err := e.beginSpan(ctx)
	if err != nil {
		return findings{}, err
	}
	if err := e.rest(ctx, s.For, "the time at rest is over"); err != nil {
		return findings{}, err
	}
	costs, err1 := span.end(ctx)
	after, err2 := e.snapshot(ctx)
	if err := errors.Join(err1, err2, e.clear(ctx)); err != nil {
		return findings{}, err
	}
	var f findings
	f.add(
		report.Metric{Key: "writes", What: "API writes of the controller", Goal: report.AtMost(0), Value: float64(costs.writes.Sum(controllerAgent, ""))},
		report.Metric{Key: "reconciles", What: "reconciles", Goal: report.AtMost(0), Value: after.reconciles - before.reconciles},
		report.Metric{Key: "cpu", What: "CPU", Unit: "% of a core", Goal: report.AtMost(1), Value: 100 * costs.cpu.Seconds() / costs.took.Seconds()},
		report.Metric{Key: "memory", What: "memory", Unit: "MiB", Value: mib(after.memory)},
		report.Metric{Key: "goroutines", What: "goroutines", Value: after.goroutines},
	)
	return f, nil
}
