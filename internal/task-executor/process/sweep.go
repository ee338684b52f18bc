// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"strings"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// SweepInput says by what the processes of an earlier life are recognised.
type SweepInput struct {
	// MarkerPrefix begins the marker of everything this executor has ever started.
	MarkerPrefix string
	// Mains are the main processes it had started since the machine did.
	Mains []procfs.ID
}

// Sweep kills everything that an earlier executor has started and that outlived it. Nothing may have been started yet.
// It returns when none is left, or with the error of ctx.
func (s *Supervisor) Sweep(ctx context.Context, in SweepInput) error {
	own, err := s.fs.Container(s.self)
	if err != nil {
		return err
	}
	return s.kill(ctx, func(context.Context) ([]procfs.Stat, error) {
		all, err := s.fs.List()
		if err != nil {
			return nil, err
		}
		return survivors(survivorsInput{
			All: all, Self: s.self, Mains: in.Mains,
			Marked: func(pid int) bool { return strings.HasPrefix(s.markerOf(pid), in.MarkerPrefix) },
			InOwnContainer: func(pid int) bool {
				c, err := s.fs.Container(pid)
				return err == nil && c == own
			},
		}), nil
	})
}

type survivorsInput struct {
	All            []procfs.Stat
	Self           int
	Mains          []procfs.ID
	Marked         func(pid int) bool
	InOwnContainer func(pid int) bool
}

// survivors returns who is left of an earlier life: main processes, those in their sessions (but only in the executor's
// own container, where tasks are, since the number of a session may have been given away), those with a marker, and
// the descendants of all these. The executor and its ancestors are never among them.
func survivors(in survivorsInput) []procfs.Stat {
	byPID := map[int]procfs.Stat{}
	children := map[int][]procfs.Stat{}
	for _, s := range in.All {
		byPID[s.PID] = s
		children[s.Parent] = append(children[s.Parent], s)
	}
	spared := map[int]bool{}
	for pid := in.Self; pid != 0 && !spared[pid]; pid = byPID[pid].Parent {
		spared[pid] = true
	}
	var todo, out []procfs.Stat
	for _, s := range in.All {
		if in.isSurvivor(s) {
			todo = append(todo, s)
		}
	}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		if spared[s.PID] {
			continue
		}
		spared[s.PID] = true // taken once
		if s.Alive() {
			out = append(out, s)
		}
		todo = append(todo, children[s.PID]...)
	}
	return out
}

func (in survivorsInput) isSurvivor(s procfs.Stat) bool {
	for _, main := range in.Mains {
		if s.ID == main || (s.Session == main.PID && s.Start >= main.Start && in.InOwnContainer(s.PID)) {
			return true
		}
	}
	return in.Marked(s.PID)
}
