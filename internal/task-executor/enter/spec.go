// SPDX-License-Identifier: Apache-2.0

package enter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// Command is the first argument that makes the executor's binary such a process.
const Command = "enter"

// File descriptors the process starts with, beside the standard three.
const (
	specFD   = 3
	reportFD = 4
	goFD     = 5
)

// Spec says what to execute, and where.
type Spec struct {
	// Own: stay in the executor's own root.
	Own bool `json:"own,omitempty"`
	// Main is the process whose root, rights, environment and working directory are taken.
	Main procfs.ID `json:"main"`
	// Args are the program and its arguments; at least one.
	Args []string `json:"args"`
	// Env are entries "NAME=value" laid over the environment of Main.
	Env []string `json:"env,omitempty"`
	// WorkingDir is a directory in the root of Main; empty means the working directory of Main.
	WorkingDir string `json:"workingDir,omitempty"`
}

// ErrDied says that the process ended before it executed anything and without saying why.
var ErrDied = errors.New("the process ended before the command was executed (perhaps out of memory)")

// ErrLeft says that the executor ended, or changed its mind, before it gave leave to execute the command.
var ErrLeft = errors.New("the executor gave no leave to execute the command")

// ErrSandboxEnded says that the sandbox's main process ended before the command was executed.
var ErrSandboxEnded = errors.New("the sandbox's main process has ended")

// First bytes of a report. An error has none of them: it begins with a small letter.
const (
	// ready is written just before the command is executed; an error may still follow it.
	ready = 'R'
	// lost stands before an error that is an ErrSandboxEnded.
	lost = 'L'
)

// File returns spec as a file to hand to the process as descriptor 3. The caller closes it.
func File(spec Spec) (*os.File, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	fd, err := unix.MemfdCreate("task", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "task")
	if _, err := f.WriteAt(data, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write spec: %w", err), f.Close())
	}
	return f, nil
}

// Gate returns the two ends of what holds the process up until it may execute its command: hold is to hand to the process as
// descriptor 5, one byte in leave lets it go on. If leave is closed without one, as by the death of the executor, the process
// ends. The caller closes both.
func Gate() (hold, leave *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "hold"), os.NewFile(uintptr(fds[1]), "leave"), nil
}

// ReadReport reads the process's report to its end, which comes when the command has been executed or the process has
// ended. It returns nil in the first case, and in the second why.
func ReadReport(r io.Reader) error {
	report, err := io.ReadAll(io.LimitReader(r, maxReportBytes))
	if err != nil {
		return fmt.Errorf("read report: %w", err)
	}
	if len(report) == 0 {
		return ErrDied
	}
	switch report[0] {
	case ready:
		report = report[1:]
	case lost:
		return fmt.Errorf("%w: %s", ErrSandboxEnded, report[1:])
	}
	if len(report) > 0 {
		return errors.New(string(report))
	}
	return nil
}

// maxReportBytes bounds a report.
const maxReportBytes = 4 << 10
