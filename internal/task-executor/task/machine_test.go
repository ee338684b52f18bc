// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

var (
	t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	t1 = t0.Add(time.Second)
	t2 = t0.Add(2 * time.Second)
)

func TestMachine(t *testing.T) {
	start := func(m *machine) { m.started(t0) }
	exit3 := func(m *machine) { m.exited(t1, exit{code: 3}, "out") }
	timeout := func(m *machine) { m.stop(taskexecutor.ReasonTimedOut, "ran longer than 1s") }
	early := func(m *machine) { m.exited(t0.Add(-time.Hour), exit{code: 3}, "out") }
	lost := func(m *machine) { m.stop(taskexecutor.ReasonSandboxLost, "lost") }
	killed := func(m *machine) { m.exited(t1, exit{code: 137, signal: 9}, "") }
	gone := func(m *machine) { m.treeGone(t2, "tail") }
	fail := func(m *machine) { m.startFailed(t1, taskexecutor.ReasonStartError, "no such file") }
	remove := func(m *machine) { m.remove() }
	nonZero := &taskexecutor.Terminated{ExitCode: 3, Reason: "NonZeroExit", Message: "exit status 3", Output: "out", StartedAt: t0, FinishedAt: t1}
	timedOut := &taskexecutor.Terminated{ExitCode: 137, Signal: 9, Reason: "TimedOut", Message: "ran longer than 1s", Output: "tail",
		StartedAt: t0, FinishedAt: t2}

	cases := map[string]struct {
		inputs    []func(*machine)
		wantState State
		wantEnd   *taskexecutor.Terminated
	}{
		"accepted":                        {wantState: Pending},
		"started":                         {inputs: []func(*machine){start}, wantState: Running},
		"could not be started":            {inputs: []func(*machine){fail}, wantState: Ended, wantEnd: &taskexecutor.Terminated{ExitCode: 128, Reason: "StartError", Message: "no such file", FinishedAt: t1}},
		"removed before it could start":   {inputs: []func(*machine){remove, fail}, wantState: Gone, wantEnd: &taskexecutor.Terminated{ExitCode: 128, Reason: "StartError", Message: "no such file", FinishedAt: t1}},
		"exited by itself":                {inputs: []func(*machine){start, exit3}, wantState: Ended, wantEnd: nonZero},
		"the clock was set back":          {inputs: []func(*machine){start, early}, wantState: Ended, wantEnd: &taskexecutor.Terminated{ExitCode: 3, Reason: "NonZeroExit", Message: "exit status 3", Output: "out", StartedAt: t0, FinishedAt: t0}},
		"an end is final":                 {inputs: []func(*machine){start, exit3, timeout, killed, gone, fail, start}, wantState: Ended, wantEnd: nonZero},
		"timed out, tree not gone":        {inputs: []func(*machine){start, timeout, killed}, wantState: Stopping},
		"timed out":                       {inputs: []func(*machine){start, timeout, killed, gone}, wantState: Ended, wantEnd: timedOut},
		"the first reason to stop stands": {inputs: []func(*machine){start, timeout, lost, killed, gone}, wantState: Ended, wantEnd: timedOut},
		"timed out, then removed":         {inputs: []func(*machine){start, timeout, remove, killed, gone}, wantState: Gone, wantEnd: timedOut},
		"removed while running":           {inputs: []func(*machine){start, remove}, wantState: Stopping},
		"removed while running, and gone": {inputs: []func(*machine){start, remove, killed, gone}, wantState: Gone, wantEnd: &taskexecutor.Terminated{
			ExitCode: 137, Signal: 9, Reason: "Cancelled", Message: "the task was taken out of the desired set", Output: "tail", StartedAt: t0, FinishedAt: t2}},
		"removed after its end":           {inputs: []func(*machine){start, exit3, remove}, wantState: Removing, wantEnd: nonZero},
		"removed after its end, and gone": {inputs: []func(*machine){start, exit3, remove, gone}, wantState: Gone, wantEnd: nonZero},
		"nobody saw the main process end": {inputs: []func(*machine){start, lost, gone}, wantState: Ended, wantEnd: &taskexecutor.Terminated{
			ExitCode: -1, Reason: "SandboxLost", Message: "lost", Output: "tail", StartedAt: t0, FinishedAt: t2}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			for _, input := range tc.inputs {
				input(&m)
			}
			if m.state != tc.wantState {
				t.Errorf("state %s, want %s", m.state, tc.wantState)
			}
			if diff := cmp.Diff(tc.wantEnd, m.end); diff != "" {
				t.Errorf("end (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMachineHoldsItsWord feeds inputs in any order: an end never changes, a status has exactly one member, a machine
// that is gone stays so and was removed before.
func TestMachineHoldsItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		var end *taskexecutor.Terminated
		removed, gone := false, false
		for range rapid.IntRange(0, 20).Draw(t, "inputs") {
			switch rapid.IntRange(0, 5).Draw(t, "input") {
			case 0:
				m.started(t0)
			case 1:
				m.startFailed(t1, taskexecutor.ReasonStartError, "x")
			case 2:
				m.exited(t1, exit{code: rapid.Int32Range(0, 3).Draw(t, "code")}, "o")
			case 3:
				m.stop(taskexecutor.ReasonTimedOut, "x")
			case 4:
				m.remove()
				removed = true
			case 5:
				m.treeGone(t2, "o")
			}
			if end != nil && *end != *m.end {
				t.Fatalf("the end changed from %+v to %+v", end, m.end)
			}
			if m.end != nil {
				copied := *m.end
				end = &copied
			}
			s := m.status()
			members := 0
			for _, set := range []bool{s.Waiting != nil, s.Running != nil, s.Terminated != nil} {
				if set {
					members++
				}
			}
			if members != 1 {
				t.Fatalf("status with %d members in %s", members, m.state)
			}
			if gone && m.state != Gone || m.state == Gone && !removed {
				t.Fatalf("state %s, gone before: %v, removed: %v", m.state, gone, removed)
			}
			gone = m.state == Gone
		}
	})
}

func TestExitOf(t *testing.T) {
	cases := map[unix.WaitStatus]exit{0: {0, 0}, 7 << 8: {7, 0}, 255 << 8: {255, 0}, 9: {137, 9}, 11 | 0x80: {139, 11}}
	for status, want := range cases {
		if got := exitOf(status); got != want {
			t.Errorf("exitOf(%#x) = %+v, want %+v", status, got, want)
		}
	}
}

func TestPlanSet(t *testing.T) {
	run := func(args ...string) taskexecutor.Process { return taskexecutor.Process{Command: args} }
	task := func(name string, p taskexecutor.Process) taskexecutor.Task {
		return taskexecutor.Task{Name: name, Process: p}
	}
	ptr := func(p taskexecutor.Process) *taskexecutor.Process { return &p }
	emptied := run("x")
	emptied.Args, emptied.Env = []string{}, []taskexecutor.EnvVar{}
	many := map[string]known{}
	for i := range maxKnown {
		many[string(rune('A'+i))] = known{process: ptr(run("x")), removing: true}
	}
	cases := map[string]struct {
		have      map[string]known
		want      []taskexecutor.Task
		wantStart []string
		wantStop  []string
		wantErr   error
	}{
		"new names start in their order": {want: []taskexecutor.Task{task("b", run("x")), task("a", run("y"))}, wantStart: []string{"b", "a"}},
		"known ones stay, missing ones stop": {
			have: map[string]known{"a": {process: ptr(run("x"))}, "b": {process: ptr(run("x"))}, "c": {process: ptr(run("x"))}},
			want: []taskexecutor.Task{task("b", emptied), task("d", run("x"))}, wantStart: []string{"d"}, wantStop: []string{"a", "c"}},
		"the empty set stops all":                        {have: map[string]known{"a": {process: ptr(run("x"))}}, want: []taskexecutor.Task{}, wantStop: []string{"a"}},
		"one that is being removed is not removed twice": {have: map[string]known{"a": {process: ptr(run("x")), removing: true}}},
		"a lost record is taken for the same process":    {have: map[string]known{"a": {}}, want: []taskexecutor.Task{task("a", run("x"))}},
		"another process under a known name":             {have: map[string]known{"a": {process: ptr(run("x"))}}, want: []taskexecutor.Task{task("a", run("y"))}, wantErr: ErrConflict},
		"a name that is being removed": {have: map[string]known{"a": {process: ptr(run("x")), removing: true}},
			want: []taskexecutor.Task{task("a", run("x"))}, wantErr: ErrConflict},
		"an invalid task spoils the set":   {want: []taskexecutor.Task{task("a", run("x")), task("b", run())}, wantErr: ErrInvalid},
		"too many are still being stopped": {have: many, want: []taskexecutor.Task{task("new", run("x"))}, wantErr: ErrConflict},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			plan, err := planSet(tc.have, tc.want)
			if (tc.wantErr == nil) != (err == nil) || !isErr(err, tc.wantErr) {
				t.Fatalf("error %v, want %v", err, tc.wantErr)
			}
			var start []string
			for _, task := range plan.start {
				start = append(start, task.Name)
			}
			if diff := cmp.Diff([][]string{tc.wantStart, tc.wantStop}, [][]string{start, plan.stop}); diff != "" {
				t.Errorf("start, stop (-want +got):\n%s", diff)
			}
		})
	}
}
