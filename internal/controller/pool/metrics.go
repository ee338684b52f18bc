// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
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

// gaugedPool is what the gauges tell of a pool beside its pods.
type gaugedPool struct {
	key types.NamespacedName

	// observed says that the pool was looked at; before, nothing more is known of it.
	observed bool

	// bounds are those of the spec; nil where the pool is being deleted.
	bounds *v1alpha1.CapacitySpec

	// conditions are whether those of gaugedConditions are True.
	conditions [len(gaugedConditions)]bool
}

// gaugedConditions are the conditions of a pool that have a gauge: all of them.
var gaugedConditions = [...]string{v1alpha1.ConditionReady, v1alpha1.ConditionScalingLimited, v1alpha1.ConditionPodsFailing}

// gauges tells how many pods every pool has, its bounds and conditions, and what waits for it, when it is asked. It counts nothing while
// nobody asks, and a pool that is gone has no series any more. One look costs the number of pools, whatever their sizes.
type gauges struct {
	ledger *scheduler.Ledger
	pools  func() []gaugedPool

	pods, bounds, conditions, batches, sandboxes *prometheus.Desc
}

func newGauges(ledger *scheduler.Ledger, pools func() []gaugedPool) *gauges {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"namespace", "pool"}, more...), nil)
	}
	return &gauges{
		ledger: ledger, pools: pools,
		pods: desc("opensandbox_pool_pods",
			"Pods of a pool by state: idle (may be handed out), starting (being created or recycled), held (by a batch), unusable, terminating.", "state"),
		bounds: desc("opensandbox_pool_bounds",
			"Bounds of a pool in pods, from its spec: bufferMin and bufferMax of the pods that nobody holds, poolMin and poolMax of all. "+
				"None while the pool is being deleted.", "bound"),
		conditions: desc("opensandbox_pool_status_condition",
			"Whether a condition of a pool is True (1) or not (0): Ready, ScalingLimited, PodsFailing.", "condition"),
		batches:   desc("opensandbox_pool_queue_batches", "Batches in the queue of a pool."),
		sandboxes: desc("opensandbox_pool_queue_sandboxes", "Sandboxes that the batches in the queue of a pool wait for."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.pods, g.bounds, g.conditions, g.batches, g.sandboxes} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(metrics chan<- prometheus.Metric) {
	for _, pool := range g.pools() {
		send := func(desc *prometheus.Desc, n int, labels ...string) {
			labels = append([]string{pool.key.Namespace, pool.key.Name}, labels...)
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
		}
		n := g.ledger.Counts(pool.key)
		send(g.pods, n.Idle, "idle")
		send(g.pods, n.Starting, "starting")
		send(g.pods, n.Held, "held")
		send(g.pods, n.Unusable, "unusable")
		send(g.pods, n.Terminating, "terminating")
		send(g.batches, g.ledger.QueueLength(pool.key))
		send(g.sandboxes, n.Waiting)
		if b := pool.bounds; b != nil {
			send(g.bounds, int(b.BufferMin), "bufferMin")
			send(g.bounds, int(b.BufferMax), "bufferMax")
			send(g.bounds, int(b.PoolMin), "poolMin")
			send(g.bounds, int(b.PoolMax), "poolMax")
		}
		if pool.observed {
			for i, condition := range gaugedConditions {
				value := 0
				if pool.conditions[i] {
					value = 1
				}
				send(g.conditions, value, condition)
			}
		}
	}
}
