// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// Watch waits for the end of a process that is nobody's child here.
type Watch struct {
	file  *os.File
	ended chan struct{}
	done  sync.WaitGroup
}

// NewWatch watches the process id. One that has ended is reported as such.
func NewWatch(fs procfs.FS, id procfs.ID) (*Watch, error) {
	w := &Watch{ended: make(chan struct{})}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		close(w.ended)
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	w.file = os.NewFile(uintptr(fd), "pidfd")
	if now, err := fs.Stat(id.PID); err != nil || now.ID != id {
		close(w.ended)
		return w, w.file.Close()
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch process %d: %w", id.PID, err), w.file.Close())
	}
	w.done.Go(func() {
		err := conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
		if err == nil {
			close(w.ended)
		}
	})
	return w, nil
}

// Ended is closed when the process has ended.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// Close ends the watch and waits for its goroutine.
func (w *Watch) Close() {
	if w.file != nil {
		_ = w.file.Close() // closed already when the process had ended before
	}
	w.done.Wait()
}

// readable reports whether the process behind a file descriptor has ended, without waiting.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
