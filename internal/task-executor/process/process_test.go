// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/procfs"
)

// TestMain lets the test binary play the executor's: started with "enter" it becomes a task's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == enter.Command {
		os.Exit(enter.Main())
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test; none takes that long unless it fails.
const patience = 20 * time.Second

var proc = procfs.New("/proc")

func newSupervisor(t *testing.T) *Supervisor {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	reaper, err := NewReaper(log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { reaper.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return NewSupervisor(proc, reaper, clock.RealClock{}, log)
}

func self(t *testing.T) procfs.ID {
	t.Helper()
	s, err := proc.Stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return s.ID
}

// started is a process under test, and what it writes.
type started struct {
	*Process
	out *os.File
	buf strings.Builder
}

// start runs a spec and ends its tree with the test.
func start(t *testing.T, s *Supervisor, marker string, spec enter.Spec) (*started, error) {
	t.Helper()
	read, write, err := pipe("out")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Start(t.Context(), StartInput{
		Spec: spec, Marker: marker, Stdout: write, Stderr: write, Commit: func(procfs.ID, time.Time) error { return nil },
	})
	if closeErr := write.Close(); closeErr != nil {
		t.Fatal(closeErr)
	}
	t.Cleanup(func() {
		if p != nil {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := p.End(ctx, 0); err != nil {
				t.Error(err)
			}
		}
		_ = read.Close() // only read from
	})
	if deadlineErr := read.SetReadDeadline(time.Now().Add(patience)); deadlineErr != nil {
		t.Fatal(deadlineErr)
	}
	return &started{Process: p, out: read}, err
}

// shell starts a script in the test's own root.
func shell(t *testing.T, s *Supervisor, marker, script string) *started {
	t.Helper()
	p, err := start(t, s, marker, enter.Spec{Own: true, Main: self(t), Args: []string{"/bin/sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// expect reads until the output holds want.
func (p *started) expect(t *testing.T, want string) string {
	t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(p.buf.String(), want) {
		n, err := p.out.Read(buf)
		p.buf.Write(buf[:n])
		if err != nil && !strings.Contains(p.buf.String(), want) {
			t.Fatalf("output %q lacks %q: %v", p.buf.String(), want, err)
		}
	}
	return p.buf.String()
}

// all reads the output to its end.
func (p *started) all(t *testing.T) string {
	t.Helper()
	rest, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	return p.buf.String() + string(rest)
}

func (p *started) wait(t *testing.T) unix.WaitStatus {
	t.Helper()
	select {
	case status := <-p.Ended():
		return status
	case <-time.After(patience):
		t.Fatal("the process didn't end")
		return 0
	}
}

// pidIn returns the number after name= in an output.
func pidIn(t *testing.T, output, name string) procfs.ID {
	t.Helper()
	_, rest, ok := strings.Cut(output, name+"=")
	if !ok {
		t.Fatalf("output %q lacks %s=", output, name)
	}
	pid, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := proc.Stat(pid)
	if err != nil {
		t.Fatalf("process %s: %v", name, err)
	}
	return s.ID
}

func lives(id procfs.ID) bool {
	s, err := proc.Stat(id.PID)
	return err == nil && s.ID == id && s.Alive()
}

func TestStartAndExit(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", "echo out; echo err >&2; exit 7")
	status := p.wait(t)
	if got := p.all(t); status.ExitStatus() != 7 || got != "out\nerr\n" {
		t.Errorf("exit status %d, output %q", status.ExitStatus(), got)
	}
	killed := shell(t, s, "m2", "kill -9 $$")
	if status := killed.wait(t); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("status %v, want SIGKILL", status)
	}
}

// TestACommandIsExecutedOnlyAfterItWasSetDown: what can't be set down, or whose executor dies before, is not executed.
func TestACommandIsExecutedOnlyAfterItWasSetDown(t *testing.T) {
	s := newSupervisor(t)
	mark := filepath.Join(t.TempDir(), "mark")
	full := errors.New("no space")
	p, err := s.Start(t.Context(), StartInput{
		Spec:   enter.Spec{Own: true, Main: self(t), Args: []string{"/bin/sh", "-c", "echo ran > " + mark}},
		Marker: "m", Stdout: os.Stdout, Stderr: os.Stderr,
		Commit: func(id procfs.ID, at time.Time) error {
			if !lives(id) || at.IsZero() {
				t.Errorf("set down is %+v, started at %s", id, at)
			}
			return full
		},
	})
	if !errors.Is(err, full) || p == nil {
		t.Fatalf("%v, error %v, want the process and why it couldn't be set down", p, err)
	}
	if status := <-p.Ended(); status.ExitStatus() != 1 { // leave was closed, as the death of the executor would have done
		t.Errorf("it ended with %v, want exit status 1", status)
	}
	if err := p.End(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the command was executed: %v", err)
	}
}

func TestStartTellsWhyNot(t *testing.T) {
	s := newSupervisor(t)
	notExecutable := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := procfs.ID{PID: os.Getpid(), Start: 1}
	cases := map[string]struct {
		spec enter.Spec
		want string
	}{
		"a program that is not there":          {enter.Spec{Own: true, Main: self(t), Args: []string{"/nowhere"}}, "no such file"},
		"a program not in PATH":                {enter.Spec{Own: true, Main: self(t), Args: []string{"no-such-program"}}, "PATH"},
		"a program in the PATH of the task":    {enter.Spec{Own: true, Main: self(t), Args: []string{"sh"}, Env: []string{"PATH=/nowhere"}}, `"/nowhere"`},
		"a program that may not be executed":   {enter.Spec{Own: true, Main: self(t), Args: []string{notExecutable}}, "permission denied"},
		"a working directory that isn't there": {enter.Spec{Own: true, Main: self(t), Args: []string{"true"}, WorkingDir: "/nowhere"}, "workingDir"},
		"a main process that has ended":        {enter.Spec{Main: gone, Args: []string{"true"}}, "has ended"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := start(t, s, "m-"+name, tc.spec)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			if p.Process == nil {
				t.Fatal("no process to end")
			}
			if got := errors.Is(err, enter.ErrSandboxEnded); got != (tc.spec.Main == gone) {
				t.Errorf("the error says that the sandbox has ended: %t; it is %v", got, err)
			}
		})
	}
}

func TestEndFindsTheWholeTree(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m1", `
		(setsid sh -c 'echo session=$$; exec sleep 1000' &)
		(sh -c 'echo double=$$; exec sleep 1000' &)
		(env -i setsid sh -c 'echo erased=$$; exec sleep 1000' &)
		(sh -c 'trap "" TERM; echo stubborn=$$; while :; do sleep 1000; done' &)
		sh -c 'kill -STOP $$' &
		echo ready=$$
		sleep 0; exit 0`)
	bystander := shell(t, s, "m2", "echo bystander=$$; exec sleep 1000")
	other := pidIn(t, bystander.expect(t, "\n"), "bystander")
	for _, name := range []string{"session=", "double=", "stubborn=", "erased=", "ready="} {
		p.expect(t, name)
	}
	output := p.expect(t, "\n")
	p.wait(t)
	var members []procfs.ID
	for _, name := range []string{"session", "double", "stubborn"} {
		members = append(members, pidIn(t, output, name))
	}
	erased := pidIn(t, output, "erased")
	for _, m := range append(members, erased) {
		if !lives(m) {
			t.Fatalf("process %d doesn't outlive its main process", m.PID)
		}
	}
	if err := p.End(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if lives(m) {
			t.Errorf("process %d is left", m.PID)
		}
	}
	if !lives(other) {
		t.Error("another task's process was ended")
	}
	// What has erased every trace of its task goes with the last task.
	if err := bystander.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if lives(erased) || lives(other) {
		t.Error("the last task left processes behind")
	}
}

func TestEndLetsATaskCleanUp(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", `trap 'sh -c "sleep 0.05; echo cleaned"; exit 5' TERM; echo ready; while :; do sleep 0.01; done`)
	p.expect(t, "ready")
	if err := p.End(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	status := p.wait(t)
	if got := p.all(t); !strings.Contains(got, "cleaned") || status.ExitStatus() != 5 {
		t.Errorf("output %q, status %v: the handler was disturbed", got, status)
	}
}

func TestEndOutrunsAForkingTree(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", `trap '' TERM; echo ready; f() { sleep 0.02; f & f & wait; }; ulimit -u 4096; (sleep 0.01; sleep 1000) & i=0
		while [ $i -lt 40 ]; do (while :; do sleep 0.001 & wait; done) & i=$((i+1)); done; wait`)
	p.expect(t, "ready")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.End(ctx, 0); err != nil {
		t.Fatal(err)
	}
	left, err := s.look(t.Context(), "m")
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, error %v", left, err)
	}
}

func TestEndGivesUpWithItsContext(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", "trap '' TERM; echo ready; while :; do sleep 1000; done")
	p.expect(t, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.End(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
}

func TestSendSparesThePIDsNewOwner(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", "trap 'echo hit' HUP; trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
	p.expect(t, "ready")
	// Of two signals that wait the lower number comes first, so that what the first one does is seen before the second.
	if err := errors.Join(send(proc, procfs.ID{PID: p.PID, Start: p.Start + 1}, unix.SIGHUP), send(proc, p.ID, unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	if got := p.all(t); got != "ready\nasked\n" {
		t.Errorf("output %q: a process with another start time was signalled, or the right one was not", got)
	}
}

func TestWatch(t *testing.T) {
	s := newSupervisor(t)
	p := shell(t, s, "m", "echo ready; exec sleep 1000")
	p.expect(t, "ready")
	w, err := NewWatch(proc, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	select {
	case <-w.Ended():
		t.Fatal("ended before it did")
	default:
	}
	if err := p.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Ended():
	case <-time.After(patience):
		t.Fatal("the end was not seen")
	}
	late, err := NewWatch(proc, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	<-late.Ended()

	unended, err := NewWatch(proc, self(t))
	if err != nil {
		t.Fatal(err)
	}
	unended.Close() // returns though the process lives; goleak sees a goroutine that doesn't
}

func TestSweep(t *testing.T) {
	first := newSupervisor(t)
	p := shell(t, first, "store1.a", `(setsid sh -c 'echo marked=$$; exec sleep 1000' &)
		(env -i sh -c 'echo insession=$$; exec sleep 1000' &) ; echo ready; exec sleep 1000`)
	spared := shell(t, first, "store2.a", "echo spared=$$; exec sleep 1000")
	other := pidIn(t, spared.expect(t, "\n"), "spared")
	for _, name := range []string{"marked=", "insession=", "ready"} {
		p.expect(t, name)
	}
	output := p.expect(t, "\n")
	victims := []procfs.ID{p.ID, pidIn(t, output, "marked"), pidIn(t, output, "insession")}

	// The supervisor of the next life knows nothing of those.
	second := NewSupervisor(proc, first.reaper, clock.RealClock{}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := second.Sweep(ctx, SweepInput{MarkerPrefix: "store1.", Mains: []procfs.ID{p.ID}}); err != nil {
		t.Fatal(err)
	}
	for _, v := range victims {
		if lives(v) {
			t.Errorf("process %d survived", v.PID)
		}
	}
	if !lives(other) {
		t.Error("a process of another data directory was killed")
	}
}

func TestMembers(t *testing.T) {
	const me = 10
	stat := func(pid, parent, session int, start uint64) procfs.Stat {
		return procfs.Stat{ID: procfs.ID{PID: pid, Start: start}, Parent: parent, Session: session, State: 'S', Threads: 1}
	}
	a := root{ID: procfs.ID{PID: 20, Start: 100}, marker: "a"}
	b := root{ID: procfs.ID{PID: 30, Start: 200}, marker: "b"}
	cases := map[string]struct {
		all     []procfs.Stat
		roots   []root
		seen    map[procfs.ID]string
		markers map[int]string
		want    map[string][]int
	}{
		"a main process and its descendants": {
			all:   []procfs.Stat{stat(20, me, 20, 100), stat(21, 20, 20, 101), stat(22, 21, 22, 102), stat(99, 1, 99, 150)},
			roots: []root{a, b}, want: map[string][]int{"a": {20, 21, 22}},
		},
		"an orphan in a session": {all: []procfs.Stat{stat(21, me, 20, 101)}, roots: []root{a, b}, want: map[string][]int{"a": {21}}},
		"an orphan with a marker": {
			all: []procfs.Stat{stat(21, me, 21, 101)}, roots: []root{a, b}, markers: map[int]string{21: "b"}, want: map[string][]int{"b": {21}}},
		"an orphan seen before, with somebody else's marker": {
			all: []procfs.Stat{stat(21, me, 21, 101)}, roots: []root{a, b}, markers: map[int]string{21: "b"},
			seen: map[procfs.ID]string{{PID: 21, Start: 101}: "a"}, want: map[string][]int{"a": {21}}},
		"a PID seen before with another start": {
			all: []procfs.Stat{stat(21, me, 21, 300)}, roots: []root{a, b},
			seen: map[procfs.ID]string{{PID: 21, Start: 101}: "a"}, want: map[string][]int{strays: {21}}},
		"a main process's PID given to an orphan": {all: []procfs.Stat{stat(20, me, 20, 999)}, roots: []root{a}, want: map[string][]int{"a": {20}}},
		"a stray of several trees":                {all: []procfs.Stat{stat(21, me, 21, 150)}, roots: []root{a, b}, want: map[string][]int{strays: {21}}},
		"a stray of the only tree":                {all: []procfs.Stat{stat(21, me, 21, 150)}, roots: []root{a}, want: map[string][]int{"a": {21}}},
		"a child older than every tree is nobody's": {
			all: []procfs.Stat{stat(21, me, 21, 150)}, roots: []root{b}, want: map[string][]int{}},
		"a known stray goes to the last tree, though that is younger": {
			all: []procfs.Stat{stat(21, me, 21, 150)}, roots: []root{b},
			seen: map[procfs.ID]string{{PID: 21, Start: 150}: strays}, want: map[string][]int{"b": {21}}},
		"nothing is tracked": {all: []procfs.Stat{stat(21, me, 21, 150)}, want: map[string][]int{}},
		"a circle in a torn snapshot ends": {
			all: []procfs.Stat{stat(20, me, 20, 100), stat(21, 20, 20, 101), stat(me, 21, 20, 50)}, roots: []root{a}, want: map[string][]int{"a": {20, 21}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[string][]int{}
			trees := members(membersInput{All: tc.all, Executor: me, Roots: tc.roots, Seen: tc.seen,
				Marker: func(pid int) string { return tc.markers[pid] }})
			for tree, list := range trees {
				for _, s := range list {
					got[tree] = append(got[tree], s.PID)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
