// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
	clocktesting "k8s.io/utils/clock/testing"

	"opensandbox.io/controller/pkg/task-executor/token"
)

// fakeLock is a lock whose writes take a while and may fail.
type fakeLock struct {
	resourcelock.Interface
	clock *clocktesting.FakePassiveClock
	takes time.Duration
	err   error
}

func (f *fakeLock) Identity() string { return "me" }

func (f *fakeLock) Update(context.Context, resourcelock.LeaderElectionRecord) error {
	f.clock.SetTime(f.clock.Now().Add(f.takes))
	return f.err
}

func TestALeaseIsHeldUntilTheRenewDeadlineAfterItsLastRenewal(t *testing.T) {
	mine := resourcelock.LeaderElectionRecord{HolderIdentity: "me"}
	cases := map[string]struct {
		steps func(l *lease, f *fakeLock, renew func(resourcelock.LeaderElectionRecord))
		want  bool
	}{
		"never taken":  {func(*lease, *fakeLock, func(resourcelock.LeaderElectionRecord)) {}, false},
		"just renewed": {func(_ *lease, _ *fakeLock, renew func(resourcelock.LeaderElectionRecord)) { renew(mine) }, true},
		"renewed at the deadline": {func(_ *lease, f *fakeLock, renew func(resourcelock.LeaderElectionRecord)) {
			renew(mine)
			f.clock.SetTime(f.clock.Now().Add(10 * time.Second))
		}, false},
		"renewed by a call that took longer than the deadline": {func(_ *lease, f *fakeLock, renew func(resourcelock.LeaderElectionRecord)) {
			f.takes = 11 * time.Second
			renew(mine)
		}, false},
		"the last renewal failed, the one before is recent": {func(_ *lease, f *fakeLock, renew func(resourcelock.LeaderElectionRecord)) {
			renew(mine)
			f.err = errors.New("refused")
			renew(mine)
		}, true},
		"given back": {func(_ *lease, _ *fakeLock, renew func(resourcelock.LeaderElectionRecord)) {
			renew(mine)
			renew(resourcelock.LeaderElectionRecord{})
		}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			clk := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
			f := &fakeLock{clock: clk}
			l := &lease{Interface: f, clock: clk, deadline: 10 * time.Second}
			c.steps(l, f, func(r resourcelock.LeaderElectionRecord) {
				if err := l.Update(t.Context(), r); !errors.Is(err, f.err) {
					t.Errorf("update: %v, want %v", err, f.err)
				}
			})
			if got := l.leads(); got != c.want {
				t.Errorf("leads: %v, want %v", got, c.want)
			}
		})
	}
}

func TestOnlyALeaderCallsExecutors(t *testing.T) {
	leading := true
	sign := whileLeading(func() bool { return leading }, func(c token.Call) (string, error) { return "token for " + c.PodUID, nil })
	if got, err := sign(token.Call{PodUID: "p"}); err != nil || got != "token for p" {
		t.Errorf("got %q (%v) while it leads", got, err)
	}
	leading = false
	if got, err := sign(token.Call{PodUID: "p"}); !errors.Is(err, errNotLeading) || got != "" {
		t.Errorf("got %q (%v) when it may have been deposed", got, err)
	}
}
