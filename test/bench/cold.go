// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/slowstart"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/bench/internal/stats"
)

const (
	// coldRepeats is how often the batch is delivered in one run; the median counts.
	coldRepeats = 3
	// coldGoal is the goal for its time, in ms, with coldSize sandboxes.
	coldGoal = 1500
	coldSize = 128
)

func coldScenario() scenario {
	return scenario{
		name:  "cold",
		about: "one batch of N without a pool: its pods are made for it",
		sizes: sizes{N: coldSize},
		run:   runCold,
		plot:  distributions("A batch without pool: its pods ready after", plot.Linear),
	}
}

// chilled is what came of the batches without pool, or of their floor.
type chilled struct {
	times []time.Duration // to all endpoints
	ready []time.Duration // to each pod Ready
	costs costs
	batch *v1alpha1.BatchSandbox
	pod   *corev1.Pod
}

func runCold(ctx context.Context, e *env, s sizes) (findings, error) {
	if err := e.fresh(ctx, 1, fixedPool("first", 1, v1alpha1.RecycleDelete)); err != nil { // the controller has started
		return findings{}, err
	}
	if err := e.clear(ctx); err != nil {
		return findings{}, err
	}
	got, err := e.coldRounds(ctx, s.N, e.create)
	if err != nil {
		return findings{}, err
	}
	if err := e.stopController(); err != nil {
		return findings{}, err
	}
	e.tell("the floor: a bare client makes the same pods and writes")
	pods, err := e.barePodsLike(ctx, got.pod)
	if err != nil {
		return findings{}, err
	}
	d := deliveryOf(got.batch)
	floor, err := e.coldRounds(ctx, s.N, func(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
		return e.coldBare(ctx, pods, sb, d)
	})
	if err != nil {
		return findings{}, err
	}
	goal := report.Goal{}
	if s.N == coldSize {
		goal = report.AtMost(coldGoal)
	}
	delivered, bare := stats.Milliseconds(stats.Median(got.times)), stats.Milliseconds(stats.Median(floor.times))
	var f findings
	f.add(
		report.Metric{Key: "delivered", What: fmt.Sprintf("from the request to all endpoints, median of %d", coldRepeats), Unit: "ms", Goal: goal, Value: delivered},
		report.Metric{Key: "floor", What: "floor: the same pods and writes by a bare client, median", Unit: "ms", Value: bare},
		report.Metric{Key: "ratio", What: "time over the floor", Value: ratio(delivered, bare)},
	)
	f.add(times{key: "ready", what: "from the request to a pod ready", all: got.ready}.metrics()...)
	f.add(times{key: "floorReady", what: "floor: the same", all: floor.ready}.metrics()...)
	f.add(got.costs.metrics("", "sandbox", s.N*coldRepeats)...)
	f.keep("controller", got.ready)
	f.keep(floorName, floor.ready)
	return f, nil
}

// coldRounds has ask deliver batches of n, one after the other, and cleans up after each.
func (e *env) coldRounds(ctx context.Context, n int, ask func(ctx context.Context, sb *v1alpha1.BatchSandbox) error) (chilled, error) {
	var all chilled
	for range coldRepeats {
		pods, err := e.watchPods(ctx, n)
		if err != nil {
			return chilled{}, err
		}
		begin := time.Now()
		got, err := e.fireCounted(ctx, volley{kind: "cold", replicas: n, n: 1, clients: 1}, ask)
		pods.stop()
		if err != nil {
			return chilled{}, err
		}
		all.times, all.ready = append(all.times, got.times...), append(all.ready, pods.since(begin)...)
		all.costs, all.batch, all.pod = all.costs.plus(got.costs), got.sample, pods.any()
		clear := e.clear
		if e.controller == nil {
			clear = e.clearBare
		}
		if err := clear(ctx); err != nil {
			return chilled{}, err
		}
	}
	return all, nil
}

// coldBare makes a batch, its pods, as many at once as the controller does, and once they are ready writes the delivery.
func (e *env) coldBare(ctx context.Context, pods barePods, sb *v1alpha1.BatchSandbox, d delivery) error {
	n := int(*sb.Spec.Replicas)
	b, err := e.watchPods(ctx, n)
	if err != nil {
		return err
	}
	defer b.stop()
	if err := e.create(ctx, sb); err != nil {
		return err
	}
	_, err = slowstart.Do(ctx, n, func(ctx context.Context, i int) error {
		return pods.make(ctx, fmt.Sprintf("%s-%d", sb.Name, i))
	})
	if err != nil {
		return err
	}
	if err := b.waitFor(ctx, b.enough, "the pods of "+sb.Name); err != nil {
		return err
	}
	return e.writeDelivery(ctx, sb, d)
}
