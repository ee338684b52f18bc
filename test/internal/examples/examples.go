// SPDX-License-Identifier: Apache-2.0

// Package examples runs the programs under examples/ as users do.
package examples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long an example may take to obey a signal.
const patience = time.Minute

// Options are what one run of a fanout is told. All but Script are required.
type Options struct {
	Kubeconfig, Namespace, Pool string
	// Script is the task; empty means the example's own.
	Script string
	// Count is the number of sandboxes.
	Count int
	// Timeout is how long the tasks may take, in whole seconds.
	Timeout time.Duration
	// Quiet leaves the logs of pods alone.
	Quiet bool
}

// Outcome is what a run left.
type Outcome struct {
	Out, Complaint string
	Code           int
}

// Fanout is one example of this name.
type Fanout struct {
	// Name is that of its folder.
	Name    string
	missing string // why it can't be run here
	args    func(Options) []string
}

// Fanouts are the examples in their languages, ready to run. The one in Go is built into dir, unless it is there.
func Fanouts(t *testing.T, checkout, dir string) []Fanout {
	t.Helper()
	program := filepath.Join(dir, "fanout")
	if _, err := os.Stat(program); err != nil {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/go/fanout")
		build.Dir = checkout
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the example: %v\n%s", err, out)
		}
	}
	python, missing := findPython(t, checkout)
	return []Fanout{
		{Name: "go", args: func(o Options) []string {
			args := []string{program, "-kubeconfig", o.Kubeconfig, "-namespace", o.Namespace, "-pool", o.Pool, "-n", strconv.Itoa(o.Count),
				"-timeout", o.Timeout.String(), "-logs=" + strconv.FormatBool(!o.Quiet)}
			if o.Script != "" {
				args = append(args, "-script", o.Script)
			}
			return args
		}},
		{Name: "kubectl", args: func(o Options) []string {
			script := filepath.Join(checkout, "examples/kubectl/fanout.sh")
			return o.words([]string{script, "-k", o.Kubeconfig, "-n", o.Namespace, "-c", strconv.Itoa(o.Count), "-t", o.seconds()})
		}},
		{Name: "python", missing: missing, args: func(o Options) []string {
			script := filepath.Join(checkout, "examples/python/fanout.py")
			return o.words([]string{python, script, "--kubeconfig", o.Kubeconfig, "-n", o.Namespace, "-c", strconv.Itoa(o.Count),
				"-t", o.seconds()})
		}},
	}
}

// words adds what the shell script and the Python program take alike.
func (o Options) words(args []string) []string {
	if o.Quiet {
		args = append(args, "-q")
	}
	args = append(args, o.Pool)
	if o.Script != "" {
		args = append(args, o.Script)
	}
	return args
}

func (o Options) seconds() string { return strconv.Itoa(int(o.Timeout.Seconds())) }

// findPython finds a Python with the official client, or says why there is none.
func findPython(t *testing.T, checkout string) (path, missing string) {
	t.Helper()
	find := exec.CommandContext(t.Context(), filepath.Join(checkout, "hack/test/python.sh"))
	out, err := find.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return "", "SKIP the example in Python: " + lastLine(string(exit.Stderr))
	}
	if err != nil {
		t.Fatalf("find a Python: %v", err)
	}
	return strings.TrimSpace(string(out)), ""
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// MustBeThere skips the test where the example's language isn't.
func (f Fanout) MustBeThere(t *testing.T) {
	t.Helper()
	if f.missing != "" {
		t.Skip(f.missing)
	}
}

// Run runs the example to its end, or until it has obeyed the SIGTERM that it gets when ctx is done.
func (f Fanout) Run(ctx context.Context, t *testing.T, o Options) Outcome {
	t.Helper()
	f.MustBeThere(t)
	args := f.args(o)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" { // its kubectl is as old as the API server
		cmd.Env = append(os.Environ(), "PATH="+assets+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatalf("run %q: %v", args, err)
	}
	return Outcome{Out: out.String(), Complaint: complaint.String(), Code: cmd.ProcessState.ExitCode()}
}

// Line is what a fanout prints of one index.
func Line(index, result, output string) string {
	return fmt.Sprintf("%-5s  %-14s  %s\n", index, result, output)
}
