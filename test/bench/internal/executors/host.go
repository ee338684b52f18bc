// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"sync"
	"time"

	"opensandbox.io/controller/test/internal/process"
)

// Host is the bench's side of the process that serves the executors.
type Host struct {
	process *process.Process
	orders  io.WriteCloser
	read    chan struct{} // closed when the process tells no more

	mu      sync.Mutex
	serving int
	ends    map[string]time.Time
	failure string
}

// Start runs the process: a command that calls [Serve] with its standard input and output.
func Start(cmd *exec.Cmd) (*Host, error) {
	orders, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	notes, notesEnd := io.Pipe()
	cmd.Stdout = notesEnd
	p, err := process.Start(cmd)
	if err != nil {
		return nil, err
	}
	h := &Host{process: p, orders: orders, read: make(chan struct{}), ends: map[string]time.Time{}}
	go func() { // ends with the process
		<-p.Ended()
		_ = notesEnd.Close() // never fails
	}()
	go func() {
		h.listen(notes)
		close(h.read)
	}()
	return h, nil
}

// Stop ends the process.
func (h *Host) Stop() error {
	_ = h.orders.Close() // as good as the signal that follows
	err := h.process.Stop()
	<-h.read
	return err
}

// listen takes in what the process tells.
func (h *Host) listen(notes io.Reader) {
	lines := bufio.NewScanner(notes)
	for lines.Scan() {
		var n note
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			n.Failed = fmt.Sprintf("note %q: %v", lines.Text(), err)
		}
		h.take(n)
	}
	_, _ = io.Copy(io.Discard, notes) // after a line that is too long
}

func (h *Host) take(n note) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case n.Failed != "":
		h.failure = n.Failed
	case n.End != "":
		h.ends[n.End] = time.Unix(0, n.At)
	default:
		h.serving = n.Serving
	}
}

// Check is an error if something went wrong since the start.
func (h *Host) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.process.Ended():
		return fmt.Errorf("the process that serves the executors has ended; last failure: %q", h.failure)
	default:
	}
	if h.failure != "" {
		return fmt.Errorf("the process that serves the executors: %s", h.failure)
	}
	return nil
}

// Serving is the number of pods that are served.
func (h *Host) Serving() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.serving
}

// Usage is what the process uses.
func (h *Host) Usage() (process.Usage, error) { return h.process.Usage() }

// Ends are the tasks that ended, by name, since the last call of Clear.
func (h *Host) Ends() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.ends)
}

// Clear forgets the ends.
func (h *Host) Clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = map[string]time.Time{}
}

// End has all tasks that run until told end, this many a second.
func (h *Host) End(rate float64) error {
	if err := json.NewEncoder(h.orders).Encode(order{EndRate: rate}); err != nil {
		return fmt.Errorf("tell the process that serves the executors: %w", err)
	}
	return nil
}
