// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// smallDisk makes the installation's data directory a file system of its own, and returns functions that fill it and make room
// again.
func (in *installation) smallDisk() (fill, free func()) {
	in.t.Helper()
	in.dir = in.t.TempDir()
	if err := unix.Mount("small", in.dir, "tmpfs", 0, "size=256k"); err != nil {
		in.t.Skipf("needs the right to mount a file system: %v", err)
	}
	in.t.Cleanup(func() {
		if err := unix.Unmount(in.dir, 0); err != nil {
			in.t.Error(err)
		}
	})
	ballast := filepath.Join(in.dir, "ballast")
	fill = func() {
		in.t.Helper()
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			in.t.Fatalf("filling the disk: %v, want that there is no space left", err)
		}
	}
	free = func() {
		in.t.Helper()
		if err := os.Remove(ballast); err != nil {
			in.t.Fatal(err)
		}
	}
	return fill, free
}

// awaitEnd waits for the end of a task.
func (in *installation) awaitEnd(c *taskexecutor.Client, name string) taskexecutor.Terminated {
	in.t.Helper()
	revision := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		list, rev, err := c.Wait(in.t.Context(), revision, time.Second)
		if err != nil {
			in.t.Fatal(err)
		}
		revision = rev
		for _, task := range list {
			if task.Name == name && task.ProcessStatus.Terminated != nil {
				return *task.ProcessStatus.Terminated
			}
		}
	}
	in.t.Fatalf("%s didn't end", name)
	return taskexecutor.Terminated{}
}

// On a full disk no task starts, for nobody would know of it later. What runs goes on and is told as it ended, also by the
// next life of the executor if there was room again before that.
func TestOnAFullDiskNoTaskStartsAndWhatRunsIsToldAsItEnded(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	fill, free := in.smallDisk()
	c := in.client()
	l := in.serve("life-1", c)
	marks := t.TempDir()
	task := func(name, script string) taskexecutor.Task {
		return taskexecutor.Task{Name: name, Process: taskexecutor.Process{
			Command: []string{"sh", "-c", fmt.Sprintf("echo run >> %s/%s; %s", marks, name, script)}}}
	}
	running := task("running", fmt.Sprintf("while [ ! -e %s/leave ]; do sleep 0.01; done; head -c 100000 /dev/zero; echo last; exit 3", marks))
	set := func(tasks ...taskexecutor.Task) {
		t.Helper()
		if _, err := c.Set(t.Context(), tasks); err != nil {
			t.Fatal(err)
		}
	}
	// The calls are made before the disk is full, but for the one that must not succeed: it may be refused, for the executor
	// can't remember its token, or be taken and fail.
	set(running)
	for runs("running", marks) == 0 {
		time.Sleep(look)
	}
	fill()
	refused := task("refused", "true")
	if _, err := c.Set(t.Context(), []taskexecutor.Task{running, refused}); err == nil {
		if end := in.awaitEnd(c, "refused"); end.Reason != taskexecutor.ReasonStartError || !strings.Contains(end.Message, "no space left") {
			t.Errorf("on a full disk it ended with %+v, want %s that names it", end, taskexecutor.ReasonStartError)
		}
	} else if !strings.Contains(err.Error(), "no space left") {
		t.Errorf("on a full disk: %v, want an error that names it", err)
	}
	if n := runs("refused", marks); n > 0 {
		t.Errorf("it ran %d times though it could not be recorded", n)
	}
	if err := os.WriteFile(filepath.Join(marks, "leave"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, l, "could not keep the record of a task", "task=running")
	free()
	end := in.awaitEnd(c, "running")
	if end.ExitCode != 3 || !strings.HasSuffix(end.Output, "last") {
		t.Errorf("it ended with %+v, want the exit code 3 and its last output", end)
	}
	for deadline := time.Now().Add(patience); !recorded(filepath.Join(in.dir, "t-running", "record.json")); time.Sleep(look) {
		if time.Now().After(deadline) {
			t.Fatal("its end was not recorded when there was room again")
		}
	}

	l.kill()
	l = in.serve("life-2", c)
	next := task("next", "exit 4")
	set(running, next)
	if again := in.awaitEnd(c, "running"); again.ExitCode != end.ExitCode || !again.FinishedAt.Equal(end.FinishedAt) {
		t.Errorf("the next life says %+v, the one before said %+v", again, end)
	}
	if end := in.awaitEnd(c, "next"); end.ExitCode != 4 {
		t.Errorf("with room again a task ends with %+v, want exit code 4", end)
	}
	if n := runs("running", marks); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}

// runs is how many marks a task has left.
func runs(name, marks string) int {
	data, _ := os.ReadFile(filepath.Join(marks, name)) // not there: none
	return strings.Count(string(data), "\n")
}

func recorded(record string) bool {
	data, _ := os.ReadFile(record) // being replaced
	return strings.Contains(string(data), `"exitCode":3`)
}

// awaitLog waits for a line of an executor's log that has all of these.
func awaitLog(t *testing.T, l *life, parts ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(look) {
		for line := range strings.Lines(l.readLog()) {
			has := true
			for _, part := range parts {
				has = has && strings.Contains(line, part)
			}
			if has {
				return
			}
		}
	}
	t.Fatalf("no line with %q in the log:\n%s", parts, l.readLog())
}
