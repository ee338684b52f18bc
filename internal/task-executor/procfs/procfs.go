// SPDX-License-Identifier: Apache-2.0

// Package procfs reads what /proc says about processes: only the few facts the executor needs, from a root that tests
// can choose.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrMalformed says that a file under /proc has not the shape it should have.
var ErrMalformed = errors.New("malformed")

// FS is a mounted proc file system.
type FS struct {
	root string
}

// New returns the proc file system mounted at root, usually "/proc".
func New(root string) FS { return FS{root: root} }

// Path returns the path of a file of a process.
func (f FS) Path(pid int, name string) string {
	return filepath.Join(f.root, strconv.Itoa(pid), name)
}

// ID names one process for good: a PID is used again, a PID with its start time is not.
type ID struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks since the machine started.
	Start uint64 `json:"start"`
}

// Stat is what /proc/<pid>/stat says about a process.
type Stat struct {
	ID
	Comm    string
	State   byte
	Parent  int
	Group   int
	Session int
	Threads int
}

// Alive reports whether the process can still run code. A process whose first thread has ended while others run is
// shown as a zombie with more than one thread, and lives.
func (s Stat) Alive() bool {
	return (s.State != 'Z' && s.State != 'X' && s.State != 'x') || s.Threads > 1
}

// Stat reads one process. The error is fs.ErrNotExist when there is none.
func (f FS) Stat(pid int) (Stat, error) {
	data, err := os.ReadFile(f.Path(pid, "stat"))
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(data)
	if err != nil {
		return Stat{}, fmt.Errorf("parse stat of process %d: %w", pid, err)
	}
	return s, nil
}

// List reads all processes, sorted by PID. Those that vanish meanwhile are left out.
func (f FS) List() ([]Stat, error) {
	dir, err := os.Open(f.root)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	var all []Stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // not a process
		}
		if s, err := f.Stat(pid); err == nil {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Stat) int { return a.PID - b.PID })
	return all, nil
}

// Index of the fields after the command in /proc/<pid>/stat.
const (
	statState   = 0
	statParent  = 1
	statGroup   = 2
	statSession = 3
	statThreads = 17
	statStart   = 19
	statStack   = 25
)

// parseStat reads "pid (comm) state ppid pgrp session ...". The command may hold spaces and parentheses.
func parseStat(data []byte) (Stat, error) {
	open, closing := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 1 || closing < open {
		return Stat{}, ErrMalformed
	}
	fields := strings.Fields(string(data[closing+1:]))
	if len(fields) <= statStart || len(fields[statState]) != 1 {
		return Stat{}, ErrMalformed
	}
	s := Stat{Comm: string(data[open+1 : closing]), State: fields[statState][0]}
	ints := []struct {
		text string
		to   *int
	}{
		{strings.TrimSpace(string(data[:open])), &s.PID},
		{fields[statParent], &s.Parent},
		{fields[statGroup], &s.Group},
		{fields[statSession], &s.Session},
		{fields[statThreads], &s.Threads},
	}
	for _, i := range ints {
		n, err := strconv.Atoi(i.text)
		if err != nil {
			return Stat{}, ErrMalformed
		}
		*i.to = n
	}
	start, err := strconv.ParseUint(fields[statStart], 10, 64)
	if err != nil {
		return Stat{}, ErrMalformed
	}
	s.Start = start
	return s, nil
}

// Lookup returns the value of a variable in an environment; the first entry counts, as for getenv.
func Lookup(env []string, name string) (string, bool) {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value, true
		}
	}
	return "", false
}
