// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/bench/internal/stats"
)

// batchRepeats is how often a batch of each size is delivered in one run; the median counts.
const batchRepeats = 5

func batchScenario() scenario {
	return scenario{
		name:  "batch",
		about: "one batch of 1, 10, 100 and so on up to N from a pool of POOL",
		sizes: sizes{N: 1000},
		run:   runBatch,
		plot:  plotBatch,
	}
}

// batchSizes are 1, 10, 100 and so on, up to most.
func batchSizes(most int) []int {
	var all []int
	for size := 1; size <= most; size *= 10 {
		all = append(all, size)
	}
	return all
}

// batchGoals are the most that a delivery may take, in floors, by the size of the batch.
func batchGoals(size int) report.Goal {
	switch size {
	case 100:
		return report.AtMost(2)
	case 1000:
		return report.AtMost(4)
	default:
		return report.Goal{}
	}
}

// sized is what came of the batches of one size.
type sized struct {
	times  []time.Duration
	costs  costs
	sample *v1alpha1.BatchSandbox
}

func runBatch(ctx context.Context, e *env, s sizes) (findings, error) {
	if s.Pool == 0 {
		s.Pool = s.N + s.N/50
	}
	if s.Pool < s.N {
		return findings{}, fmt.Errorf("a pool of %d has no room for a batch of %d: raise POOL or lower N", s.Pool, s.N)
	}
	pool := fixedPool("batch", s.Pool, v1alpha1.RecycleNoop)
	if err := e.fresh(ctx, s.Pool, pool); err != nil {
		return findings{}, err
	}
	all := map[int]sized{}
	for _, size := range batchSizes(s.N) {
		var err error
		if all[size], err = e.deliverSized(ctx, pool, s.Pool, size); err != nil {
			return findings{}, fmt.Errorf("batch of %d: %w", size, err)
		}
	}
	if err := e.clear(ctx); err != nil {
		return findings{}, err
	}
	if err := e.stopController(); err != nil {
		return findings{}, err
	}
	e.tell("the floor: a bare client makes the same writes, one after the other")
	var f findings
	for _, size := range batchSizes(s.N) {
		got := all[size]
		floor, err := e.bareSized(ctx, size, deliveryOf(got.sample))
		if err != nil {
			return findings{}, fmt.Errorf("batch of %d: %w", size, err)
		}
		f.add(batchMetrics(size, got, floor)...)
		f.keep(fmt.Sprint(size), got.times)
		f.keep(fmt.Sprint(floorName, " ", size), floor)
	}
	return f, e.clearBare(ctx)
}

// deliverSized delivers batches of one size, one after the other, each from a pool that is whole.
func (e *env) deliverSized(ctx context.Context, pool *v1alpha1.Pool, pods, size int) (sized, error) {
	var all sized
	for range batchRepeats {
		got, err := e.fireCounted(ctx, volley{kind: "batch", pool: pool.Name, replicas: size, n: 1, clients: 1}, e.create)
		if err != nil {
			return sized{}, err
		}
		all.times, all.costs, all.sample = append(all.times, got.times...), all.costs.plus(got.costs), got.sample
		if err := e.remove(ctx, got.sample); err != nil {
			return sized{}, err
		}
		if err := e.none(ctx, v1alpha1.GroupVersion.String(), "BatchSandbox"); err != nil {
			return sized{}, err
		}
		if err := e.whole(ctx, pods, pool); err != nil {
			return sized{}, err
		}
	}
	return all, nil
}

// bareSized returns how long a bare client takes for the three writes, each time to the end of the last.
func (e *env) bareSized(ctx context.Context, size int, d delivery) ([]time.Duration, error) {
	b, err := e.watchBatches(ctx)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	var all []time.Duration
	for range batchRepeats {
		sb := batchOf(uniqueName("bare"), "batch", size)
		begin := time.Now()
		if err := e.deliverBare(ctx, sb, d); err != nil {
			return nil, err
		}
		all = append(all, time.Since(begin))
		if err := b.await(ctx, sb.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func batchMetrics(size int, got sized, floor []time.Duration) []report.Metric {
	key, of := fmt.Sprintf("n%d", size), fmt.Sprintf("batch of %d: ", size)
	delivered, bare := stats.Milliseconds(stats.Median(got.times)), stats.Milliseconds(stats.Median(floor))
	return []report.Metric{
		{Key: key + "Ratio", What: of + "time to all endpoints over the floor", Goal: batchGoals(size), Value: ratio(delivered, bare)},
		{Key: key + "Delivered", What: fmt.Sprintf("%stime to all endpoints, median of %d", of, batchRepeats), Unit: "ms", Value: delivered},
		{Key: key + "Max", What: of + "most of these times", Unit: "ms", Value: stats.Milliseconds(slices.Max(got.times))},
		{Key: key + "Floor", What: of + "floor, the three writes one after the other, median", Unit: "ms", Value: bare},
		{Key: key + "Writes", What: of + "the controller's writes to the batch", Goal: report.AtMost(2), Value: got.costs.deliveryWrites() / batchRepeats},
		{Key: key + "OtherWrites", What: of + "its other API writes, such as events", Value: (float64(got.costs.writes.Sum(controllerAgent, "")) - got.costs.deliveryWrites()) / batchRepeats},
		{Key: key + "EtcdPuts", What: of + "keys that etcd wrote", Value: got.costs.puts / batchRepeats},
		{Key: key + "CPU", What: of + "the controller's CPU time", Unit: "s", Value: got.costs.cpu.Seconds() / batchRepeats},
		{Key: key + "PeakMemory", What: of + "the most memory it had so far", Unit: "MiB", Value: mib(got.costs.memory)},
	}
}

// plotBatch draws the medians by size.
func plotBatch(runs []findings) plot.Chart {
	delivered, floor := plot.Curve{Name: "controller"}, plot.Curve{Name: floorName + ": three writes", Dashed: true}
	for _, s := range together(runs) {
		curve, text := &delivered, s.name
		if _, err := fmt.Sscanf(s.name, floorName+" %s", &text); err == nil {
			curve = &floor
		}
		var size float64
		if _, err := fmt.Sscan(text, &size); err != nil {
			continue // no sample of ours
		}
		curve.Points = append(curve.Points, plot.Point{X: size, Y: stats.Milliseconds(stats.Median(s.times))})
	}
	return plot.Chart{
		Title: "One batch: time to all its endpoints", X: plot.Axis{Label: "sandboxes", Scale: plot.Log},
		Y: plot.Axis{Label: "ms", Scale: plot.Log}, Curves: []plot.Curve{delivered, floor},
	}
}
