// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// collected are lines in the order in which they were handed on.
type collected struct {
	mu    sync.Mutex
	lines []string
}

func (c *collected) take(stream string, line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, stream+":"+string(line))
}

func newOutput(t *testing.T, fileBytes int64) (*Output, *collected, string) {
	t.Helper()
	dir, lines := t.TempDir(), &collected{}
	o, err := NewOutput(dir, fileBytes, lines.take, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return o, lines, dir
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// TestSettleSeesAllThatWasWritten, without waiting for writers that stay.
func TestSettleSeesAllThatWasWritten(t *testing.T) {
	o, lines, dir := newOutput(t, 1<<16)
	write(t, o.Stdout, "one\ntwo\npart")
	if got := o.Settle(); got != "one\ntwo\npart" {
		t.Errorf("tail %q", got)
	}
	write(t, o.Stderr, "more\n") // by a background child
	if got := o.Settle(); got != "one\ntwo\npart\nmore" {
		t.Errorf("tail %q", got)
	}
	write(t, o.Stdout, "last\n")
	if err := errors.Join(o.CloseEnds(), o.Close()); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout:one", "stdout:two", "stdout:part", "stderr:more", "stdout:last"}
	if diff := cmp.Diff(want, lines.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "stdout.log"))
	if err != nil || string(kept) != "one\ntwo\npartlast\n" {
		t.Errorf("kept %q, %v", kept, err)
	}
}

// TestCloseDoesNotWaitForAStrangersCopy: an end that was handed to a process outside of the tree holds nothing up.
func TestCloseDoesNotWaitForAStrangersCopy(t *testing.T) {
	o, _, _ := newOutput(t, 1<<16)
	write(t, o.Stdout, "text\n")
	if err := o.Close(); err != nil { // both ends are still open here
		t.Fatal(err)
	}
	if err := o.CloseEnds(); err != nil {
		t.Error(err)
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	o, lines, _ := newOutput(t, 1<<20)
	long := strings.Repeat("a", maxLineBytes) + strings.Repeat("b", 10)
	write(t, o.Stdout, long+"\n"+strings.Repeat("c", maxLineBytes)+"\nend\n")
	tail := o.Settle()
	if err := errors.Join(o.CloseEnds(), o.Close()); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout:" + long[:maxLineBytes], "stdout:" + long[maxLineBytes:], "stdout:" + strings.Repeat("c", maxLineBytes), "stdout:end"}
	if diff := cmp.Diff(want, lines.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if tail != "end" {
		t.Errorf("tail %q, want the last whole line", tail)
	}
}

func TestTailText(t *testing.T) {
	cases := map[string]struct {
		tail string
		cut  bool
		want string
	}{
		"nothing":                    {"", false, ""},
		"one line":                   {"one\n", false, "one"},
		"cut within a line":          {"ne\ntwo\n", true, "two"},
		"cut within the only line":   {"ne\n", true, "ne"},
		"an empty line at the end":   {"one\n\n", false, "one\n"},
		"cut within a character":     {"\xa9only\n", true, "only"},
		"what isn't text is dropped": {"a\xff\x1bb\x00\n", false, "ab"},
	}
	for name, tc := range cases {
		if got := tailText([]byte(tc.tail), tc.cut); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// FuzzTail: whatever a task writes, its tail is valid text of at most 1 KiB.
func FuzzTail(f *testing.F) {
	f.Add([]byte("one\ntwo\n"), 3)
	f.Add(bytes.Repeat([]byte("é\xff"), 2000), 100)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		o := &Output{lines: func(string, []byte) {}, log: slog.New(slog.DiscardHandler)}
		s := &stream{name: "stdout", file: &cappedFile{broken: true}}
		chunk = max(1, min(chunk, 1<<16))
		for rest := data; len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
			o.take(s, rest[:min(chunk, len(rest))])
		}
		o.flush(s)
		got := tailText(o.tail, o.cut)
		if len(got) > tailBytes || !utf8.ValidString(got) {
			t.Errorf("tail of %d bytes: %q", len(got), got)
		}
	})
}

func TestCappedFileKeepsTheEnd(t *testing.T) {
	const limit = 1000
	path := filepath.Join(t.TempDir(), "log")
	c := newCappedFile(path, limit)
	var all strings.Builder
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		all.WriteString(line)
		if err := c.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var kept []byte
	for _, p := range []string{path + ".1", path} {
		data, err := os.ReadFile(p)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		kept = append(kept, data...)
	}
	if len(kept) > limit || len(kept) < limit/2 || !strings.HasSuffix(all.String(), string(kept)) {
		t.Errorf("kept %d bytes: %q", len(kept), kept)
	}
}

func TestCappedFileTellsOnceThatItIsBroken(t *testing.T) {
	c := newCappedFile(filepath.Join(t.TempDir(), "missing", "log"), 100)
	if err := c.Write([]byte("a")); err == nil {
		t.Error("no error for a directory that isn't there")
	}
	if err := errors.Join(c.Write([]byte("b")), c.Close()); err != nil {
		t.Errorf("told again: %v", err)
	}
}
