// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// fakeLock is a lock whose writes take a while and may fail.
type fakeLock struct {
	resourcelock.Interface
	clock *clocktesting.FakeClock
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
			clk := clocktesting.NewFakeClock(time.Unix(1000, 0))
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

// shared is the lease of two controllers: this one, and another that renews it.
type shared struct {
	resourcelock.Interface
	mu     sync.Mutex
	record resourcelock.LeaderElectionRecord
	err    error
	reads  int
}

func (s *shared) Identity() string { return "me" }

func (s *shared) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	record := s.record
	raw, err := json.Marshal(record)
	return &record, raw, errors.Join(err, s.err)
}

func (s *shared) Update(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = record
	return nil
}

// change is what happens to the lease.
func (s *shared) change(f func(*shared)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// renew has the other controller renew every 2 s, until a time after now.
func (s *shared) renew(until time.Duration) {
	for end := time.Now().Add(until); time.Now().Before(end); time.Sleep(2 * time.Second) {
		s.change(func(s *shared) {
			s.record = resourcelock.LeaderElectionRecord{HolderIdentity: "another", LeaseDurationSeconds: 15, RenewTime: metav1.Now()}
		})
	}
}

func TestALeaseIsTakenWhenItIsGivenBackOrNoMoreRenewed(t *testing.T) {
	cases := map[string]struct {
		other func(*shared) // what the other controller does from the beginning
		after time.Duration // the time until the lease is there to be taken
		late  time.Duration // how much later that is seen at most
	}{
		"nobody has it":              {func(*shared) {}, 0, 0},
		"this one has it":            {func(s *shared) { s.change(func(s *shared) { s.record.HolderIdentity = "me" }) }, 0, 0},
		"given back after a minute":  {func(s *shared) { s.renew(time.Minute); s.change(func(s *shared) { s.record.HolderIdentity = "" }) }, time.Minute, 500 * time.Millisecond},
		"not renewed after a minute": {func(s *shared) { s.renew(time.Minute) }, 58*time.Second + 15*time.Second, time.Second},
		"never renewed":              {func(s *shared) { s.renew(time.Nanosecond) }, 15 * time.Second, 500 * time.Millisecond},
		"renewed after a long pause": {func(s *shared) { s.renew(time.Nanosecond); time.Sleep(12 * time.Second); s.renew(time.Nanosecond) }, 29 * time.Second, time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shared{}
				l := &lease{Interface: s, clock: clock.RealClock{}, deadline: 10 * time.Second, look: 500 * time.Millisecond}
				begin := time.Now()
				go c.other(s)
				synctest.Wait()
				record, raw, err := l.Get(t.Context())
				if took := time.Since(begin); took < c.after || took > c.after+c.late {
					t.Errorf("it took %v, want %v and at most %v more", took, c.after, c.late)
				}
				if err != nil || (record.HolderIdentity != "" && record.HolderIdentity != "me") || len(raw) == 0 {
					t.Errorf("got %+v (%v) %s, want it to be taken", record, err, raw)
				}
			})
		})
	}
}

// The elector waits between two calls, and what was seen before an error still counts.
func TestAnErrorDoesNotMakeALeaseLastLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{}
		s.renew(time.Nanosecond) // and never again
		l := &lease{Interface: s, clock: clock.RealClock{}, deadline: 10 * time.Second, look: 500 * time.Millisecond}
		begin := time.Now()
		refused := errors.New("refused")
		go func() {
			time.Sleep(5 * time.Second)
			s.change(func(s *shared) { s.err = refused })
			time.Sleep(time.Second)
			s.change(func(s *shared) { s.err = nil })
		}()
		if _, _, err := l.Get(t.Context()); !errors.Is(err, refused) {
			t.Errorf("err = %v, want %v", err, refused)
		}
		time.Sleep(4 * time.Second)
		if _, _, err := l.Get(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("it took %v, want the 15 s of the lease", took)
		}
	})
}

func TestAFollowedLeaseIsLeftAloneWhenTheControllerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{}
		go s.renew(8 * time.Second)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l := &lease{Interface: s, clock: clock.RealClock{}, deadline: 10 * time.Second, look: 500 * time.Millisecond}
		begin := time.Now()
		if record, _, err := l.Get(ctx); err != nil || record.HolderIdentity != "another" {
			t.Errorf("got %+v (%v), want that another one has it", record, err)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("it took %v, want the 10 s of the context", took)
		}
		if s.reads > 21 {
			t.Errorf("the lease was read %d times in 10 s, want two a second", s.reads)
		}
	})
}

// The elector asks for the time before it follows the lease, maybe for days.
func TestALeaseTellsSinceWhenItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{}
		l := &lease{Interface: s, clock: clock.RealClock{}, deadline: 10 * time.Second, look: 500 * time.Millisecond}
		mine := resourcelock.LeaderElectionRecord{HolderIdentity: "me", AcquireTime: metav1.Now(), RenewTime: metav1.Now()}
		time.Sleep(time.Hour)
		taken := time.Now()
		for range 2 {
			if err := l.Update(t.Context(), mine); err != nil {
				t.Fatal(err)
			}
			if !s.record.AcquireTime.Time.Equal(taken) || !s.record.RenewTime.Time.Equal(time.Now()) {
				t.Errorf("held since %v, renewed %v, want %v and %v", s.record.AcquireTime, s.record.RenewTime, taken, time.Now())
			}
			time.Sleep(2 * time.Second)
		}
		s.change(func(s *shared) { s.record.HolderIdentity = "another" }) // a leader that lost it must know at once
		if record, _, err := l.Get(t.Context()); err != nil || record.HolderIdentity != "another" {
			t.Errorf("got %+v (%v), want what is there", record, err)
		}
	})
}

func TestOnlyALeaderCallsExecutors(t *testing.T) {
	leads := true
	sign := whileLeading(func() bool { return leads }, func(c token.Call) (string, error) { return "token for " + c.PodUID, nil })
	if got, err := sign(token.Call{PodUID: "p"}); err != nil || got != "token for p" {
		t.Errorf("got %q (%v) while it leads", got, err)
	}
	leads = false
	if got, err := sign(token.Call{PodUID: "p"}); !errors.Is(err, leading.ErrLost) || got != "" {
		t.Errorf("got %q (%v) when it may have been deposed", got, err)
	}
}
