// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"opensandbox.io/controller/test/bench/internal/audit"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/bench/internal/stats"
	"opensandbox.io/controller/test/internal/process"
	"opensandbox.io/controller/test/internal/promtext"
)

// span is a stretch of time whose costs are counted.
type span struct {
	e     *env
	began time.Time
	mark  audit.Mark
	puts  float64
	usage process.Usage
	told  promtext.Samples // the controller's metrics; none without a controller
}

// costs are those of a span.
type costs struct {
	took   time.Duration
	writes audit.Calls
	// puts is the number of keys that etcd wrote.
	puts float64
	// cpu is the controller's time, memory the most it had since its start, in bytes. They are 0 without a controller.
	cpu    time.Duration
	memory float64
	// stages are how long deliveries took by the controller's own account.
	stages map[string]stage
}

// stage is a part of deliveries: how many had it, and how long in all, in seconds.
type stage struct{ count, seconds float64 }

// stageNames are the stages of a delivery in their order, with what the controller does in them.
func stageNames() [][2]string {
	return [][2]string{
		{"queued", "from its first sight of the batch to the batch's turn"},
		{"chosen", "to the choice of pods"},
		{"written", "to the answer to the write of the endpoints"},
		{"reported", "from there to the answer to the write of the status"},
	}
}

// stagesOf reads the stages from the controller's metrics.
func stagesOf(told promtext.Samples) map[string]stage {
	stages := map[string]stage{}
	for _, name := range stageNames() {
		const metric = "opensandbox_delivery_stage_seconds"
		stages[name[0]] = stage{told.Sum(metric+"_count", "stage", name[0]), told.Sum(metric+"_sum", "stage", name[0])}
	}
	return stages
}

// combine calls f for each stage of two accounts.
func combine(a, b map[string]stage, f func(x, y float64) float64) map[string]stage {
	all := map[string]stage{}
	for _, name := range stageNames() {
		x, y := a[name[0]], b[name[0]]
		all[name[0]] = stage{f(x.count, y.count), f(x.seconds, y.seconds)}
	}
	return all
}

func (e *env) beginSpan(ctx context.Context) (*span, error) {
	s := &span{e: e}
	var err1, err2, err3, err4 error
	s.told, err1 = e.told(ctx)
	s.puts, err2 = e.cluster.EtcdPuts(ctx)
	s.usage, err3 = e.usage()
	s.mark, err4 = e.audit.Now()
	s.began = time.Now()
	return s, errors.Join(err1, err2, err3, err4)
}

func (s *span) end(ctx context.Context) (costs, error) {
	c := costs{took: time.Since(s.began)}
	usage, err1 := s.e.usage()
	puts, err2 := s.e.cluster.EtcdPuts(ctx)
	var err3 error
	c.writes, err3 = s.e.audit.Writes(s.mark)
	told, err4 := s.e.told(ctx)
	c.puts, c.cpu, c.memory = puts-s.puts, usage.CPU-s.usage.CPU, float64(usage.PeakMemory)
	c.stages = combine(stagesOf(told), stagesOf(s.told), func(now, before float64) float64 { return now - before })
	return c, errors.Join(err1, err2, err3, err4)
}

// told are the controller's metrics, none if it doesn't run.
func (e *env) told(ctx context.Context) (promtext.Samples, error) {
	if e.controller == nil {
		return nil, nil
	}
	return e.metrics(ctx)
}

// usage is what the controller uses, nothing if it doesn't run.
func (e *env) usage() (process.Usage, error) {
	if e.controller == nil {
		return process.Usage{}, nil
	}
	return e.controller.Usage()
}

// systemWrites are the writes of all clients that serve deliveries. Leases and events are left out, which tell of other things
// or nobody waits for, and what others than the controller try in vain: kwok deletes every pod twice.
func (c costs) systemWrites() float64 {
	n := 0
	for call, count := range c.writes {
		tells := call.Resource == "leases" || call.Resource == "events"
		if !tells && (!call.Refused || call.Client == controllerAgent) {
			n += count
		}
	}
	return float64(n)
}

// plus adds up the costs of two spans.
func (c costs) plus(d costs) costs {
	sum := costs{took: c.took + d.took, writes: audit.Calls{}, puts: c.puts + d.puts, cpu: c.cpu + d.cpu, memory: max(c.memory, d.memory)}
	for _, calls := range []audit.Calls{c.writes, d.writes} {
		for call, count := range calls {
			sum.writes[call] += count
		}
	}
	sum.stages = combine(c.stages, d.stages, func(x, y float64) float64 { return x + y })
	return sum
}

// deliveryWrites are the writes of the controller to batches: what a delivery waits for.
func (c costs) deliveryWrites() float64 {
	return float64(c.writes.Sum(controllerAgent, "batchsandboxes") + c.writes.Sum(controllerAgent, "batchsandboxes/status"))
}

// metrics shows the costs for each of n things such as deliveries. key is the beginning of the names.
func (c costs) metrics(key, each string, n int) []report.Metric {
	per := func(v float64) float64 { return v / float64(max(n, 1)) }
	metrics := []report.Metric{
		{Key: key + "Writes", What: "API writes of the controller, for each " + each, Value: per(float64(c.writes.Sum(controllerAgent, "")))},
	}
	mine, others := map[string]int{}, map[string]int{}
	for call, count := range c.writes {
		kind := call.Verb + " " + call.Resource
		if call.Refused {
			kind += " (refused)"
		}
		if call.Client == controllerAgent {
			mine[kind] += count
		} else {
			others[kind] += count
		}
	}
	for _, kind := range slices.SortedFunc(maps.Keys(mine), byCount(mine)) {
		metrics = append(metrics, report.Metric{Key: key + "Writes." + kind, What: "of these: " + kind, Value: per(float64(mine[kind]))})
	}
	metrics = append(metrics, report.Metric{
		Key: key + "SystemWrites", What: "API writes in the whole system, without events and leases, for each " + each, Value: per(c.systemWrites()),
	})
	for _, kind := range slices.SortedFunc(maps.Keys(others), byCount(others)) {
		metrics = append(metrics, report.Metric{Key: key + "OtherWrites." + kind, What: "of others than the controller: " + kind, Value: per(float64(others[kind]))})
	}
	for _, name := range stageNames() {
		if at := c.stages[name[0]]; at.count > 0 {
			metrics = append(metrics, report.Metric{Key: key + "Stage." + name[0], What: "by the controller's own account, on average: " + name[1], Unit: "ms", Value: 1000 * at.seconds / at.count})
		}
	}
	return append(metrics,
		report.Metric{Key: key + "EtcdPuts", What: "keys that etcd wrote, for each " + each, Value: per(c.puts)},
		report.Metric{Key: key + "CPU", What: "the controller's CPU time", Unit: "s", Value: c.cpu.Seconds()},
		report.Metric{Key: key + "PeakMemory", What: "the most memory it had", Unit: "MiB", Value: mib(c.memory)},
	)
}

// byCount orders by number, the greatest first, and then by name.
func byCount(of map[string]int) func(a, b string) int {
	return func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) }
}

// times shows many times of one kind: how many there are, how many came in a second, and how they are distributed.
type times struct {
	key, what string
	all       []time.Duration
	// took is the time in which all of them came; 0 if they came one by one.
	took time.Duration
}

func (t times) rate() float64 {
	if t.took <= 0 {
		return 0
	}
	return float64(len(t.all)) / t.took.Seconds()
}

func (t times) quantile(q float64) float64 { return stats.Milliseconds(stats.Quantile(t.all, q)) }

func (t times) metrics() []report.Metric {
	metrics := []report.Metric{{Key: t.key + "N", What: t.what + ": number", Value: float64(len(t.all))}}
	if t.took > 0 {
		metrics = append(metrics, report.Metric{Key: t.key + "Rate", What: "the same: rate", Unit: "a second", Value: t.rate()})
	}
	for _, q := range []struct {
		key, name string
		q         float64
	}{{"P50", "p50", 0.5}, {"P90", "p90", 0.9}, {"P99", "p99", 0.99}, {"Max", "most", 1}} {
		metrics = append(metrics, report.Metric{Key: t.key + q.key, What: "the same: " + q.name, Unit: "ms", Value: t.quantile(q.q)})
	}
	return metrics
}

// ratio is a over b, 0 if there is no b.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
