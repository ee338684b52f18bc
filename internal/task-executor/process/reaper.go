// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// Reaper collects every child of this process that ends: those it has started, and orphans. While it runs nothing else
// in this process may wait for children, os/exec included.
type Reaper struct {
	log     *slog.Logger
	signals chan os.Signal
	done    chan struct{}

	// mu orders forks and waits: without it a child could end, be collected, and be unknown, before it is registered.
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
	reaped  chan struct{} // closed, and replaced, whenever a child was collected
}

// NewReaper makes this process a child subreaper. Run must be called next.
func NewReaper(log *slog.Logger) (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a child subreaper: %w", err)
	}
	r := &Reaper{
		log:     log,
		signals: make(chan os.Signal, 1), // one is enough: each makes collect take all there are
		done:    make(chan struct{}),
		waiting: map[int]chan unix.WaitStatus{},
		reaped:  make(chan struct{}),
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	return r, nil
}

// Run collects children until ctx is done.
func (r *Reaper) Run(ctx context.Context) {
	defer close(r.done)
	defer signal.Stop(r.signals)
	for {
		r.collect() // also what ended before the signal was watched
		select {
		case <-r.signals:
		case <-ctx.Done():
			return
		}
	}
}

// Start forks by calling fork, and returns the PID and a channel that delivers the child's end once.
func (r *Reaper) Start(fork func() (pid int, err error)) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = ended
	return pid, ended, nil
}

// Reaped returns a channel that is closed when the next child has been collected.
func (r *Reaper) Reaped() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reaped
}

// collect takes the end of every child that has ended.
func (r *Reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	some := false
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ECHILD) {
			r.log.Error("could not wait for children", "err", err)
		}
		if err != nil || pid <= 0 {
			break
		}
		some = true
		if ended, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			ended <- status
		}
	}
	if some {
		close(r.reaped)
		r.reaped = make(chan struct{})
	}
}
