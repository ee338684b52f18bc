// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/internal/scheduler"
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

// newPodMetrics makes the metrics and registers them.
func newPodMetrics(registry prometheus.Registerer) (*podMetrics, error) {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_pool_pod_writes_total",
		Help: "Pods that pools created and deleted, by operation (create, delete) and result (done, refused, failed).",
	}, []string{"operation", "result"})
	if err := registry.Register(writes); err != nil {
		return nil, fmt.Errorf("register the counter of pods: %w", err)
	}
	return &podMetrics{writes: writes}, nil
}

func (m *podMetrics) count(operation, result string) {
	m.writes.WithLabelValues(operation, result).Inc()
}

// gauges tells how many pods every pool has and what waits for it, when it is asked. It keeps nothing: a pool that is gone has
// no series any more, and nothing is counted while nobody asks. One look costs the number of pools, whatever their sizes.
type gauges struct {
	ledger *scheduler.Ledger
	pools  func() []types.NamespacedName

	pods, batches, sandboxes *prometheus.Desc
}

func newGauges(ledger *scheduler.Ledger, pools func() []types.NamespacedName) *gauges {
	return &gauges{
		ledger: ledger, pools: pools,
		pods: prometheus.NewDesc("opensandbox_pool_pods",
			"Pods of a pool by state: idle (may be handed out), starting (being created or recycled), held (by a batch), unusable, terminating.",
			[]string{"namespace", "pool", "state"}, nil),
		batches: prometheus.NewDesc("opensandbox_pool_queue_batches",
			"Batches in the queue of a pool.", []string{"namespace", "pool"}, nil),
		sandboxes: prometheus.NewDesc("opensandbox_pool_queue_sandboxes",
			"Sandboxes that the batches in the queue of a pool wait for.", []string{"namespace", "pool"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(descs chan<- *prometheus.Desc) {
	descs <- g.pods
	descs <- g.batches
	descs <- g.sandboxes
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(metrics chan<- prometheus.Metric) {
	for _, pool := range g.pools() {
		send := func(desc *prometheus.Desc, n int, labels ...string) {
			labels = append([]string{pool.Namespace, pool.Name}, labels...)
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
		}
		n := g.ledger.Counts(pool)
		send(g.pods, n.Idle, "idle")
		send(g.pods, n.Starting, "starting")
		send(g.pods, n.Held, "held")
		send(g.pods, n.Unusable, "unusable")
		send(g.pods, n.Terminating, "terminating")
		send(g.batches, g.ledger.QueueLength(pool))
		send(g.sandboxes, n.Waiting)
	}
}
