// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

const (
	// lookAgain is how long to wait for news of children before the tree is looked at anyway.
	lookAgain = 200 * time.Millisecond
	// maxFreezes bounds the rounds in which a tree is stopped before it is killed.
	maxFreezes = 32
)

// End ends the whole tree: SIGTERM to every member, and SIGKILL to those that are left after grace; a grace of 0 kills at
// once. It returns when no member is left, or with the error of ctx. It may be called again, and by several at a time.
func (p *Process) End(ctx context.Context, grace time.Duration) error {
	s := p.supervisor
	if grace > 0 {
		gone, err := p.terminate(ctx, grace)
		if gone || err != nil {
			return err
		}
	}
	return s.kill(ctx, func(ctx context.Context) ([]procfs.Stat, error) { return s.look(ctx, p.marker) })
}

// terminate asks every member to end, once, and reports whether all are gone in time. Those that are started later are
// left alone: they are how a program that was asked to end cleans up.
func (p *Process) terminate(ctx context.Context, grace time.Duration) (bool, error) {
	s := p.supervisor
	deadline := s.clock.NewTimer(grace)
	defer deadline.Stop()
	for first := true; ; first = false {
		reaped := s.reaper.Reaped() // before looking, so that no news is missed
		left, err := s.look(ctx, p.marker)
		if err != nil {
			return false, err
		}
		if len(left) == 0 {
			return true, nil
		}
		if first {
			if err := sendAll(s.fs, left, unix.SIGTERM, unix.SIGCONT); err != nil {
				s.log.Warn("could not ask every process of a task to end", "err", err)
			}
		}
		again := s.clock.NewTimer(lookAgain)
		select {
		case <-reaped:
		case <-again.C():
		case <-deadline.C():
			again.Stop()
			return false, nil
		case <-ctx.Done():
			again.Stop()
			return false, ctx.Err()
		}
		again.Stop()
	}
}

// kill kills all that look returns until it returns none. It first stops them until no new ones appear: a tree that forks
// faster than it is killed can't outrun that, since the stopped ones use up its limit of processes.
func (s *Supervisor) kill(ctx context.Context, look func(context.Context) ([]procfs.Stat, error)) error {
	frozen := map[procfs.ID]bool{}
	var last error
	for round := 0; ; round++ {
		reaped := s.reaper.Reaped()
		left, err := look(ctx)
		if err != nil {
			return errors.Join(err, last)
		}
		if len(left) == 0 {
			return nil
		}
		if round < maxFreezes && s.freeze(left, frozen) {
			continue
		}
		last = sendAll(s.fs, left, unix.SIGKILL)
		again := s.clock.NewTimer(lookAgain)
		select {
		case <-reaped:
		case <-again.C():
		case <-ctx.Done():
			again.Stop()
			return errors.Join(ctx.Err(), last)
		}
		again.Stop()
	}
}

// freeze stops those that are not stopped yet and reports whether there were any.
func (s *Supervisor) freeze(left []procfs.Stat, frozen map[procfs.ID]bool) bool {
	some := false
	for _, p := range left {
		if frozen[p.ID] {
			continue
		}
		frozen[p.ID], some = true, true
		if err := send(s.fs, p.ID, unix.SIGSTOP); err != nil {
			s.log.Warn("could not stop a process before killing it", "err", err)
		}
	}
	return some
}
