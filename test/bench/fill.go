// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/slowstart"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
)

func fillScenario() scenario {
	return scenario{
		name:  "fill",
		about: "from the creation of a pool of N to all its pods ready",
		sizes: sizes{N: 1200},
		run:   runFill,
		plot:  distributions("The pods of a new pool: ready after", plot.Linear),
	}
}

// filled is how pods came to be ready.
type filled struct {
	times []time.Duration
	costs costs
	model *corev1.Pod
}

func (f filled) shown(key, what string) times {
	return times{key: key, what: what, all: f.times, took: slices.Max(append(f.times, 0))}
}

func runFill(ctx context.Context, e *env, s sizes) (findings, error) {
	// Another pool of that size comes first: the floor, which comes later, waits neither for the start of the controller nor for an API
	// server that has done nothing yet.
	if err := errors.Join(e.fresh(ctx, s.N, fixedPool("first", s.N, v1alpha1.RecycleDelete)), e.clear(ctx)); err != nil {
		return findings{}, err
	}
	pool := fixedPool("fill", s.N, v1alpha1.RecycleDelete)
	stopProfile := e.profileCPU(ctx, "fill", 5*time.Second)
	got, err := e.fill(ctx, s.N, pool.Name, func() error { return e.cluster.Client.Create(ctx, pool) })
	if err := errors.Join(err, stopProfile(), e.clear(ctx), e.stopController()); err != nil {
		return findings{}, err
	}
	e.tell("the floor: a bare client makes the same pods")
	pods, err := e.barePodsLike(ctx, got.model)
	if err != nil {
		return findings{}, err
	}
	run := uniqueName("bare")
	floor, err := e.fill(ctx, s.N, pool.Name, func() error {
		_, err := slowstart.Do(ctx, s.N, func(ctx context.Context, i int) error { return pods.make(ctx, fmt.Sprintf("%s-%05d", run, i)) })
		return err
	})
	if err := errors.Join(err, e.clearBare(ctx)); err != nil {
		return findings{}, err
	}
	ready, bare := got.shown("ready", "from the pool's creation to a pod ready"), floor.shown("floor", "floor: the same pods made by a bare client, as many at once")
	var f findings
	f.add(report.Metric{Key: "rateRatio", What: "pods a second, in % of the floor's", Unit: "%", Goal: report.AtLeast(90), Value: 100 * ratio(ready.rate(), bare.rate())})
	f.add(ready.metrics()...)
	f.add(bare.metrics()...)
	f.add(got.costs.metrics("", "pod", s.N)...)
	f.keep("controller", got.times)
	f.keep(floorName, floor.times)
	return f, nil
}

// fill waits until n pods with the pool's label are ready that begin has made.
func (e *env) fill(ctx context.Context, n int, pool string, begin func() error) (filled, error) {
	b, err := e.watchPods(ctx, n, client.MatchingLabels{v1alpha1.PoolNameLabel: pool})
	if err != nil {
		return filled{}, err
	}
	defer b.stop()
	span, err := e.beginSpan(ctx)
	if err != nil {
		return filled{}, err
	}
	if err := begin(); err != nil {
		return filled{}, err
	}
	err = e.until(ctx, stepTimeout, "all pods are ready", func() (bool, string) {
		return len(b.since(span.began)) >= n, fmt.Sprintf("%d of %d (%v)", len(b.since(span.began)), n, b.check())
	})
	if err != nil {
		return filled{}, err
	}
	costs, err := span.end(ctx)
	return filled{b.since(span.began), costs, b.any()}, err
}
