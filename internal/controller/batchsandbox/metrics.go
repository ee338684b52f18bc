// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/latency"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// otherReason is the reason of tries whose executor gives one that is not known: what executors say must not make metrics.
const otherReason = "Other"

// metrics are what the batch controller counts. All series are there from the start, so that observing costs no look-up and
// the first event is an increase.
type metrics struct {
	deliveries        [numStarts]prometheus.Counter
	deliverySeconds   [numStarts]prometheus.Observer
	deliveryWrites    [numStarts]prometheus.Counter
	stageSeconds      [numStages]prometheus.Observer
	allocated         prometheus.Counter
	doubleAllocations prometheus.Counter
	tries             map[string]prometheus.Counter // by reason; never changed
	taskReport        prometheus.Observer
}

// newMetrics makes the metrics and registers them.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	deliveries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_deliveries_total",
		Help: "First deliveries of batches, by start: warm (the pool had a pod for every index when the batch first asked), " +
			"waited (it had not), cold (no pool).",
	}, []string{"start"})
	deliverySeconds := prometheus.NewHistogramVec(latency.Options("opensandbox_delivery_seconds",
		"Time from the first sight of a new batch by the controller's watch to the answer to the write that tells the addresses of all it asks for, "+
			"once per batch, by start. A batch that was there before the controller is measured from its creation, which is a whole second."), []string{"start"})
	deliveryWrites := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_delivery_writes_total",
		Help: "Writes of a batch and of its status, from the first sight to the status that tells of the delivery, by start; added when that is written.",
	}, []string{"start"})
	stageSeconds := prometheus.NewHistogramVec(latency.Options("opensandbox_delivery_stage_seconds",
		"Parts of a delivery from a pool, by what they end with: queued (the turn of the batch that brought its last pods), chosen (these pods are chosen), "+
			"written (the write of their addresses is answered; up to here it is opensandbox_delivery_seconds), reported (that of the status)."), []string{"stage"})
	tries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_task_tries_total",
		Help: "Tries of tasks that are over, by how they ended: Completed, a reason of status.failedTasks, or Other. Counted when the status tells it.",
	}, []string{"reason"})
	taskReport := prometheus.NewHistogram(latency.Options("opensandbox_task_report_seconds",
		"Time from the end of a try of a task, as its task-executor's clock has it, to the answer to the write of the status that tells it. "+
			"An end that the executor puts before the controller began to follow the try, or after it heard of the end, is moved there."))
	m := &metrics{
		allocated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "opensandbox_allocated_pods_total", Help: "Pods handed to batches.",
		}),
		doubleAllocations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "opensandbox_double_allocations_total", Help: "Pods named by two batches. Must stay 0.",
		}),
		tries:      map[string]prometheus.Counter{},
		taskReport: taskReport,
	}
	for s := range numStarts {
		m.deliveries[s] = deliveries.WithLabelValues(s.String())
		m.deliverySeconds[s] = deliverySeconds.WithLabelValues(s.String())
		m.deliveryWrites[s] = deliveryWrites.WithLabelValues(s.String())
	}
	for s := range numStages {
		m.stageSeconds[s] = stageSeconds.WithLabelValues(s.String())
	}
	for _, reason := range []string{
		taskexecutor.ReasonCompleted, v1alpha1.TaskReasonNonZeroExit, v1alpha1.TaskReasonTimedOut, v1alpha1.TaskReasonCancelled,
		v1alpha1.TaskReasonStartError, v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost, otherReason,
	} {
		m.tries[reason] = tries.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{
		deliveries, deliverySeconds, deliveryWrites, stageSeconds, m.allocated, m.doubleAllocations, tries, taskReport,
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// delivered notes that the addresses of all that a batch asks for are written, and measures the delivery if it is this
// process's: if it chose pods for it.
func (m *metrics) delivered(d *delivery, now time.Time) {
	switch {
	case d.phase != deliveryPending:
		return
	case d.chosen.IsZero():
		d.phase = deliveryOver
		return
	}
	d.phase, d.written = deliveryWritten, now
	m.deliveries[d.start].Inc()
	observe(m.deliverySeconds[d.start], d.seen, now)
	if d.start != startCold {
		observe(m.stageSeconds[stageQueued], d.seen, d.turn)
		observe(m.stageSeconds[stageChosen], d.turn, d.chosen)
		observe(m.stageSeconds[stageWritten], d.chosen, now)
	}
}

// reported notes that the status tells of what was delivered.
func (m *metrics) reported(d *delivery, now time.Time) {
	if d.phase != deliveryWritten {
		return
	}
	d.phase = deliveryOver
	m.deliveryWrites[d.start].Add(float64(d.writes))
	if d.start != startCold {
		observe(m.stageSeconds[stageReported], d.written, now)
	}
}

// taskEnded counts a try of a task whose end the status tells now.
func (m *metrics) taskEnded(end heardEnd, now time.Time) {
	m.countTries(end.reason, 1)
	observe(m.taskReport, end.at, now)
}

// countTries counts tries that are over for this reason.
func (m *metrics) countTries(reason string, n int) {
	c, known := m.tries[reason]
	if !known {
		c = m.tries[otherReason]
	}
	c.Add(float64(n))
}

// observe measures from one time to another. Clocks that differ, that of a creation and ours, don't make it negative.
func observe(o prometheus.Observer, from, to time.Time) { o.Observe(max(0, to.Sub(from)).Seconds()) }
