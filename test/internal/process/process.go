// SPDX-License-Identifier: Apache-2.0

// Package process runs programs beside a test, and tells what they use.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTicks is how many ticks of /proc/PID/stat make a second. It is 100 on every Linux that Go runs on.
const clockTicks = 100

// stopTimeout is how long a process may take to end before it is killed.
const stopTimeout = 30 * time.Second

// Process is a program that runs.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // set before ended is closed
}

// Start runs a command in a process group of its own, so that ^C at the terminal doesn't reach it before the program has
// taken its measures. It dies with the program.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends the process a signal; one that has ended is as good.
func (p *Process) Signal(signal os.Signal) { _ = p.cmd.Process.Signal(signal) }

// Kill ends the process at once and waits until it has ended, also one that is stopped.
func (p *Process) Kill() {
	p.Signal(os.Kill)
	<-p.ended
}

// Stop asks the process to end and waits until it has.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s did not end within %s and was killed", filepath.Base(p.cmd.Path), stopTimeout)
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() == -1 {
		return nil // by our signal
	}
	return p.err
}

// Run runs a command to its end in a process group of its own, which as a whole is interrupted when ctx ends.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }) // one that has ended is as good
	defer stop()
	if err := cmd.Wait(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err))
	}
	return ctx.Err()
}

// Usage is what a process uses at one moment.
type Usage struct {
	// CPU is the time it has spent since its start, in ticks of 10 ms.
	CPU time.Duration
	// Memory is what it has in memory, and PeakMemory the most it ever had, in bytes.
	Memory, PeakMemory int64
	// Sockets is the number of its open sockets.
	Sockets int
}

// Usage reads what the process uses.
func (p *Process) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	stat, err1 := os.ReadFile(filepath.Join(dir, "stat"))
	status, err2 := os.ReadFile(filepath.Join(dir, "status"))
	sockets, err3 := countSockets(filepath.Join(dir, "fd"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return Usage{}, fmt.Errorf("read what %s uses: %w", filepath.Base(p.cmd.Path), err)
	}
	u := Usage{Sockets: sockets}
	if u.CPU, err1 = cpuOf(string(stat)); err1 != nil {
		return Usage{}, err1
	}
	u.Memory, err1 = kilobytes(status, "VmRSS")
	u.PeakMemory, err2 = kilobytes(status, "VmHWM")
	return u, errors.Join(err1, err2)
}

// cpuOf reads user and system time from /proc/PID/stat. The name of the program, in parentheses, may hold anything.
func cpuOf(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("no times in %q", stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / clockTicks), errors.Join(err1, err2)
}

// kilobytes reads a line such as "VmRSS:     1234 kB" of /proc/PID/status, as bytes.
func kilobytes(status []byte, key string) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != key {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		return n << 10, err
	}
	return 0, fmt.Errorf("no %s in the status of the process", key)
}

func countSockets(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && strings.HasPrefix(target, "socket:") { // one that was closed meanwhile can't be read
			n++
		}
	}
	return n, nil
}
