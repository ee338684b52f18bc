// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stallLimit is how long a write to a pipe waits for its reader.
const stallLimit = 5 * time.Second

// patientPipe writes to a pipe whose reader may hang, as a container runtime that is being restarted does. It waits for the
// reader once, and from then on drops what the pipe has no room for, until it has room again: the ends of tasks, and what is
// told of them, must not wait for the log.
type patientPipe struct {
	limit time.Duration

	mu      sync.Mutex
	file    *os.File
	behind  bool // the reader hung, and has not caught up since
	torn    bool // a line was written in part
	dropped int  // writes, since the reader hangs
}

// withoutStalls returns a writer to f that doesn't wait for ever if f is a pipe, else f. The pipe is opened once more, so that
// others who have it, such as the processes of the same container, are not affected.
func withoutStalls(f *os.File, limit time.Duration) io.Writer {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return f
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return f // of another user
	}
	return &patientPipe{file: again, limit: limit}
}

// Write writes p whole, or drops it.
func (w *patientPipe) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.write(w.completed(p))
	switch {
	case err == nil:
		w.behind, w.torn, w.dropped = false, false, 0
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.behind, w.torn = true, w.torn || n > 0
		w.dropped++
	default:
		return 0, err
	}
	return len(p), nil
}

// completed puts before p what is due: the end of a line that was torn, and how much was dropped.
func (w *patientPipe) completed(p []byte) []byte {
	if w.dropped == 0 {
		return p
	}
	var due []byte
	if w.torn {
		due = append(due, '\n')
	}
	due = fmt.Appendf(due, "task-executor: %d lines are missing here: nobody read them in time\n", w.dropped)
	return append(due, p...)
}

// write waits for room, or doesn't when the reader is known to hang.
func (w *patientPipe) write(p []byte) (int, error) {
	deadline := time.Time{}
	if !w.behind {
		deadline = time.Now().Add(w.limit) //nolint:forbidigo // deadlines of files are times of the real clock
	}
	if err := w.file.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	if !w.behind {
		return w.file.Write(p)
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	controlErr := conn.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return true
	})
	n = max(n, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || (err == nil && n < len(p)) {
		err = os.ErrDeadlineExceeded
	}
	return n, errors.Join(controlErr, err)
}
