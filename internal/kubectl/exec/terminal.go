// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/remotecommand"
)

// terminal is what the user types at.
type terminal struct {
	in  io.Reader // nil: none
	raw bool      // it is a terminal, and so shall be the other end
	fd  int
	out int
}

// newTerminal finds out whether there is a terminal to pass on.
func newTerminal(streams genericiooptions.IOStreams, stdin, tty bool) *terminal { //nolint:revive // two flags of the command line
	t := &terminal{}
	if !stdin {
		return t
	}
	t.in = streams.In
	file, ok := streams.In.(*os.File)
	if tty && ok && term.IsTerminal(int(file.Fd())) { //nolint:gosec // a descriptor
		t.raw, t.fd, t.out = true, int(file.Fd()), int(file.Fd()) //nolint:gosec // a descriptor
	}
	return t
}

// with calls do while the terminal is raw, with its sizes, and puts it back as it was.
func (t *terminal) with(do func(remotecommand.TerminalSizeQueue) error) error {
	if !t.raw {
		return do(nil)
	}
	before, err := term.MakeRaw(t.fd)
	if err != nil {
		return err
	}
	defer term.Restore(t.fd, before) //nolint:errcheck // nobody to tell on a broken terminal
	sizes := newSizes(t.out)
	defer sizes.stop()
	return do(sizes)
}

// sizes tells the size of a terminal at once, and whenever it changes.
type sizes struct {
	fd      int
	changes chan os.Signal
	done    chan struct{}
	began   bool
}

func newSizes(fd int) *sizes {
	s := &sizes{fd: fd, changes: make(chan os.Signal, 1), done: make(chan struct{})}
	signal.Notify(s.changes, unix.SIGWINCH)
	return s
}

// Next returns the next size, nil after stop.
func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.began {
		select {
		case <-s.changes:
		case <-s.done:
			return nil
		}
	}
	s.began = true
	width, height, err := term.GetSize(s.fd)
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)} //nolint:gosec // of a terminal
}

func (s *sizes) stop() {
	signal.Stop(s.changes)
	close(s.done)
}
