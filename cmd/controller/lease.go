// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
)

// lease is the lock of the election, and knows when it was last held for sure. A process that was stopped for a while, or
// cut off, finds out by asking it before it writes an allocation.
//
// While another controller has it, it is followed (Get), so that one that is given back is taken at once, and one that is not renewed
// when its duration is over. By itself the elector looks only once in 1 to 2.2 retry periods, and counts from when it looked.
type lease struct {
	resourcelock.Interface
	clock    clock.WithTicker
	deadline time.Duration
	look     time.Duration // the time between two looks at what another controller has

	// seen is what another controller wrote last, and since when it is there. The elector makes one call at a time.
	seen  []byte
	since time.Time

	mu       sync.Mutex
	acquired time.Time // when it was taken
	renewed  time.Time
}

// newLease returns the lock of the Lease in the controller's own namespace.
func newLease(config *rest.Config, o Options, clk clock.WithTicker) (*lease, error) {
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
	return &lease{Interface: lock, clock: clk, deadline: o.RenewDeadline, look: max(o.RetryPeriod/4, time.Millisecond)}, nil
}

// Get reads the lease. While another controller has it, and this one has not led yet, Get doesn't return before ctx is done. A lease
// that was not renewed for its duration, by the clock of this machine, is shown as given back: the elector takes it, if it is still
// the same.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ticker := l.clock.NewTicker(l.look)
	defer ticker.Stop()
	for {
		record, raw, err := l.Interface.Get(ctx)
		if err != nil || record.HolderIdentity == "" || record.HolderIdentity == l.Identity() || l.led() {
			return record, raw, err
		}
		if !bytes.Equal(raw, l.seen) {
			l.seen, l.since = raw, l.clock.Now()
		}
		if l.clock.Since(l.since) >= time.Duration(record.LeaseDurationSeconds)*time.Second {
			record.HolderIdentity = ""
			return record, raw, nil
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return record, raw, nil // an error would be logged
		}
	}
}

// Create takes the lease for the first time.
func (l *lease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func(r resourcelock.LeaderElectionRecord) error { return l.Interface.Create(ctx, r) })
}

// Update takes, renews or gives back the lease.
func (l *lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(record, func(r resourcelock.LeaderElectionRecord) error { return l.Interface.Update(ctx, r) })
}

// note remembers when a write that went well was begun: the lease is held from then on. The elector asked for the time before it
// followed the lease, so it is told anew.
func (l *lease) note(record resourcelock.LeaderElectionRecord, write func(resourcelock.LeaderElectionRecord) error) error {
	begun, mine := l.clock.Now(), record.HolderIdentity == l.Identity()
	if mine {
		l.mu.Lock()
		record.AcquireTime, record.RenewTime = metav1.NewTime(l.acquired), metav1.NewTime(begun)
		l.mu.Unlock()
		if record.AcquireTime.IsZero() {
			record.AcquireTime = record.RenewTime
		}
	}
	err := write(record)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
	case mine:
		l.acquired, l.renewed = record.AcquireTime.Time, begun
	default:
		l.renewed = time.Time{} // given back
	}
	return err
}

// led says whether this controller has ever had the lease.
func (l *lease) led() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.acquired.IsZero()
}

// leads says whether the lease was renewed within the renew deadline, so that nobody else can have it.
func (l *lease) leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.renewed.IsZero() && l.clock.Since(l.renewed) < l.deadline
}
