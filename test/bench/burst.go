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

// burstClients is how many batches of a burst are asked for at once.
const burstClients = 50

func burstScenario() scenario {
	return scenario{
		name:  "burst",
		about: fmt.Sprintf("N batches of one from a pool of POOL, %d asked for at once", burstClients),
		sizes: sizes{N: 300, Pool: 400},
		run:   runBurst,
		plot:  distributions("A burst: from the request to the endpoints", plot.Log),
	}
}

func runBurst(ctx context.Context, e *env, s sizes) (findings, error) {
	if s.Pool < s.N {
		return findings{}, fmt.Errorf("a pool of %d has no room for %d batches: raise POOL or lower N", s.Pool, s.N)
	}
	v := volley{kind: "burst", pool: "burst", n: s.N, clients: burstClients}
	if err := e.fresh(ctx, s.Pool, fixedPool(v.pool, s.Pool, v1alpha1.RecycleNoop)); err != nil {
		return findings{}, err
	}
	stopProfile := e.profileCPU(ctx, "burst", 2*time.Second)
	got, err := e.fireCounted(ctx, v, e.create)
	if err := errors.Join(err, stopProfile(), e.clear(ctx)); err != nil {
		return findings{}, err
	}
	floor, err := e.floorOf(ctx, v, deliveryOf(got.sample))
	if err != nil {
		return findings{}, err
	}
	delivered, bare := got.shown("delivered", "from the request to the endpoints"), floor.shown("floor", "floor: the same by bare clients")
	var f findings
	f.add(report.Metric{Key: "rateRatio", What: "deliveries a second, in % of the floor's", Unit: "%", Goal: report.AtLeast(80), Value: 100 * ratio(delivered.rate(), bare.rate())})
	f.add(report.Metric{Key: "p99Ratio", What: "p99 of a delivery over the floor's time for all", Goal: report.AtMost(1.25), Value: ratio(delivered.quantile(0.99), stats.Milliseconds(floor.took))})
	f.add(delivered.metrics()...)
	f.add(bare.metrics()...)
	f.add(got.costs.metrics("", "delivery", s.N)...)
	f.keep("controller", got.times)
	f.keep(floorName, floor.times)
	return f, nil
}

// shown are the deliveries as times that can be shown.
func (r round) shown(key, what string) times {
	return times{key: key, what: what, all: r.times, took: r.took}
}
