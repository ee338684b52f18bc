// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 200"
	for name, tc := range map[string]struct {
		stat      string
		wantState byte
		wantStart uint64
		wantErr   bool
	}{
		"a usual name":                    {stat: "42 (sleep)" + rest, wantState: 'S', wantStart: 4711},
		"a name with spaces and brackets": {stat: "42 (a) Z 9 (b c)" + rest, wantState: 'S', wantStart: 4711},
		"cut short":                       {stat: "42 (sleep) S 1 2", wantErr: true},
		"no name":                         {stat: "42", wantErr: true},
		"start is no number":              {stat: "42 (x) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 soon 1000 200", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			state, start, err := parseStat([]byte(tc.stat))
			if (err != nil) != tc.wantErr || state != tc.wantState || start != tc.wantStart {
				t.Errorf("got %c, %d, %v; want %c, %d, error %v", state, start, err, tc.wantState, tc.wantStart, tc.wantErr)
			}
		})
	}
}

// sleeper starts a process that the test ends.
func sleeper(t *testing.T, env ...string) (process, <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // it is killed: an error is expected
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone by now
		<-done
	})
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, done
}

func TestKillSparesALaterProcessWithTheSamePID(t *testing.T) {
	p, done := sleeper(t)
	for name, other := range map[string]process{
		"started at another time": {PID: p.PID, Start: p.Start + 1, Boot: p.Boot},
		"of another boot":         {PID: p.PID, Start: p.Start, Boot: "another"},
		"none":                    {},
	} {
		if other.alive() {
			t.Errorf("%s: %+v is said to be alive", name, other)
		}
	}
	if err := (process{PID: p.PID, Start: p.Start + 1, Boot: p.Boot}).kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("the wrong process was killed")
	case <-time.After(100 * time.Millisecond):
	}
	if !p.alive() {
		t.Fatal("the process is said to be dead, but lives")
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	<-done
	if p.alive() {
		t.Error("the process is said to be alive, but was killed")
	}
	if err := p.kill(); err != nil {
		t.Errorf("killing a process that is gone: %v", err)
	}
}

// A killed process stays as a zombie until its parent looks; `down` must not wait for that.
func TestAZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.alive() {
		t.Error("the process is said to be dead, but lives")
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the zombie counts as dead", func() bool { return !p.alive() })
	if err := cmd.Wait(); err == nil {
		t.Error("the process was not killed")
	}
}

func TestEndAllFindsStragglersOfItsClusterOnly(t *testing.T) {
	dir := t.TempDir()
	_, mineDone := sleeper(t, markerEnv+"="+dir)
	other, _ := sleeper(t, markerEnv+"="+dir+"-other")
	if err := endAll(t.Context(), process{}, dir); err != nil {
		t.Fatal(err)
	}
	<-mineDone
	if !other.alive() {
		t.Error("a process of another cluster was killed")
	}
}
