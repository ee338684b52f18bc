// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
)

const (
	churnClients = 16
	// barePool is the number of pods that bare clients begin with: many for each, so that none is deleted while it starts.
	barePool = 8 * churnClients
)

// churnKind is one way to recycle, with the most API writes that a delivery may cost in the whole system.
type churnKind struct {
	recycle v1alpha1.RecycleType
	key     string
	writes  float64
}

func churnKinds() []churnKind {
	return []churnKind{{v1alpha1.RecycleDelete, "delete", 10.3}, {v1alpha1.RecycleNoop, "noop", 5.3}}
}

func churnScenario() scenario {
	return scenario{
		name:  "churn",
		about: fmt.Sprintf("%d clients ask for a batch of one, wait for it and delete it, N times in all, from a pool of POOL: with Delete and with Noop", churnClients),
		sizes: sizes{N: 1000, Pool: 400},
		run:   runChurn,
		plot:  distributions("Churn: from the request to the endpoints", plot.Log),
	}
}

func runChurn(ctx context.Context, e *env, s sizes) (findings, error) {
	var f findings
	for _, kind := range churnKinds() {
		if e.controller == nil { // the last one's floor
			if err := e.startController(ctx); err != nil {
				return findings{}, err
			}
		}
		if err := e.churn(ctx, s, kind, &f); err != nil {
			return findings{}, fmt.Errorf("with %s: %w", kind.recycle, err)
		}
	}
	return f, nil
}

func (e *env) churn(ctx context.Context, s sizes, kind churnKind, f *findings) error {
	pool := fixedPool("churn", s.Pool, kind.recycle)
	if err := e.fresh(ctx, s.Pool, pool); err != nil {
		return err
	}
	v := volley{kind: "churn", pool: pool.Name, n: s.N, clients: churnClients, then: e.turnOver}
	stopProfile := e.profileCPU(ctx, "churn-"+kind.key, 5*time.Second)
	span, err := e.beginSpan(ctx)
	if err != nil {
		return err
	}
	got, err := e.fireCounted(ctx, v, e.create)
	if err := errors.Join(err, stopProfile()); err != nil {
		return err
	}
	if err := e.whole(ctx, s.Pool, pool); err != nil {
		return err
	}
	costs, err := span.end(ctx) // with what the pool makes up for
	if err != nil {
		return err
	}
	model, err := e.podOf(ctx, pool)
	if err != nil {
		return err
	}
	if err := errors.Join(e.clear(ctx), e.stopController()); err != nil {
		return err
	}
	floor, err := e.churnBare(ctx, v, kind, deliveryOf(got.sample), model)
	if err != nil {
		return err
	}
	got.took, floor.took = got.clients, floor.clients
	f.add(churnMetrics(kind, got, floor, costs)...)
	f.keep(string(kind.recycle), got.times)
	f.keep(floorName+" of "+string(kind.recycle), floor.times)
	return nil
}

// turnOver waits for the delivery of a batch, deletes it, and waits until it is gone.
func (e *env) turnOver(ctx context.Context, b *board, sb *v1alpha1.BatchSandbox) error {
	if err := b.await(ctx, sb.Name); err != nil {
		return err
	}
	if err := e.remove(ctx, sb); err != nil {
		return err
	}
	return b.awaitEnd(ctx, sb.Name)
}

// churnBare makes the same writes with bare clients: those to the batch, and with Delete the deletion and creation of a pod.
func (e *env) churnBare(ctx context.Context, v volley, kind churnKind, d delivery, model *corev1.Pod) (round, error) {
	pods, err := e.barePodsLike(ctx, model)
	if err != nil {
		return round{}, err
	}
	idle := make(chan string, barePool)
	if kind.recycle == v1alpha1.RecycleDelete {
		if err := e.fillBare(ctx, pods, idle); err != nil {
			return round{}, err
		}
	}
	v.then = func(ctx context.Context, b *board, sb *v1alpha1.BatchSandbox) error {
		if err := b.await(ctx, sb.Name); err != nil {
			return err
		}
		if err := e.remove(ctx, sb); err != nil {
			return err
		}
		if kind.recycle == v1alpha1.RecycleDelete {
			if err := pods.replace(ctx, idle); err != nil {
				return err
			}
		}
		if err := e.letGo(ctx, sb); err != nil {
			return err
		}
		return b.awaitEnd(ctx, sb.Name)
	}
	return e.floorOf(ctx, v, d)
}

// fillBare makes the pods that bare clients begin with, and waits until they are ready.
func (e *env) fillBare(ctx context.Context, pods barePods, idle chan<- string) error {
	b, err := e.watchPods(ctx, barePool)
	if err != nil {
		return err
	}
	defer b.stop()
	err = inParallel(ctx, churnClients, barePool, func(ctx context.Context, _ int) error {
		name := uniqueName("bare")
		idle <- name // has room for all
		return pods.make(ctx, name)
	})
	if err != nil {
		return err
	}
	return b.waitFor(ctx, b.enough, "the pods of bare clients")
}

// replace deletes the pod that has been there longest, and makes another.
func (b barePods) replace(ctx context.Context, idle chan string) error {
	if err := b.remove(ctx, <-idle); err != nil { // there are more pods than clients
		return err
	}
	name := uniqueName("bare")
	if err := b.make(ctx, name); err != nil {
		return err
	}
	idle <- name
	return nil
}

func churnMetrics(kind churnKind, got, floor round, costs costs) []report.Metric {
	with := "with " + string(kind.recycle)
	n := len(got.times)
	delivered := got.shown(kind.key+"Delivered", with+": from the request to the endpoints")
	bare := floor.shown(kind.key+"Floor", "floor "+with+": the same by bare clients")
	metrics := []report.Metric{
		{Key: kind.key + "RateRatio", What: with + ": rounds a second, in % of the floor's", Unit: "%", Goal: report.AtLeast(80), Value: 100 * ratio(delivered.rate(), bare.rate())},
		{Key: kind.key + "SystemWritesGoal", What: with + ": API writes in the whole system, without events and leases, for each delivery", Goal: report.AtMost(kind.writes), Value: costs.systemWrites() / float64(max(n, 1))},
	}
	metrics = append(metrics, delivered.metrics()...)
	metrics = append(metrics, bare.metrics()...)
	return append(metrics, costs.metrics(kind.key, "delivery "+with, n)...)
}
