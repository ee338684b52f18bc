// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the labels of the pod counter.
const (
	operationCreate = "create"
	operationDelete = "delete"

	resultDone    = "done"
	resultRefused = "refused"
	resultFailed  = "failed"
)

// podMetrics counts what pools do to pods.
type podMetrics struct {
	writes *prometheus.CounterVec
}

// newPodMetrics registers the metrics, or takes those that are registered already.
func newPodMetrics(registry prometheus.Registerer) *podMetrics {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_pool_pod_writes_total",
		Help: "Pods that pools created and deleted, by operation (create, delete) and result (done, refused, failed).",
	}, []string{"operation", "result"})
	if err := registry.Register(writes); err != nil {
		var already prometheus.AlreadyRegisteredError
		if existing, ok := asCounter(err, &already); ok {
			writes = existing
		}
	}
	return &podMetrics{writes: writes}
}

func asCounter(err error, already *prometheus.AlreadyRegisteredError) (*prometheus.CounterVec, bool) {
	if !errors.As(err, already) {
		return nil, false
	}
	existing, ok := already.ExistingCollector.(*prometheus.CounterVec)
	return existing, ok
}

func (m *podMetrics) count(operation, result string) {
	m.writes.WithLabelValues(operation, result).Inc()
}
