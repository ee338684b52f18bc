// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// lookPause is the time between two looks at what can't be watched.
	lookPause = 50 * time.Millisecond
	// takeover bounds how long the killer waits for another leader before it goes on.
	takeover = 20 * time.Second
)

// tally counts what was done, by kind.
type tally struct {
	mu     sync.Mutex
	counts map[string]int64
}

func newTally() *tally { return &tally{counts: map[string]int64{}} }

func (t *tally) add(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[kind]++
}

func (t *tally) all() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

// election follows who leads.
type election struct {
	client client.Client

	mu     sync.Mutex
	holder string // the last one that there was
	losses int
}

// follow looks at the lease until ctx is done.
func (e *election) follow(ctx context.Context) {
	for ctx.Err() == nil {
		lease := &coordinationv1.Lease{}
		err := e.client.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: v1alpha1.LeaderElectionID}, lease)
		if err == nil && lease.Spec.HolderIdentity != nil {
			e.see(*lease.Spec.HolderIdentity)
		}
		wait(ctx, lookPause)
	}
}

func (e *election) see(holder string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if holder == "" || holder == e.holder {
		return
	}
	if e.holder != "" {
		e.losses++
	}
	e.holder = holder
}

// state is who leads, or led last, and how often another one did before.
func (e *election) state() (holder string, losses int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder, e.losses
}

// killer takes the lead away from controllers.
type killer struct {
	random   *rand.Rand
	replicas []*replica
	election *election
	delivery func() time.Time // the last one
	only     string           // the one way that is used; "" for all
	done     *tally
}

// run takes the lead away, again and again until ctx is done. Then all controllers run.
func (k *killer) run(ctx context.Context) {
	defer k.revive()
	for ctx.Err() == nil {
		if k.random.Float64() < 0.8 { // else also one that has delivered nothing yet
			k.recovery(ctx)
		}
		wait(ctx, time.Second+exponential(k.random, 8*time.Second))
		leader := k.leader(ctx)
		if leader == nil {
			wait(ctx, lookPause)
			continue
		}
		before, _ := k.election.state()
		k.strike(ctx, leader, before)
		k.another(ctx, before)
	}
}

func (k *killer) leader(ctx context.Context) *replica {
	for _, r := range k.replicas {
		if r.leads(ctx) {
			return r
		}
	}
	return nil
}

// strike is a way to take the lead away, and its share of all.
type strike struct {
	name  string
	share float64
}

var strikes = []strike{{killLeader, 0.55}, {freezeLeader, 0.25}, {endLeader, 0.1}, {killBoth, 0.1}}

const (
	killLeader   = "killLeader"
	freezeLeader = "freezeLeader"
	endLeader    = "endLeader"
	killBoth     = "killBoth"
)

// drawStrike draws what becomes of the leader.
func (k *killer) drawStrike() string {
	pick := k.random.Float64()
	if k.only != "" {
		return k.only
	}
	for _, s := range strikes {
		if pick -= s.share; pick < 0 {
			return s.name
		}
	}
	return killBoth
}

// strike does to the leader what was drawn.
func (k *killer) strike(ctx context.Context, leader *replica, holder string) {
	how := k.drawStrike()
	k.done.add(how)
	switch how {
	case killLeader:
		leader.signal(syscall.SIGKILL)
	case freezeLeader:
		pause := between(k.random, 0, 3*time.Second)
		leader.signal(syscall.SIGSTOP)
		k.another(ctx, holder)
		wait(ctx, pause)
		leader.signal(syscall.SIGCONT)
	case endLeader:
		leader.signal(syscall.SIGTERM)
	default: // killBoth
		for _, r := range k.replicas {
			r.keepDown(true)
			r.signal(syscall.SIGKILL)
		}
		wait(ctx, between(k.random, time.Second, 5*time.Second))
		for _, r := range k.replicas {
			r.keepDown(false)
		}
	}
}

// another waits until somebody else leads.
func (k *killer) another(ctx context.Context, before string) {
	ctx, cancel := context.WithTimeout(ctx, takeover)
	defer cancel()
	for ctx.Err() == nil {
		if holder, _ := k.election.state(); holder != before {
			return
		}
		wait(ctx, lookPause)
	}
}

// recovery waits until something is delivered.
func (k *killer) recovery(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, takeover)
	defer cancel()
	begin := time.Now()
	for ctx.Err() == nil && k.delivery().Before(begin) {
		wait(ctx, lookPause)
	}
}

// revive has all controllers run.
func (k *killer) revive() {
	for _, r := range k.replicas {
		r.signal(syscall.SIGCONT)
		r.keepDown(false)
	}
}

// between draws a time, evenly.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Float64()*float64(most-least))
}

// exponential draws a time from an exponential distribution that is cut at five times its mean.
func exponential(random *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(min(5, random.ExpFloat64()) * float64(mean))
}
