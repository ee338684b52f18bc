// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/process"
	"opensandbox.io/controller/internal/task-executor/procfs"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/store"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// TestMain lets the test binary play the executor's: started with "enter" it becomes a task's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == enter.Command {
		os.Exit(enter.Main())
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test; none takes that long unless it fails.
const patience = 20 * time.Second

func isErr(err, want error) bool { return errors.Is(err, want) }

// executor is a life of the executor but for its HTTP server.
type executor struct {
	*Manager
	t       *testing.T
	records *store.Store
	reaper  *process.Reaper
	stop    func()
	once    sync.Once

	mu    sync.Mutex
	lines []string
}

// options say what is special about an executor under test.
type options struct {
	dir  string
	fake *testclock.FakeClock
	find func() (sandbox.Target, error)
	// beside is an executor in the same process, whose reaper is shared: a process can have but one.
	beside *executor
}

func ownTarget(t *testing.T) sandbox.Target {
	t.Helper()
	self, err := procfs.New("/proc").Stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Target{Own: true, Main: self.ID}
}

func begin(t *testing.T, opts options) *executor {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	records, err := store.Open(opts.dir, log)
	if err != nil {
		t.Fatal(err)
	}
	x := &executor{t: t, records: records, stop: func() {}}
	if opts.beside != nil {
		x.reaper = opts.beside.reaper
	} else {
		x.startReaper(log)
	}
	var clk clock.Clock = clock.RealClock{}
	if opts.fake != nil {
		clk = opts.fake
	}
	target := ownTarget(t)
	find := func() (sandbox.Target, error) { return target, nil }
	if opts.find != nil {
		find = opts.find
	}
	fs := procfs.New("/proc")
	x.Manager = New(t.Context(), Deps{
		Supervisor: process.NewSupervisor(fs, x.reaper, clock.RealClock{}, log),
		Store:      records, FS: fs, Find: find, Lines: x.line, Clock: clk, Log: log,
		Boot: "boot", Grace: 100 * time.Millisecond, OutputBytes: 1 << 16,
	})
	if err := x.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.end)
	return x
}

func (x *executor) startReaper(log *slog.Logger) {
	x.t.Helper()
	reaper, err := process.NewReaper(log)
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { reaper.Run(ctx) })
	x.reaper, x.stop = reaper, func() {
		cancel()
		running.Wait()
	}
}

// end ends this life in an orderly way.
func (x *executor) end() {
	x.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(x.Close(ctx), x.records.Close()); err != nil {
			x.t.Error(err)
		}
		x.stop()
	})
}

func (x *executor) line(task, stream string, line []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lines = append(x.lines, fmt.Sprintf("%s %s %s", task, stream, line))
}

// linesOf are the lines of one task.
func (x *executor) linesOf(task string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var own []string
	for _, line := range x.lines {
		if rest, ok := strings.CutPrefix(line, task+" "); ok {
			own = append(own, rest)
		}
	}
	return strings.Join(own, "\n")
}

// await waits, by the manager's own long poll, until the list fulfils a condition.
func (x *executor) await(what string, ok func(tasks map[string]taskexecutor.ProcessStatus) bool) map[string]taskexecutor.ProcessStatus {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	revision := ""
	for {
		var list []taskexecutor.Task
		list, revision = x.Wait(ctx, revision, time.Hour)
		tasks := map[string]taskexecutor.ProcessStatus{}
		for _, task := range list {
			tasks[task.Name] = *task.ProcessStatus
		}
		if ok(tasks) {
			return tasks
		}
		if ctx.Err() != nil {
			x.t.Fatalf("never %s: %+v", what, list)
		}
	}
}

func (x *executor) awaitEnd(name string) taskexecutor.Terminated {
	x.t.Helper()
	tasks := x.await(name+" ended", func(tasks map[string]taskexecutor.ProcessStatus) bool { return tasks[name].Terminated != nil })
	return *tasks[name].Terminated
}

func (x *executor) awaitRunning(name string) {
	x.t.Helper()
	x.await(name+" running", func(tasks map[string]taskexecutor.ProcessStatus) bool { return tasks[name].Running != nil })
}

func (x *executor) awaitEmpty() {
	x.t.Helper()
	x.await("empty", func(tasks map[string]taskexecutor.ProcessStatus) bool { return len(tasks) == 0 })
}

func (x *executor) set(tasks ...taskexecutor.Task) {
	x.t.Helper()
	if _, err := x.Set(tasks); err != nil {
		x.t.Fatal(err)
	}
}

func script(name, text string) taskexecutor.Task {
	return taskexecutor.Task{Name: name, Process: taskexecutor.Process{Command: []string{"/bin/sh", "-c"}, Args: []string{text}}}
}

// fifo returns a path by which a task can tell the test something, and a function that waits for a line of it.
func fifo(t *testing.T) (path string, read func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // only read from
	return path, func() string {
		t.Helper()
		if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(buf[:n]))
	}
}

func processLives(t *testing.T, pid string) bool {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatalf("pid %q: %v", pid, err)
	}
	s, err := procfs.New("/proc").Stat(n)
	return err == nil && s.Alive()
}

func TestEndsOfTasks(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	missing := taskexecutor.Task{Name: "missing", Process: taskexecutor.Process{Command: []string{"/nowhere"}}}
	env := taskexecutor.Task{Name: "env", Process: taskexecutor.Process{
		Command: []string{"/bin/sh"}, Args: []string{"-c", "echo $A $PWD"}, WorkingDir: "/tmp",
		Env: []taskexecutor.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}}}
	x.set(script("ok", "echo one; printf two"), script("bad", "echo oops >&2; exit 9"), script("killed", "kill -SEGV $$"), missing, env)
	cases := map[string]taskexecutor.Terminated{
		"ok":      {ExitCode: 0, Reason: "Completed", Message: "exit status 0", Output: "one\ntwo"},
		"bad":     {ExitCode: 9, Reason: "NonZeroExit", Message: "exit status 9", Output: "oops"},
		"killed":  {ExitCode: 139, Signal: 11, Reason: "NonZeroExit", Message: "ended by signal 11 (SIGSEGV)"},
		"missing": {ExitCode: 128, Reason: "StartError", Message: `execute "/nowhere": no such file or directory in the sandbox`},
		"env":     {ExitCode: 0, Reason: "Completed", Message: "exit status 0", Output: "2 /tmp"},
	}
	for name, want := range cases {
		got := x.awaitEnd(name)
		if got.FinishedAt.IsZero() || got.StartedAt.IsZero() != (got.Reason == "StartError") {
			t.Errorf("%s: started %s, finished %s", name, got.StartedAt, got.FinishedAt)
		}
		got.StartedAt, got.FinishedAt = time.Time{}, time.Time{}
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"ok":      "stdout one\nstdout two\nend reason=Completed exitCode=0",
		"bad":     "stderr oops\nend reason=NonZeroExit exitCode=9",
		"missing": "end reason=StartError exitCode=128",
	} {
		if got := x.linesOf(name); got != want {
			t.Errorf("lines of %s are %q, want %q", name, got, want)
		}
	}
	kept, err := os.ReadFile(filepath.Join(x.records.TaskDir("ok"), "stdout.log"))
	if err != nil || string(kept) != "one\ntwo" {
		t.Errorf("kept output %q, %v", kept, err)
	}
	x.set()
	x.awaitEmpty()
	if _, err := os.Stat(x.records.TaskDir("ok")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a forgotten task has left its directory: %v", err)
	}
}

func TestSetIsIdempotent(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	counter := filepath.Join(t.TempDir(), "runs")
	task := script("a", "echo run >> "+counter)
	x.set(task)
	x.awaitEnd("a")
	x.set(task)
	if _, err := x.Add(task); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Set([]taskexecutor.Task{script("a", "true")}); !errors.Is(err, ErrConflict) {
		t.Errorf("another process under a known name: %v, want ErrConflict", err)
	}
	if _, err := x.Add(script("a", "true")); !errors.Is(err, ErrConflict) {
		t.Errorf("another process added under a known name: %v, want ErrConflict", err)
	}
	if _, err := x.Add(script("b", "exit 0")); err != nil {
		t.Fatal(err)
	}
	x.awaitEnd("b")
	if data, err := os.ReadFile(counter); err != nil || string(data) != "run\n" {
		t.Errorf("runs %q, %v, want one", data, err)
	}
	if _, err := x.Get("nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	if err := x.Remove("nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
}

// TestAnEmptyListMeansNoProcess: a finished task's background child lives on, and is gone when the list is empty.
func TestAnEmptyListMeansNoProcess(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	path, read := fifo(t)
	x.set(script("a", fmt.Sprintf("(setsid sh -c 'trap \"\" TERM; echo $$ > %s; while :; do sleep 1000; done' &) ; exit 0", path)))
	child := read()
	if end := x.awaitEnd("a"); end.Reason != "Completed" {
		t.Errorf("reason %s, want Completed", end.Reason)
	}
	if !processLives(t, child) {
		t.Fatal("the background child ended with its main process")
	}
	tasks, err := x.Set(nil)
	if err != nil || len(tasks) != 1 || tasks[0].ProcessStatus.Terminated == nil {
		t.Errorf("tasks %+v, %v, want the ended one while its tree is being ended", tasks, err)
	}
	if _, err := x.Set([]taskexecutor.Task{script("a", "true")}); !errors.Is(err, ErrConflict) {
		t.Errorf("a name that is being removed: %v, want ErrConflict", err)
	}
	x.awaitEmpty()
	if processLives(t, child) {
		t.Error("the list is empty and a process is left")
	}
	x.set(script("a", "exit 4")) // the name is free again
	if end := x.awaitEnd("a"); end.ExitCode != 4 {
		t.Errorf("exit code %d, want 4", end.ExitCode)
	}
}

func TestRemovingARunningTask(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	path, read := fifo(t)
	x.set(script("a", fmt.Sprintf("trap '' TERM; echo $$ > %s; while :; do sleep 1000; done", path)))
	pid := read()
	x.awaitRunning("a")
	if err := x.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if task, err := x.Get("a"); err != nil || task.ProcessStatus.Running == nil {
		t.Errorf("task %+v, %v, want it running while it is being stopped", task, err)
	}
	x.awaitEmpty()
	if processLives(t, pid) {
		t.Error("the list is empty and a process is left")
	}
}

func TestTimeout(t *testing.T) {
	fake := testclock.NewFakeClock(t0)
	x := begin(t, options{dir: t.TempDir(), fake: fake})
	path, read := fifo(t)
	task := script("a", fmt.Sprintf("echo begun; sleep 1000 & echo $! > %s; wait", path))
	task.Process.TimeoutSeconds = 30
	quick := script("quick", "exit 0")
	quick.Process.TimeoutSeconds = 30
	x.set(task, quick)
	child := read()
	x.awaitRunning("a")
	x.awaitEnd("quick")
	fake.Step(30*time.Second - 1)
	if got, err := x.Get("a"); err != nil || got.ProcessStatus.Running == nil {
		t.Fatalf("before its time: %+v, %v", got.ProcessStatus, err)
	}
	fake.Step(1)
	end := x.awaitEnd("a")
	if end.Reason != "TimedOut" || end.Signal != 15 || end.Message != "ran longer than 30s" || end.Output != "begun" {
		t.Errorf("end %+v", end)
	}
	if processLives(t, child) {
		t.Error("a process of a task that timed out is left")
	}
	if end := x.awaitEnd("quick"); end.Reason != "Completed" {
		t.Errorf("a task that had ended in time: %+v", end)
	}
}

func TestSandboxLost(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	path, read := fifo(t)
	x.set(script("sandbox", "echo ready > "+path+"; exec sleep 1000"))
	read()
	x.awaitRunning("sandbox")
	main := x.pidOf("sandbox")

	y := begin(t, options{dir: t.TempDir(), beside: x, find: func() (sandbox.Target, error) { return sandbox.Target{Main: main}, nil }})
	y.set(script("a", "trap '' TERM; echo $$ > "+path+"; while :; do sleep 1000; done"), script("done", "exit 0"))
	pid := read()
	y.awaitRunning("a")
	y.awaitEnd("done")
	if err := unix.Kill(main.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if end := y.awaitEnd("a"); end.Reason != "SandboxLost" || end.Signal != 9 {
		t.Errorf("end %+v", end)
	}
	if processLives(t, pid) {
		t.Error("a process of a lost sandbox is left")
	}
	if end := y.awaitEnd("done"); end.Reason != "Completed" {
		t.Errorf("a task that had ended: %+v", end)
	}
}

// A sandbox whose container is restarted ends the tries that meet it, and is nobody's mistake: other than one that never was.
func TestASandboxThatEndsBeforeATaskIsStartedIsLost(t *testing.T) {
	fake := testclock.NewFakeClock(t0)
	gone := sandbox.Target{Main: procfs.ID{PID: os.Getpid(), Start: 1}}
	var mu sync.Mutex
	var down error
	x := begin(t, options{dir: t.TempDir(), fake: fake, find: func() (sandbox.Target, error) {
		mu.Lock()
		defer mu.Unlock()
		return gone, down
	}})
	x.set(script("ended", "true"))
	if end := x.awaitEnd("ended"); end.Reason != "SandboxLost" || end.ExitCode != exitNeverStarted || !end.StartedAt.IsZero() {
		t.Errorf("end %+v, want SandboxLost of one that was not started", end)
	}
	mu.Lock()
	down = sandbox.ErrNotVisible
	mu.Unlock()
	x.set(script("down", "true"))
	for deadline := time.Now().Add(patience); ; {
		if task, err := x.Get("down"); err == nil && task.ProcessStatus.Terminated != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		if fake.HasWaiters() {
			fake.Step(sandboxLook)
		}
	}
	if end := x.awaitEnd("down"); end.Reason != "SandboxLost" {
		t.Errorf("end %+v, want SandboxLost, for there was a sandbox before", end)
	}
}

// An end that can't be kept is shown, and kept as soon as that is possible: the next life tells the same.
func TestAnEndThatCouldNotBeKeptIsKeptLater(t *testing.T) {
	dir := t.TempDir()
	x := begin(t, options{dir: dir})
	path, read := fifo(t)
	leave := filepath.Join(t.TempDir(), "leave")
	x.set(script("a", fmt.Sprintf("echo ready > %s; while [ ! -e %s ]; do sleep 0.01; done; exit 3", path, leave)))
	read()
	x.awaitRunning("a")
	block := filepath.Join(x.records.TaskDir("a"), "record.json.tmp") // where the next record is written
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(leave, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if end := x.awaitEnd("a"); end.Reason != "NonZeroExit" {
		t.Errorf("end %+v", end)
	}
	kept := func() bool {
		records, err := x.records.Load()
		return err == nil && len(records) == 1 && records[0].End != nil && records[0].End.ExitCode == 3
	}
	if kept() {
		t.Fatal("the end was kept: nothing is tested")
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !kept(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end was not kept later")
		}
	}
}

// pidOf returns the main process of a running task, from its record.
func (x *executor) pidOf(name string) procfs.ID {
	x.t.Helper()
	records, err := x.records.Load()
	if err != nil {
		x.t.Fatal(err)
	}
	for _, r := range records {
		if r.Name == name && r.Start != nil {
			return r.Start.ID
		}
	}
	x.t.Fatalf("no start of %s in %+v", name, records)
	return procfs.ID{}
}

func TestSandboxThatCannotBeFound(t *testing.T) {
	fake := testclock.NewFakeClock(t0)
	var mu sync.Mutex
	found := sandbox.ErrNotVisible
	target := ownTarget(t)
	x := begin(t, options{dir: t.TempDir(), fake: fake, find: func() (sandbox.Target, error) {
		mu.Lock()
		defer mu.Unlock()
		return target, found
	}})
	stepUntil := func(ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !ok(); {
			if time.Now().After(deadline) {
				t.Fatal("waited in vain")
			}
			if fake.HasWaiters() {
				fake.Step(sandboxLook)
			}
		}
	}
	ended := func(name string) func() bool {
		return func() bool {
			task, err := x.Get(name)
			return err == nil && task.ProcessStatus.Terminated != nil
		}
	}
	x.set(script("never", "true"))
	stepUntil(ended("never"))
	if end := x.awaitEnd("never"); end.Reason != "StartError" || !strings.Contains(end.Message, "shareProcessNamespace") {
		t.Errorf("end %+v, want a StartError that names shareProcessNamespace", end)
	}
	if waited := fake.Since(t0); waited < sandboxWait {
		t.Errorf("gave up after %s, want %s", waited, sandboxWait)
	}

	x.set(script("removed", "true")) // and takes "never" away
	stepUntil(func() bool { _, err := x.Get("never"); return err != nil })
	x.set()
	x.awaitEmpty() // a start that waits is given up

	x.set(script("later", "true"))
	mu.Lock()
	found = nil
	mu.Unlock()
	stepUntil(ended("later"))
	if end := x.awaitEnd("later"); end.Reason != "Completed" {
		t.Errorf("end %+v, want Completed once the sandbox is visible", end)
	}
}

// TestSecondLife: ends are kept, what ran ends as ExecutorLost, nothing runs twice, a lost record keeps its name.
func TestSecondLife(t *testing.T) {
	dir, runs := t.TempDir(), filepath.Join(t.TempDir(), "runs")
	x := begin(t, options{dir: dir})
	path, read := fifo(t)
	ok, running, spoilt := script("ok", "exit 0"), script("running", "echo run >> "+runs+"; echo $$ > "+path+"; sleep 1000"), script("spoilt", "exit 0")
	x.set(ok, running, spoilt)
	pid := read()
	x.awaitRunning("running")
	first := x.awaitEnd("ok")
	x.awaitEnd("spoilt")
	x.end()
	if processLives(t, pid) {
		t.Error("a task outlived its executor's orderly end")
	}
	record := filepath.Join(dir, "t-spoilt", "record.json")
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	y := begin(t, options{dir: dir})
	y.set(ok, running, spoilt)
	if second := y.awaitEnd("ok"); !second.FinishedAt.Equal(first.FinishedAt) || second.Reason != first.Reason {
		t.Errorf("end %+v, want the one of the first life %+v", second, first)
	}
	if end := y.awaitEnd("running"); end.Reason != "ExecutorLost" {
		t.Errorf("end %+v, want ExecutorLost", end)
	}
	if end := y.awaitEnd("spoilt"); end.Reason != "ExecutorLost" || end.ExitCode != -1 {
		t.Errorf("end %+v, want ExecutorLost", end)
	}
	if data, err := os.ReadFile(runs); err != nil || string(data) != "run\n" {
		t.Errorf("runs %q, %v, want one", data, err)
	}
	y.set()
	y.awaitEmpty()
}

// A lost task whose end can't be written, as on a full disk, doesn't keep the executor from serving. It is written later.
func TestALifeThatCannotWriteDownWhatWasLostServesAllTheSame(t *testing.T) {
	dir := t.TempDir()
	x := begin(t, options{dir: dir})
	path, read := fifo(t)
	running := script("running", "echo $$ > "+path+"; exec sleep 1000")
	x.set(running)
	read()
	x.awaitRunning("running")
	record, err := os.ReadFile(filepath.Join(dir, "t-running", "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	x.end()
	if err := os.WriteFile(filepath.Join(dir, "t-running", "record.json"), record, 0o600); err != nil { // as a crash had left it
		t.Fatal(err)
	}
	block := filepath.Join(dir, "t-running", "record.json.tmp") // where the next record is written
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}

	y := begin(t, options{dir: dir})
	y.set(running)
	if end := y.awaitEnd("running"); end.Reason != "ExecutorLost" {
		t.Errorf("end %+v, want ExecutorLost", end)
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if records, err := y.records.Load(); err == nil && len(records) == 1 && records[0].End != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the end was not kept later")
		}
	}
}

// TestLifeAfterACrash: the first life ends without a word; what it ran is killed by the second.
func TestLifeAfterACrash(t *testing.T) {
	dir := t.TempDir()
	x := begin(t, options{dir: dir})
	path, read := fifo(t)
	x.set(script("a", "(setsid sleep 1000 & echo $! > "+path+"); sleep 1000"))
	pid := read()
	x.awaitRunning("a")
	before, err := os.ReadFile(filepath.Join(dir, "t-a", "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	after := t.TempDir() // what a crash at this moment leaves on disk
	if err := errors.Join(os.Mkdir(filepath.Join(after, "t-a"), 0o700),
		os.WriteFile(filepath.Join(after, "id"), id, 0o600),
		os.WriteFile(filepath.Join(after, "t-a", "record.json"), before, 0o600)); err != nil {
		t.Fatal(err)
	}
	y := begin(t, options{dir: after, beside: x})
	if processLives(t, pid) {
		t.Error("a process of the first life survived")
	}
	end := y.awaitEnd("a")
	if end.Reason != "ExecutorLost" || end.ExitCode != -1 || end.StartedAt.IsZero() {
		t.Errorf("end %+v, want ExecutorLost", end)
	}
}

func TestClosing(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	_, revision := x.List()
	answered := make(chan struct{})
	go func() { // ends with the manager
		defer close(answered)
		x.Wait(context.Background(), revision, time.Hour)
	}()
	x.end()
	<-answered
	if _, err := x.Set([]taskexecutor.Task{script("a", "true")}); !errors.Is(err, ErrClosing) {
		t.Errorf("error %v, want ErrClosing", err)
	}
}

// While the executor ends its tasks, whoever waits is told of ends, and not that nothing has changed.
func TestClosingAnswersThoseWhoWaitWithNews(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	path, read := fifo(t)
	// It ends when it is told to, not when it is asked to: the file is its leave.
	leave := filepath.Join(t.TempDir(), "leave")
	x.Manager.deps.Grace = patience
	x.set(script("a", fmt.Sprintf("trap 'echo asked > %s' TERM; echo ready > %s; while [ ! -e %s ]; do sleep 0.01; done", path, path, leave)))
	read()
	x.awaitRunning("a")
	closed := make(chan struct{})
	go func() { // ends with the manager
		defer close(closed)
		x.end()
	}()
	if got := read(); got != "asked" {
		t.Fatalf("the task says %q", got)
	}
	_, revision := x.List()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, got := x.Wait(ctx, revision, time.Hour); ctx.Err() == nil {
		t.Errorf("answered at once with revision %s, as before %s", got, revision)
	}
	if err := os.WriteFile(leave, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list, _ := x.Wait(t.Context(), revision, time.Hour)
	if len(list) != 1 || list[0].ProcessStatus.Terminated == nil || list[0].ProcessStatus.Terminated.Reason != "ExecutorLost" {
		t.Errorf("told of %+v, want the end", list)
	}
	<-closed
}

func TestTheListFitsIntoAnAnswer(t *testing.T) {
	x := begin(t, options{dir: t.TempDir()})
	big := script("big", "exit 0")
	big.Process.Args = append(big.Process.Args, strings.Repeat("x", taskexecutor.MaxBodyBytes-statusBytes))
	if _, err := x.Set([]taskexecutor.Task{big}); !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
	if tasks, _ := x.List(); len(tasks) != 0 {
		t.Errorf("tasks %v, want none", tasks)
	}
}
