// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
)

// scenario is one thing to measure.
type scenario struct {
	name  string
	about string
	// sizes are its defaults.
	sizes sizes
	// run does it once. The cluster and what earlier runs left in it are shared; the controller is a fresh one, which the
	// scenario may stop and start again.
	run func(ctx context.Context, e *env, s sizes) (findings, error)
	// plot shows what all runs found; nil for scenarios that are not plotted.
	plot func(runs []findings) plot.Chart
}

// findings are what one run found.
type findings struct {
	metrics []report.Metric
	// samples are what the plot is made of.
	samples []sample
}

// sample is many times of one kind.
type sample struct {
	name  string
	times []time.Duration
}

func (f *findings) add(metrics ...report.Metric) { f.metrics = append(f.metrics, metrics...) }

func (f *findings) keep(name string, times []time.Duration) {
	f.samples = append(f.samples, sample{name, times})
}

// scenarios are all there are.
func scenarios() []scenario {
	return []scenario{
		fillScenario(), batchScenario(), burstScenario(), rateScenario(), churnScenario(), coldScenario(), scaleScenario(), idleScenario(),
		tasksScenario(), hostileScenario(), failoverScenario(),
	}
}
