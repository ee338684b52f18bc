// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/procfs"
)

// MarkerEnv is the environment variable by which a task's processes are recognised. Its value is opaque to them.
const MarkerEnv = "OPENSANDBOX_TASK_RUN"

// startTimeout bounds the time between fork and the execution of the command, for a working directory or a program on a
// file system that hangs.
const startTimeout = 30 * time.Second

// Supervisor starts main processes and knows the trees of those it has started.
type Supervisor struct {
	fs     procfs.FS
	reaper *Reaper
	clock  clock.Clock
	log    *slog.Logger
	self   int

	// turn is held by whoever forks or looks at all processes: a child must be known as a main process before anybody
	// looks, or it would pass for somebody's orphan.
	turn chan struct{}

	mu    sync.Mutex
	roots []root
	seen  map[procfs.ID]string
}

// NewSupervisor returns a supervisor whose children reaper collects.
func NewSupervisor(fs procfs.FS, reaper *Reaper, clk clock.Clock, log *slog.Logger) *Supervisor {
	return &Supervisor{
		fs: fs, reaper: reaper, clock: clk, log: log, self: os.Getpid(),
		turn: make(chan struct{}, 1),
		seen: map[procfs.ID]string{},
	}
}

// StartInput says what to start.
type StartInput struct {
	Spec enter.Spec
	// Marker is the value of MarkerEnv, different for every start.
	Marker string
	// Stdout and Stderr are inherited by the process. The caller closes them.
	Stdout, Stderr *os.File
	// Commit is called when the process is there, and before it executes the command, which it does only if this returns
	// nil. A process whose executor dies before that ends by itself.
	Commit func(id procfs.ID, at time.Time) error
}

// Process is a main process that has been started, and its tree.
type Process struct {
	procfs.ID
	// StartedAt is when the process got leave to execute the command.
	StartedAt time.Time

	supervisor *Supervisor
	marker     string
	ended      <-chan unix.WaitStatus
}

// Ended delivers the end of the main process, once.
func (p *Process) Ended() <-chan unix.WaitStatus { return p.ended }

// Start executes a command. It returns when the command has been executed; an error says why it has not been. A process
// that comes with an error is one that may be left, for the caller to End.
func (s *Supervisor) Start(ctx context.Context, in StartInput) (*Process, error) {
	in.Spec.Env = append(slices.Clone(in.Spec.Env), MarkerEnv+"="+in.Marker)
	spec, err := enter.File(in.Spec)
	if err != nil {
		return nil, err
	}
	defer spec.Close() //nolint:errcheck // it exists in memory only
	report, reportEnd, err := pipe("report")
	if err != nil {
		return nil, err
	}
	defer report.Close() //nolint:errcheck // only read from
	hold, leave, err := enter.Gate()
	if err != nil {
		return nil, errors.Join(err, reportEnd.Close())
	}
	p, err := s.fork(ctx, in, []*os.File{spec, reportEnd, hold})
	if closeErr := errors.Join(reportEnd.Close(), hold.Close()); err == nil && closeErr != nil {
		err = fmt.Errorf("close the other ends: %w", closeErr)
	}
	if err == nil {
		p.StartedAt = s.clock.Now()
		err = in.commit(p, leave)
	}
	err = errors.Join(err, leave.Close())
	if err == nil {
		err = s.awaitExecution(ctx, report)
	}
	return p, err
}

// commit gives a process leave, after it was set down.
func (in StartInput) commit(p *Process, leave *os.File) error {
	if err := in.Commit(p.ID, p.StartedAt); err != nil {
		return err
	}
	if _, err := leave.Write([]byte{1}); err != nil {
		return fmt.Errorf("give leave to execute the command: %w", err)
	}
	return nil
}

// fork starts the process that becomes the command, and tracks it.
func (s *Supervisor) fork(ctx context.Context, in StartInput, extra []*os.File) (*Process, error) {
	if err := s.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer s.endTurn()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close() //nolint:errcheck // only read from
	files := []uintptr{null.Fd(), in.Stdout.Fd(), in.Stderr.Fd()}
	for _, f := range extra {
		files = append(files, f.Fd())
	}
	var id procfs.ID
	_, ended, err := s.reaper.Start(func() (int, error) {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"task-executor", enter.Command}, &syscall.ProcAttr{
			Env:   []string{MarkerEnv + "=" + in.Marker}, // and nothing else of the executor's
			Files: files,
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return 0, fmt.Errorf("fork: %w", err)
		}
		stat, err := s.fs.Stat(pid) // it is there, be it as a zombie: nobody can have collected it yet
		id = procfs.ID{PID: pid, Start: stat.Start}
		if err != nil {
			s.log.Error("could not read the start time of a child", "pid", pid, "err", err)
		}
		return pid, nil
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots = append(s.roots, root{ID: id, marker: in.Marker})
	return &Process{ID: id, supervisor: s, marker: in.Marker, ended: ended}, nil
}

// awaitExecution waits for the report to end. Closing it on the way out makes a read that hangs return.
func (s *Supervisor) awaitExecution(ctx context.Context, report *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if err := report.SetReadDeadline(time.Unix(1, 0)); err != nil {
			s.log.Error("could not interrupt a start", "err", err)
		}
	})
	defer stop()
	err := enter.ReadReport(report)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the command was not executed within %s: %w", startTimeout, ctx.Err())
	}
	return err
}

func (s *Supervisor) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Supervisor) endTurn() { <-s.turn }

// look returns the living members of a tree. When there are none the tree is no longer tracked.
func (s *Supervisor) look(ctx context.Context, marker string) ([]procfs.Stat, error) {
	if err := s.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer s.endTurn()
	all, err := s.fs.List()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	trees := members(membersInput{All: all, Executor: s.self, Roots: s.snapshotRoots(), Seen: s.snapshotSeen(), Marker: s.markerOf})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(all, trees)
	if len(trees[marker]) == 0 {
		s.roots = slices.DeleteFunc(s.roots, func(r root) bool { return r.marker == marker })
	}
	return trees[marker], nil
}

func (s *Supervisor) snapshotRoots() []root {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.roots)
}

func (s *Supervisor) snapshotSeen() map[procfs.ID]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[procfs.ID]string, len(s.seen))
	for id, marker := range s.seen {
		seen[id] = marker
	}
	return seen
}

// remember keeps who belongs where, of those that are still there.
func (s *Supervisor) remember(all []procfs.Stat, trees map[string][]procfs.Stat) {
	seen := make(map[procfs.ID]string, len(s.seen))
	for _, p := range all {
		if marker, ok := s.seen[p.ID]; ok {
			seen[p.ID] = marker
		}
	}
	for marker, tree := range trees {
		for _, p := range tree {
			seen[p.ID] = marker
		}
	}
	s.seen = seen
}

// markerOf reads the marker of a process; empty when it has none or doesn't show it.
func (s *Supervisor) markerOf(pid int) string {
	env, err := s.fs.Environ(pid)
	if err != nil {
		return ""
	}
	marker, _ := procfs.Lookup(env, MarkerEnv)
	return strings.TrimSpace(marker)
}

// pipe returns the two ends of a pipe: the first for this process, able to time out, the second for a child, blocking.
func pipe(name string) (read, write *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pipe: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
