// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
)

// lease is the lock of the election, and knows when it was last held for sure. A process that was stopped for a while, or
// cut off, finds out by asking it before it writes an allocation.
type lease struct {
	resourcelock.Interface
	clock    clock.PassiveClock
	deadline time.Duration

	mu      sync.Mutex
	renewed time.Time
}

// newLease returns the lock of the Lease in the controller's own namespace.
func newLease(config *rest.Config, o Options, clk clock.PassiveClock) (*lease, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this controller: %w", err)
	}
	config = rest.AddUserAgent(rest.CopyConfig(config), "leader-election")
	config.Timeout = max(o.RenewDeadline/2, time.Second) // one call that hangs must not cost the lease
	client, err := coordinationv1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the client of the lease: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, ownNamespace(o), v1alpha1.LeaderElectionID, nil, client,
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())})
	if err != nil {
		return nil, fmt.Errorf("make the lease: %w", err)
	}
	return &lease{Interface: lock, clock: clk, deadline: o.RenewDeadline}, nil
}

// Create takes the lease for the first time.
func (l *lease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func() error { return l.Interface.Create(ctx, record) })
}

// Update takes, renews or gives back the lease.
func (l *lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func() error { return l.Interface.Update(ctx, record) })
}

// note remembers when a write that went well was begun: the lease is held from then on.
func (l *lease) note(record resourcelock.LeaderElectionRecord, write func() error) error {
	begun := l.clock.Now()
	err := write()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
	case record.HolderIdentity == l.Identity():
		l.renewed = begun
	default:
		l.renewed = time.Time{} // given back
	}
	return err
}

// leads says whether the lease was renewed within the renew deadline, so that nobody else can have it.
func (l *lease) leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.renewed.IsZero() && l.clock.Since(l.renewed) < l.deadline
}
