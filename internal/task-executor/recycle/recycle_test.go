// SPDX-License-Identifier: Apache-2.0

package recycle

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	errBusy = errors.New("busy")
)

// pod is what stays of a pod when its containers are restarted.
type pod struct {
	t       *testing.T
	dir     string
	forgets int
	tasks   int
	closed  bool
}

func (p *pod) Forget() error { p.forgets++; return nil }
func (p *pod) Reopen()       { p.closed = false }
func (p *pod) Idle() bool    { return p.tasks == 0 }
func (p *pod) CloseIdle() error {
	if p.tasks > 0 {
		return errBusy
	}
	p.closed = true
	return nil
}

func newPod(t *testing.T) *pod {
	p := &pod{t: t, dir: t.TempDir()}
	for _, dir := range []string{"data", "shm", "etc", "sysvipc"} {
		if err := os.Mkdir(p.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.write("etc/hosts", "127.0.0.1 localhost")
	p.write("sysvipc/shm", "       key      shmid perms\n")
	return p
}

func (p *pod) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pod) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// start is a life of the executor; what is in memory is older than the pod's processes if old says so.
func (p *pod) start(since time.Time) *Recycler {
	p.t.Helper()
	p.closed = false
	r, err := Begin(Deps{DataDir: p.path("data"), Records: p, Tasks: p, InPod: true, Log: quiet, Host: Host{
		Files:  []string{p.path("etc/hosts"), p.path("etc/none")},
		Memory: []string{p.path("shm"), p.path("mqueue")},
		Lists:  []string{p.path("sysvipc/shm"), p.path("sysvipc/none")},
		Since:  since,
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

var (
	later   = time.Now().Add(time.Hour)
	earlier = time.Now().Add(-time.Hour)
)

func TestWhatAUserLeftDecidesWhetherThePodIsClean(t *testing.T) {
	for name, c := range map[string]struct {
		leave      func(p *pod)
		since      time.Time
		wantReason string // "" for clean
	}{
		"nothing":                 {func(*pod) {}, later, ""},
		"old files in memory":     {func(p *pod) { p.write("shm/a", "x"); p.write("shm/b", "y") }, later, ""},
		"files of unknown origin": {func(p *pod) { p.write("shm/a", "x") }, earlier, "shm/a may be the last user's"},
		"a changed file":          {func(p *pod) { p.write("etc/hosts", "192.0.2.1 localhost") }, later, "etc/hosts was changed"},
		"a new file":              {func(p *pod) { p.write("etc/none", "") }, later, "etc/none can't be compared"},
		"System V IPC":            {func(p *pod) { p.write("sysvipc/shm", "key\n 0 1 600\n 0 2 600\n") }, later, "sysvipc/shm has 2 System V IPC objects"},
		"a removed file":          {func(p *pod) { _ = os.Remove(p.path("etc/hosts")) }, later, "etc/hosts can't be compared"},
		"a file turned a pipe":    {func(p *pod) { _ = os.Remove(p.path("etc/hosts")); _ = os.Mkdir(p.path("etc/hosts"), 0o700) }, later, "etc/hosts can't be compared"},
		"tasks again":             {func(p *pod) { p.tasks = 1 }, later, "has tasks"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			first := p.start(earlier)
			if err := first.Ask("x"); err != nil {
				t.Fatal(err)
			}
			c.leave(p)
			state, err := p.start(c.since).State()
			reasons := strings.Join(state.Reasons, "; ")
			if err != nil || state.ID != "x" || state.Clean != (c.wantReason == "") || !strings.Contains(reasons, c.wantReason) {
				t.Errorf("state %+v, %v, want the reason %q", state, err, c.wantReason)
			}
			if p.forgets != 1 {
				t.Errorf("the records were forgotten %d times, want once", p.forgets)
			}
			if left, _ := os.ReadDir(p.path("shm")); c.wantReason == "" && len(left) > 0 {
				t.Errorf("%v is left in memory", left)
			}
		})
	}
}

func TestALifeThatNoRecyclingStartedTouchesNothing(t *testing.T) {
	p := newPod(t)
	p.start(later)
	p.write("shm/in-use", "x")
	r := p.start(later) // the executor crashed
	if _, err := os.Stat(p.path("shm/in-use")); err != nil || p.forgets > 0 {
		t.Errorf("the sandbox lost what it uses: %v, %d", err, p.forgets)
	}
	if state, _ := r.State(); state.Clean || state.ID != "" {
		t.Errorf("it calls the pod clean: %+v", state)
	}
}

func TestARecyclingIsRefusedWhileThereAreTasksAndHappensOnce(t *testing.T) {
	p := newPod(t)
	r := p.start(later)
	p.tasks = 1
	if err := r.Ask("x"); !errors.Is(err, errBusy) {
		t.Errorf("with a task: %v, want %v", err, errBusy)
	}
	if _, err := os.Stat(p.path("data/" + noteFile)); err == nil {
		t.Error("a refused recycling is noted: the next life would forget tasks that run")
	}
	p.tasks = 0
	for range 2 {
		if err := r.Ask("x"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-r.Exiting():
	default:
		t.Error("it doesn't exit")
	}
	if _, err := r.State(); !errors.Is(err, ErrExiting) {
		t.Errorf("about to exit it tells its state: %v", err)
	}

	again := p.start(later)
	if err := again.Ask("x"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-again.Exiting():
		t.Error("asked late for the recycling it came back from, it exits once more")
	default:
	}
	if err := again.Ask("y"); err != nil || !p.closed {
		t.Errorf("the next recycling: %v", err)
	}
}

func TestAnExecutorOutsideOfAPodLeavesTheMachineAlone(t *testing.T) {
	p := newPod(t)
	p.write("shm/mine", "x")
	p.write("data/"+noteFile, "x")
	r, err := Begin(Deps{DataDir: p.path("data"), Records: p, Tasks: p, Log: quiet, Host: Host{Memory: []string{p.path("shm")}, Since: later}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.path("shm/mine")); err != nil {
		t.Error("it emptied the machine's memory")
	}
	if err := r.Ask("x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("it accepts: %v", err)
	}
}

func TestTheOldestProcessIsNotOlderThanItself(t *testing.T) {
	got, err := oldestProcess(procfs.New("/proc"), os.Getpid())
	if now := time.Now(); err != nil || got.After(now) || now.Sub(got) > 365*24*time.Hour {
		t.Errorf("oldest process since %v, %v", got, err)
	}
}
