// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opensandbox.io/controller/api/v1alpha1"
)

// metrics are what the batch controller counts.
type metrics struct {
	deliveries        prometheus.Histogram
	allocated         prometheus.Counter
	doubleAllocations prometheus.Counter
}

// newMetrics makes the metrics and registers them.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "opensandbox_delivery_seconds",
			Help:    "Time from the creation of a pooled batch (a whole second) to its first pods.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
		}),
		allocated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "opensandbox_allocated_pods_total", Help: "Pods handed to batches.",
		}),
		doubleAllocations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "opensandbox_double_allocations_total", Help: "Pods named by two batches. Must stay 0.",
		}),
	}
	for _, c := range []prometheus.Collector{m.deliveries, m.allocated, m.doubleAllocations} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// delivered counts pods handed to a batch, and how long its first ones took.
func (m *metrics) delivered(before *v1alpha1.BatchSandbox, now time.Time, pods int) {
	m.allocated.Add(float64(pods))
	if _, again := before.Annotations[v1alpha1.EndpointsAnnotation]; again {
		return // a replacement, or more of them
	}
	m.deliveries.Observe(now.Sub(before.CreationTimestamp.Time).Seconds())
}
