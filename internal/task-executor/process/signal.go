// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// send signals the process id, and no other that has got its PID since. A process that is gone is no error.
func send(fs procfs.FS, id procfs.ID, signal unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		fd = -1 // a kernel or a sandbox without the call
	}
	defer func() {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing was written to it
		}
	}()
	now, err := fs.Stat(id.PID)
	if err != nil || now.ID != id {
		return nil //nolint:nilerr // gone
	}
	if fd >= 0 {
		err = unix.PidfdSendSignal(fd, signal, nil, 0)
	} else {
		err = unix.Kill(id.PID, signal)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), id.PID, err)
	}
	return nil
}

// sendAll signals all of them and joins the errors.
func sendAll(fs procfs.FS, to []procfs.Stat, signals ...unix.Signal) error {
	var errs []error
	for _, p := range to {
		for _, signal := range signals {
			errs = append(errs, send(fs, p.ID, signal))
		}
	}
	return errors.Join(errs...)
}
