// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
)

const (
	// rateClients bounds how many batches are asked for at once: more than are ever due while the API server keeps up. Times count
	// from when a batch is due, so one that waits for a client shows.
	rateClients = 128
	// ratePatience is how long those are waited for that are missing at the end.
	ratePatience = time.Minute
)

func rateScenario() scenario {
	return scenario{
		name:  "rate",
		about: "RATE batches of one a second at random moments for FOR, from a pool that keeps POOL warm",
		sizes: sizes{Pool: 1000, Rate: 45, For: time.Minute},
		run:   runRate,
		plot:  distributions("A steady rate: from when a batch was due to the endpoints", plot.Log),
	}
}

func runRate(ctx context.Context, e *env, s sizes) (findings, error) {
	due := arrivals(uint64(e.run), s.Rate, s.For) //nolint:gosec // runs count from 1
	v := volley{kind: "rate", pool: "rate", n: len(due), clients: rateClients, due: due, patience: ratePatience}
	if err := e.fresh(ctx, s.Pool, refilledPool(v.pool, s.Pool, s.Pool+2*v.n+1)); err != nil {
		return findings{}, err
	}
	stopProfile := e.profileCPU(ctx, "rate", s.For)
	got, err := e.fireCounted(ctx, v, e.create)
	if err := errors.Join(err, stopProfile(), e.clear(ctx)); err != nil {
		return findings{}, err
	}
	if got.sample == nil {
		return findings{}, errors.New("no batch was delivered")
	}
	floor, err := e.floorOf(ctx, v, deliveryOf(got.sample))
	if err != nil {
		return findings{}, err
	}
	delivered, bare := got.shown("delivered", "from when a batch was due to the endpoints"), floor.shown("floor", "floor: the same by bare clients")
	var f findings
	f.add(report.Metric{Key: "p50", What: "p50 of a delivery", Unit: "ms", Goal: report.AtMost(25), Value: delivered.quantile(0.5)})
	f.add(report.Metric{Key: "p99", What: "p99 of a delivery", Unit: "ms", Goal: report.AtMost(200), Value: delivered.quantile(0.99)})
	f.add(report.Metric{Key: "missing", What: "not delivered a minute after the last was due", Goal: report.AtMost(0), Value: float64(got.missing)})
	f.add(report.Metric{Key: "p50Ratio", What: "p50 over the floor's", Value: ratio(delivered.quantile(0.5), bare.quantile(0.5))})
	f.add(report.Metric{Key: "p99Ratio", What: "p99 over the floor's", Value: ratio(delivered.quantile(0.99), bare.quantile(0.99))})
	f.add(delivered.metrics()...)
	f.add(bare.metrics()...)
	f.add(got.costs.metrics("", "delivery", v.n)...)
	f.keep("controller", got.times)
	f.keep(floorName, floor.times)
	return f, nil
}
