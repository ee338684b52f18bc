// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// markerEnv is set, with the cluster's state folder as its value, in the environment of every process of a cluster but
// those inside containers. `down` finds stragglers by it.
const markerEnv = "OPENSANDBOX_LOCAL_CLUSTER"

// process names one process for good: a PID alone may belong to another one by now.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot"`  // random per boot of the machine
}

func identify(pid int) (process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	_, start, err := parseStat(stat)
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return process{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// parseStat reads /proc/<pid>/stat. The command's name, in parentheses, may itself hold spaces and parentheses, so
// fields are counted from the last closing one: state is the first after it, the start time the twentieth.
func parseStat(stat []byte) (status byte, start uint64, err error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, errors.New("stat has no command name")
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("stat has %d fields after the name, want 20 or more", len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time: %w", err)
	}
	return fields[0][0], start, nil
}

// alive is false for a zombie too: it runs no more, and only its parent can remove it.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	if err != nil || now != p {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	status, _, err := parseStat(stat)
	return err == nil && status != 'Z' && status != 'X'
}

// kill sends SIGKILL to exactly this process and to no later one with the same PID.
func (p process) kill() error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written through it
	if !p.alive() {      // checked after the open: from here on the descriptor can't change its meaning
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// marked lists the live processes whose environment names the cluster with this state folder.
func marked(dir string) ([]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	want := []byte(markerEnv + "=" + dir)
	var found []process
	for _, f := range files {
		env, err := os.ReadFile(f)
		if err != nil {
			continue // gone by now, or another user's
		}
		if !hasEntry(env, want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		if p, err := identify(pid); err == nil && p.alive() {
			found = append(found, p)
		}
	}
	return found, nil
}

func hasEntry(environ, want []byte) bool {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.Equal(entry, want) {
			return true
		}
	}
	return false
}

// endAll kills the supervisor and every straggler and waits until none is left. With the supervisor, which is the init
// process of a real node's PID namespace, the kernel ends all containers and shims too.
func endAll(ctx context.Context, supervisor process, dir string) error {
	if supervisor.alive() {
		if err := supervisor.kill(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var left []process
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		if supervisor.alive() {
			return false, nil
		}
		var err error
		if left, err = marked(dir); err != nil {
			return false, err
		}
		for _, p := range left {
			if err := p.kill(); err != nil {
				return false, err
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("end the processes of %s (left: %v): %w", dir, left, err)
	}
	return nil
}
