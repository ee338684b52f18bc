// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/process"
	"opensandbox.io/controller/internal/task-executor/procfs"
	"opensandbox.io/controller/internal/task-executor/recycle"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/server"
	"opensandbox.io/controller/internal/task-executor/store"
	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const (
	// stopGrace is the time between SIGTERM and SIGKILL for a task's tree.
	stopGrace = 10 * time.Second
	// closeTimeout bounds the end of all tasks when the executor ends; a pod has 30 s by default.
	closeTimeout = 20 * time.Second
	// requestGrace is the time open requests have after that.
	requestGrace = 3 * time.Second
	// sweepTimeout bounds the end of what an earlier executor has left.
	sweepTimeout = 30 * time.Second
	// outputBytes bounds each of the two files that keep a task's output.
	outputBytes = 1 << 20
	// lockTimeout bounds the wait for a data directory that is still in use, and lockLook is how often it is tried.
	lockTimeout = 3 * time.Second
	lockLook    = 10 * time.Millisecond
)

// run serves until ctx is done, and then ends all tasks.
func run(ctx context.Context, opts Options) (err error) {
	log := slog.New(slog.NewTextHandler(withoutStalls(os.Stderr, stallLimit), &slog.HandlerOptions{Level: opts.LogLevel}))
	// A closed stdout must not end the executor; ignoring the signal would make tasks ignore it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)

	records, err := openRecords(ctx, opts.DataDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()

	stopReaper, reaper, err := startReaper(ctx, log)
	if err != nil {
		return err
	}
	defer stopReaper()

	tasks, err := newManager(ctx, opts, parts{log: log, records: records, reaper: reaper})
	if err != nil {
		return err
	}
	recycler, err := beginRecycler(opts, tasks, records, log)
	if err != nil {
		return err
	}
	if err := restore(ctx, tasks); err != nil {
		return errors.Join(err, closeTasks(ctx, tasks))
	}
	return serve(ctx, opts, tasks, recycler, log)
}

// openRecords opens the records. A killed executor may have left a process that was just being started: until that executes
// its program it has the lock of its parent, and can't be recognised by its environment. So the wait for the lock is also what
// makes sure that the survivors of an earlier life are all found.
func openRecords(ctx context.Context, dir string, log *slog.Logger) (*store.Store, error) {
	clk := clock.RealClock{}
	deadline := clk.Now().Add(lockTimeout)
	for {
		records, err := store.Open(dir, log)
		if !errors.Is(err, store.ErrInUse) || clk.Now().After(deadline) {
			return records, err
		}
		again := clk.NewTimer(lockLook)
		select {
		case <-again.C():
		case <-ctx.Done():
			again.Stop()
			return nil, err
		}
	}
}

// startReaper starts the reaper; it must run until every task is gone, also after ctx is done.
func startReaper(ctx context.Context, log *slog.Logger) (stop func(), reaper *process.Reaper, err error) {
	reaper, err = process.NewReaper(log)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { reaper.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}, reaper, nil
}

type parts struct {
	log     *slog.Logger
	records *store.Store
	reaper  *process.Reaper
}

func newManager(ctx context.Context, opts Options, p parts) (*task.Manager, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the machine's boot id: %w", err)
	}
	fs := procfs.New("/proc")
	finder := sandbox.Finder{FS: fs, Self: os.Getpid(), Mode: opts.Mode, MainContainer: opts.MainContainer}
	return task.New(ctx, task.Deps{
		Supervisor:  process.NewSupervisor(fs, p.reaper, clock.RealClock{}, p.log),
		Store:       p.records,
		FS:          fs,
		Find:        finder.Find,
		Lines:       newLineWriter(withoutStalls(os.Stdout, stallLimit)).write,
		Clock:       clock.RealClock{},
		Log:         p.log,
		Boot:        strings.TrimSpace(string(boot)),
		Grace:       stopGrace,
		OutputBytes: outputBytes,
	}), nil
}

// beginRecycler does what a start has to do after a recycling, before the records of tasks are read.
func beginRecycler(opts Options, tasks *task.Manager, records *store.Store, log *slog.Logger) (*recycle.Recycler, error) {
	host, err := recycle.RealHost(procfs.New("/proc"), os.Getpid())
	if err != nil {
		return nil, err
	}
	return recycle.Begin(recycle.Deps{DataDir: opts.DataDir, Records: records, Tasks: tasks, Host: host, InPod: opts.InPod, Log: log})
}

func restore(ctx context.Context, tasks *task.Manager) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return tasks.Restore(ctx)
}

// errRecycle says that all containers of the pod are to be restarted.
var errRecycle = errors.New("the pod is to be recycled")

// serve answers requests until ctx is done, or errRecycle is to be returned; they are still answered while the tasks are
// being ended.
func serve(ctx context.Context, opts Options, tasks *task.Manager, recycler *recycle.Recycler, log *slog.Logger) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.address())
	if err != nil {
		return errors.Join(err, closeTasks(ctx, tasks))
	}
	handler, err := newHandler(opts, tasks, recycler, log)
	if err != nil {
		return errors.Join(err, l.Close(), closeTasks(ctx, tasks))
	}
	log.Info("serving", "address", l.Addr().String(), "authenticated", opts.Root != nil)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	srv := server.NewServer(serving, handler, log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, srv, l, requestGrace) }()

	select {
	case err := <-served: // the listener broke
		return errors.Join(err, closeTasks(ctx, tasks))
	case <-ctx.Done():
	case <-recycler.Exiting():
		err = errRecycle
	}
	log.Info("stopping", "recycle", err != nil)
	err = errors.Join(err, closeTasks(ctx, tasks))
	stopServing()
	return errors.Join(err, <-served)
}

// newHandler returns the API, guarded if it is known whom to believe.
func newHandler(opts Options, tasks *task.Manager, recycler *recycle.Recycler, log *slog.Logger) (http.Handler, error) {
	handler := server.NewHandler(tasks, recycler, log)
	if opts.Root == nil {
		return handler, nil
	}
	verifier := token.NewVerifier(opts.Root, opts.PodUID, clock.RealClock{})
	if err := verifier.KeepIn(opts.DataDir); err != nil {
		return nil, err
	}
	return server.Guard(handler, verifier, log), nil
}

func closeTasks(ctx context.Context, tasks *task.Manager) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return tasks.Close(ctx)
}

// lineWriter writes lines of many tasks to one place, each line whole.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func newLineWriter(out io.Writer) *lineWriter { return &lineWriter{out: out} }

// write writes one line with the task and the stream it comes from. A line that can't be written is dropped: it is in
// the task's file.
func (w *lineWriter) write(task, stream string, line []byte) {
	buf := make([]byte, 0, len(task)+len(stream)+len(line)+24)
	buf = taskexecutor.AppendLogLine(buf, taskexecutor.LogLine{Task: task, Stream: stream, Text: line})
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.out.Write(buf) // see above
}
