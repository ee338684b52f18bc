// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"opensandbox.io/controller/test/internal/process"
	"opensandbox.io/controller/test/internal/promtext"
)

const (
	// restartPause is how long after its end a controller is started again, as a kubelet does.
	restartPause = 300 * time.Millisecond
	// askTimeout bounds how long a controller may take to say whether it leads.
	askTimeout = time.Second
)

// electionFlags are for elections with a lease, by the proportions of the defaults of the client library.
func electionFlags(lease time.Duration) []string {
	return []string{
		"--leader-elect", "--leader-elect-lease-duration=" + lease.String(), "--leader-elect-renew-deadline=" + (2 * lease / 3).String(),
		"--leader-elect-retry-period=" + (lease / 6).String(),
	}
}

// replica is one controller process, which is started again whenever it ends.
type replica struct {
	name    string
	binary  string
	args    []string
	log     *os.File
	metrics string

	mu      sync.Mutex
	process *process.Process // nil while none runs
	down    bool             // it isn't started again until told
	told    chan struct{}    // closed, and replaced, when down changes
	frozen  bool
	err     error // why it could not be started
}

// newReplica prepares a controller with a kubeconfig; [replica.run] starts it.
func newReplica(ctx context.Context, name, kubeconfig string, o Options, dir string) (*replica, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port for controller %s: %w", name, err)
	}
	address := l.Addr().String()
	log, err := os.Create(filepath.Join(dir, "controller-"+name+".log"))
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, fmt.Errorf("prepare controller %s: %w", name, err)
	}
	args := append([]string{
		"--kubeconfig=" + kubeconfig, "--namespace=" + systemNamespace, "--metrics-bind-address=" + address, "--health-probe-bind-address=0",
	}, electionFlags(o.Lease)...)
	return &replica{
		name: name, binary: o.Controller, args: args, log: log, metrics: "http://" + address + "/metrics", told: make(chan struct{}),
	}, nil
}

// run keeps the controller running until ctx is done.
func (r *replica) run(ctx context.Context) {
	defer r.log.Close() //nolint:errcheck // a log
	for ctx.Err() == nil {
		if down, told := r.isDown(); down {
			select {
			case <-told:
			case <-ctx.Done():
			}
			continue
		}
		r.live(ctx)
		wait(ctx, restartPause)
	}
}

// live is one life of the process.
func (r *replica) live(ctx context.Context) {
	cmd := exec.Command(r.binary, r.args...)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	p, err := process.Start(cmd)
	r.set(func() { r.process, r.frozen, r.err = p, false, errors.Join(r.err, err) })
	if err != nil {
		return
	}
	select {
	case <-p.Ended():
	case <-ctx.Done():
		p.Kill()
	}
	r.set(func() { r.process = nil })
}

func (r *replica) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *replica) isDown() (down bool, told <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down, r.told
}

// keepDown says whether the controller is to be down from now on: what runs is left alone.
func (r *replica) keepDown(down bool) {
	r.set(func() {
		r.down = down
		close(r.told)
		r.told = make(chan struct{})
	})
}

// signal sends the process a signal, if there is one.
func (r *replica) signal(signal syscall.Signal) {
	r.set(func() {
		if r.process != nil {
			r.process.Signal(signal)
			r.frozen = signal == syscall.SIGSTOP
		}
	})
}

// check returns why the controller could not be started.
func (r *replica) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// leads asks the process whether it leads. A frozen one is not asked.
func (r *replica) leads(ctx context.Context) bool {
	r.mu.Lock()
	there := r.process != nil && !r.frozen
	r.mu.Unlock()
	if !there {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	samples, err := promtext.Fetch(ctx, http.DefaultClient, r.metrics)
	return err == nil && samples.Sum("leader_election_master_status") == 1
}

// wait lets time pass, at most until ctx is done.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
