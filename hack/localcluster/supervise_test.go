// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be its own supervisor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		if err := run(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func hireForTest(t *testing.T) (*cluster, *crew) {
	t.Helper()
	c := testCluster(t, "test")
	w, err := c.hire(false, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := endAll(context.Background(), w.process, c.dir()); err != nil {
			t.Error(err)
		}
	})
	return c, w
}

func shell(name, script string) part {
	return part{Name: name, Path: "/bin/sh", Args: []string{"-c", script}}
}

// eventually fails the test unless cond becomes true within 10 s.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, 10*time.Millisecond, func() (bool, error) { return cond(), nil }); err != nil {
		t.Fatalf("not within 10 s: %s", what)
	}
}

func markedCount(t *testing.T, c *cluster) int {
	t.Helper()
	found, err := marked(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestPartsEndWhenUpIsGoneBeforeCommit(t *testing.T) {
	c, w := hireForTest(t)
	if err := w.start(shell("sleeper", "exec sleep 300")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "supervisor and part run", func() bool { return markedCount(t, c) == 2 })
	w.close()
	eventually(t, "nothing is left", func() bool { return markedCount(t, c) == 0 })
}

func TestPartsStayAfterCommitUntilEndAll(t *testing.T) {
	c, w := hireForTest(t)
	if err := w.start(shell("sleeper", "exec sleep 300")); err != nil {
		t.Fatal(err)
	}
	if err := w.send(request{Commit: true}); err != nil {
		t.Fatal(err)
	}
	w.close()
	deadline := time.After(200 * time.Millisecond) // time enough to end, were it to
	for over := false; !over; {
		select {
		case <-deadline:
			over = true
		default:
			if n := markedCount(t, c); n != 2 {
				t.Fatalf("%d processes after commit, want 2", n)
			}
		}
	}
	if err := endAll(t.Context(), w.process, c.dir()); err != nil {
		t.Fatal(err)
	}
	if n := markedCount(t, c); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

// A supervisor that is killed takes its parts with it.
func TestPartsEndWithTheSupervisor(t *testing.T) {
	c, w := hireForTest(t)
	defer w.close()
	if err := w.start(shell("sleeper", "exec sleep 300")); err != nil {
		t.Fatal(err)
	}
	if err := w.process.kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return markedCount(t, c) == 0 })
}

func TestADeadPartIsToldWithTheEndOfItsLog(t *testing.T) {
	_, w := hireForTest(t)
	defer w.close()
	if err := w.start(shell("broken", "i=0; while [ $i -lt 30 ]; do echo line-$i; i=$((i+1)); done; exit 3")); err != nil {
		t.Fatal(err)
	}
	var err error
	eventually(t, "the end is seen", func() bool { err = w.check(); return err != nil })
	for _, want := range []string{"broken ended (exit code 3)", "line-29", "line-10"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "line-9\n") {
		t.Errorf("error has more than 20 lines of the log: %v", err)
	}
	if _, err := os.Stat(w.cluster.log("broken") + diedSuffix); err != nil {
		t.Error("no note for a later `up`:", err)
	}
}

func TestAPartThatCantStartIsAnError(t *testing.T) {
	_, w := hireForTest(t)
	defer w.close()
	err := w.start(part{Name: "none", Path: "/nonexistent"})
	if err == nil || !strings.Contains(err.Error(), "start none") {
		t.Errorf("got %v", err)
	}
}
