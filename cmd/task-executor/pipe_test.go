// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestALogWhoseReaderHangsLosesLinesAndHoldsNobodyUp(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close() //nolint:errcheck // only read from
	w := withoutStalls(write, 20*time.Millisecond)
	line := func(n int) string { return fmt.Sprintf("line %07d %s\n", n, strings.Repeat("x", 5000)) } // more than is written at once
	const hung = 5000                                                                                 // many times what a pipe holds, and 100 s if each waited
	for n := range hung {
		if _, err := w.Write([]byte(line(n))); err != nil {
			t.Fatal(err)
		}
	}
	lines := make(chan string)
	go func() { // ends with the pipe
		defer close(lines)
		scanner := bufio.NewScanner(read)
		for scanner.Scan() {
			lines <- scanner.Text() + "\n"
		}
	}()
	written, torn := 0, 0
	var got string
	for got = range lines {
		if got != line(written) {
			break
		}
		if written++; written == 5 { // there is room now
			if _, err := w.Write([]byte("back\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if strings.HasPrefix(line(written), strings.TrimSuffix(got, "\n")) {
		torn, got = 1, <-lines
	}
	if want := fmt.Sprintf("task-executor: %d lines are missing here: nobody read them in time\n", hung-written); got != want {
		t.Errorf("after %d lines and %d torn ones came %.100q, want %q", written, torn, got, want)
	}
	if got := <-lines; got != "back\n" {
		t.Errorf("then %q, want what was written next", got)
	}
	if _, err := w.Write([]byte("further\n")); err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "further\n" {
		t.Errorf("then %q, want what was written next", got)
	}
	pipe, ok := w.(*patientPipe)
	if !ok {
		t.Fatalf("a pipe is written to by %T", w)
	}
	if err := pipe.file.Close(); err != nil {
		t.Error(err)
	}
	if err := write.Close(); err != nil {
		t.Error(err)
	}
	if rest, more := <-lines; more {
		t.Errorf("and then %q", rest)
	}
}

func TestAFileIsWrittenToAsItIs(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing is written
	if w := withoutStalls(f, time.Second); w != f {
		t.Errorf("a file is written to by %T", w)
	}
}
