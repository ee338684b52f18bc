// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/internal/process"
)

func failoverScenario() scenario {
	return scenario{
		name:  "failover",
		about: "a leader of two controllers is killed, another asked to end, with N batches of one from a pool of POOL",
		sizes: sizes{N: 100, Pool: 400},
		run:   runFailover,
	}
}

func runFailover(ctx context.Context, e *env, s sizes) (f findings, err error) {
	if s.Pool < s.N+2 {
		return findings{}, fmt.Errorf("a pool of %d has no room for %d batches and 2 more: raise POOL or lower N", s.Pool, s.N)
	}
	if err := e.stopController(); err != nil { // it leads without an election
		return findings{}, err
	}
	var all []*process.Process
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.Stop()) // those that have ended too: by our signal
		}
	}()
	start := func() error { // one leads, the others wait
		p, err := e.startElected(ctx)
		if p != nil {
			all = append(all, p)
		}
		return err
	}
	v := volley{kind: "held", pool: "failover", n: s.N, clients: burstClients}
	if err := errors.Join(start(), e.fresh(ctx, s.Pool, fixedPool(v.pool, s.Pool, v1alpha1.RecycleNoop))); err != nil {
		return findings{}, err
	}
	b, err := e.watchBatches(ctx)
	if err != nil {
		return findings{}, err
	}
	defer b.stop()
	if _, err := e.fire(ctx, b, v, e.create); err != nil {
		return findings{}, err
	}
	for _, way := range []struct {
		key, what string
		goal      float64 // in s
		lose      func(*process.Process) error
	}{
		{"killed", "from SIGKILL of the leader to the delivery of a batch created then", 20, func(p *process.Process) error { p.Kill(); return nil }},
		{"asked", "from SIGTERM to the leader to the delivery of a batch created then", 3, (*process.Process).Stop},
	} {
		if err := errors.Join(start(), e.settle(ctx)); err != nil {
			return findings{}, err
		}
		took, err := e.loseLeader(ctx, b, func() error { return way.lose(all[len(all)-2]) })
		if err != nil {
			return findings{}, err
		}
		f.add(report.Metric{Key: way.key, What: way.what, Unit: "s", Goal: report.AtMost(way.goal), Value: took.Seconds()})
	}
	return f, e.clear(ctx)
}

// loseLeader asks for a batch at the moment the leader is lost, and returns how long its delivery took from then.
func (e *env) loseLeader(ctx context.Context, b *board, lose func() error) (time.Duration, error) {
	sb := batchOf(uniqueName("after"), "failover", 1)
	begin, lost := time.Now(), make(chan error, 1)
	go func() { lost <- lose() }()
	if err := errors.Join(e.create(ctx, sb), b.await(ctx, sb.Name), <-lost); err != nil {
		return 0, err
	}
	return b.get(sb.Name).delivered.Sub(begin), nil
}

// startElected runs a controller that takes part in the election, with the lease's default times, and waits until it is ready
// and somebody leads.
func (e *env) startElected(ctx context.Context) (*process.Process, error) {
	health, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.launch("--leader-elect", "--namespace="+benchNamespace, "--metrics-bind-address=0", "--health-probe-bind-address="+health)
	if err != nil {
		return nil, err
	}
	return p, e.until(ctx, startTimeout, "a controller is ready", func() (bool, string) {
		lease := &coordinationv1.Lease{}
		err := e.cluster.Client.Get(ctx, client.ObjectKey{Namespace: benchNamespace, Name: v1alpha1.LeaderElectionID}, lease)
		if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return false, "nobody leads"
		}
		return e.ready(ctx, "http://"+health+"/readyz"), "it is not ready"
	})
}

func (e *env) ready(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return reply.Body.Close() == nil && reply.StatusCode == http.StatusOK
}
