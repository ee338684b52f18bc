// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	// maxLineBytes is the longest line handed on; a longer one is split.
	maxLineBytes = 16 << 10
	// tailBytes is how much of the end of the output is kept in memory.
	tailBytes = 1 << 10
	// maxDrainBytes bounds what is read at once to catch up with a process: the largest size a user can give a pipe.
	maxDrainBytes = 1 << 20
)

// LineFunc takes one line of a task's output, without its end of line. It must not keep the slice.
type LineFunc func(stream string, line []byte)

// Output takes what a tree writes to stdout and stderr: into files of bounded size, and line by line into a LineFunc.
type Output struct {
	// Stdout and Stderr are the ends for the process.
	Stdout, Stderr *os.File

	log     *slog.Logger
	lines   LineFunc
	streams [2]*stream
	readers sync.WaitGroup

	mu   sync.Mutex
	tail []byte
	cut  bool // something stood before tail
}

// stream is one of the two. Only its reader touches it, but for settle.
type stream struct {
	name   string
	read   *os.File
	file   *cappedFile
	buf    []byte
	line   []byte
	settle chan settling
}

// settling asks a reader to read what is there; with last, nothing after that.
type settling struct {
	last bool
	done chan struct{}
}

// NewOutput returns an output whose files are dir/stdout.log and dir/stderr.log, at most fileBytes each.
func NewOutput(dir string, fileBytes int64, lines LineFunc, log *slog.Logger) (*Output, error) {
	o := &Output{log: log, lines: lines}
	for i, end := range []struct {
		name string
		to   **os.File
	}{{"stdout", &o.Stdout}, {"stderr", &o.Stderr}} {
		read, write, err := pipe(end.name)
		if err != nil {
			return nil, errors.Join(err, o.abandon())
		}
		*end.to = write
		o.streams[i] = &stream{
			name: end.name, read: read,
			file:   newCappedFile(filepath.Join(dir, end.name+".log"), fileBytes),
			buf:    make([]byte, 32<<10),
			settle: make(chan settling, 1),
		}
	}
	for _, s := range o.streams {
		o.readers.Go(func() { o.copy(s) })
	}
	return o, nil
}

// CloseEnds closes this process's copies of the ends for the child, after the start.
func (o *Output) CloseEnds() error { return errors.Join(o.Stdout.Close(), o.Stderr.Close()) }

// Settle reads what the tree has written so far, which matters when its main process has just ended, and returns the end
// of it: at most 1 KiB of text, whole lines where they fit. Processes of the tree may go on writing.
func (o *Output) Settle() string {
	o.settleAll(false)
	o.mu.Lock()
	defer o.mu.Unlock()
	return tailText(o.tail, o.cut)
}

// Close reads what is left and closes the files. The tree must be gone, and CloseEnds called.
func (o *Output) Close() error {
	o.settleAll(true)
	o.readers.Wait()
	return o.closeFiles()
}

// abandon closes what a constructor that fails has opened.
func (o *Output) abandon() error {
	errs := []error{o.closeFiles()}
	if o.Stdout != nil {
		errs = append(errs, o.Stdout.Close())
	}
	return errors.Join(errs...)
}

func (o *Output) closeFiles() error {
	var errs []error
	for _, s := range o.streams {
		if s != nil {
			errs = append(errs, s.read.Close(), s.file.Close())
		}
	}
	return errors.Join(errs...)
}

// settleAll interrupts both readers and waits until each has caught up, or ended.
func (o *Output) settleAll(last bool) {
	for _, s := range o.streams {
		request := settling{last: last, done: make(chan struct{})}
		s.settle <- request
		if err := s.read.SetReadDeadline(time.Unix(1, 0)); err != nil {
			o.log.Error("could not interrupt the reading of an output", "err", err)
		}
		<-request.done
	}
}

// copy reads a stream until the last writer has closed it. After that it only answers to settle.
func (o *Output) copy(s *stream) {
	for open := true; ; {
		if open {
			open = o.readOn(s)
		}
		request := <-s.settle
		if open {
			o.drain(s)
			o.flush(s)
		}
		if !request.last {
			if err := s.read.SetReadDeadline(time.Time{}); err != nil {
				o.log.Error("could not go on reading an output", "stream", s.name, "err", err)
			}
		}
		close(request.done)
		if request.last {
			return
		}
	}
}

// readOn reads a stream until it is interrupted. It returns false when there is nothing more to come.
func (o *Output) readOn(s *stream) (open bool) {
	for {
		n, err := s.read.Read(s.buf)
		o.take(s, s.buf[:n])
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		o.flush(s)
		if !errors.Is(err, io.EOF) {
			o.log.Error("could not read an output", "stream", s.name, "err", err)
		}
		return false
	}
}

// drain reads what the pipe holds now, without waiting. A process that never stops writing doesn't hold it up.
func (o *Output) drain(s *stream) {
	conn, err := s.read.SyscallConn()
	if err != nil {
		return // closed
	}
	for total := 0; total < maxDrainBytes; {
		n := 0
		controlErr := conn.Control(func(fd uintptr) { n, err = unix.Read(int(fd), s.buf) })
		if errors.Is(err, unix.EINTR) && controlErr == nil {
			continue
		}
		if controlErr != nil || err != nil || n <= 0 {
			return
		}
		total += n
		o.take(s, s.buf[:n])
	}
}

// take cuts data into lines.
func (o *Output) take(s *stream, data []byte) {
	if err := s.file.Write(data); err != nil {
		o.log.Warn("could not keep the output of a task", "stream", s.name, "err", err)
	}
	for len(data) > 0 {
		room := maxLineBytes - len(s.line)
		end := bytes.IndexByte(data, '\n')
		switch {
		case end >= 0 && end <= room:
			s.line = append(s.line, data[:end]...)
			data = data[end+1:]
			o.emit(s)
		case len(data) <= room:
			s.line = append(s.line, data...)
			return
		default:
			s.line = append(s.line, data[:room]...)
			data = data[room:]
			o.emit(s)
		}
	}
}

// flush hands on a line that has no end yet.
func (o *Output) flush(s *stream) {
	if len(s.line) > 0 {
		o.emit(s)
	}
}

func (o *Output) emit(s *stream) {
	o.lines(s.name, s.line)
	o.mu.Lock()
	o.tail = append(append(o.tail, s.line...), '\n')
	if over := len(o.tail) - tailBytes - 1; over > 0 {
		o.tail = append(o.tail[:0], o.tail[over:]...)
		o.cut = true
	}
	o.mu.Unlock()
	s.line = s.line[:0]
}

// tailText returns the end of an output as text: valid UTF-8 without control characters, at most tailBytes, from the
// start of a line where there is one.
func tailText(tail []byte, cut bool) string {
	if cut {
		if end := bytes.IndexByte(tail, '\n'); end >= 0 && end < len(tail)-1 {
			tail = tail[end+1:]
		}
	}
	text := strings.ToValidUTF8(strings.TrimSuffix(string(tail), "\n"), "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text[max(0, len(text)-tailBytes):])
}

// cappedFile keeps the end of what is written to it: when it has half of its size it is renamed to path.1, in place of
// the one before. After an error it takes nothing more.
type cappedFile struct {
	path   string
	max    int64
	size   int64
	file   *os.File
	broken bool
}

func newCappedFile(path string, limit int64) *cappedFile {
	return &cappedFile{path: path, max: limit}
}

// Write keeps data. It returns an error once, and drops what comes after it.
func (c *cappedFile) Write(data []byte) error {
	for len(data) > 0 && !c.broken {
		part := data[:min(int64(len(data)), c.max/2-c.size)]
		if err := c.writePart(part); err != nil {
			c.broken = true
			return err
		}
		data = data[len(part):]
	}
	return nil
}

func (c *cappedFile) writePart(part []byte) error {
	if c.file == nil {
		f, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		c.file = f
	}
	n, err := c.file.Write(part)
	c.size += int64(n)
	if err != nil || c.size < c.max/2 {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	c.size = 0
	if err := os.Rename(c.path, c.path+".1"); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	return nil
}

// Close closes the file that is open.
func (c *cappedFile) Close() error {
	if c.file == nil {
		return nil
	}
	f := c.file
	c.file = nil
	return f.Close()
}
