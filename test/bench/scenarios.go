// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"opensandbox.io/controller/test/bench/internal/report"
)

// scenario is one thing to measure.
type scenario struct {
	name  string
	about string
	// sizes are its defaults.
	sizes sizes
	// run does it once. The cluster and what earlier runs left in it are shared; the controller is a fresh one.
	run func(ctx context.Context, e *env, s sizes) ([]report.Metric, error)
}

// scenarios are all there are.
func scenarios() []scenario {
	return []scenario{tasksScenario()}
}
