// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHistogramsGoFromAMillisecondToAMinuteAndAreNativeToo(t *testing.T) {
	registry := prometheus.NewRegistry()
	h := prometheus.NewHistogram(Options("x_seconds", "x"))
	registry.MustRegister(h)
	h.Observe(0.02)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := families[0].GetMetric()[0].GetHistogram()
	var bounds []float64
	for _, b := range got.GetBucket() {
		bounds = append(bounds, b.GetUpperBound())
	}
	if !slices.IsSorted(bounds) || bounds[0] != 0.001 || bounds[len(bounds)-1] != 60 {
		t.Errorf("classic buckets %v, want them from 0.001 to 60 in order", bounds)
	}
	if len(got.GetPositiveSpan()) != 1 {
		t.Errorf("native spans %v, want one", got.GetPositiveSpan())
	}
}

func TestObservingCostsNoAllocation(t *testing.T) {
	h := prometheus.NewHistogram(Options("x_seconds", "x"))
	if got := testing.AllocsPerRun(1000, func() { h.Observe(0.02) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}
