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
	"testing"
	"time"
)

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
	Name string
	args func(Options) []string
}

// Fanouts are the examples in their languages, ready to run. One whose language is not there is skipped, with its reason, when
// it is run.
func Fanouts(t *testing.T, checkout string) []Fanout {
	t.Helper()
	program := filepath.Join(t.TempDir(), "fanout")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/go/fanout")
	build.Dir = checkout
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
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
			return o.words([]string{script, "-k", o.Kubeconfig, "-n", o.Namespace, "-c", strconv.Itoa(o.Count), "-t", o.Timeout.String()})
		}},
		{Name: "python", args: func(o Options) []string {
			script := filepath.Join(checkout, "examples/python/fanout.py")
			return o.words([]string{python(t, checkout), script, "--kubeconfig", o.Kubeconfig, "-n", o.Namespace, "-c", strconv.Itoa(o.Count),
				"-t", fmt.Sprint(o.Timeout.Seconds())})
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

// python is a Python with the official client. The test is skipped where there is none.
func python(t *testing.T, checkout string) string {
	t.Helper()
	find := exec.CommandContext(t.Context(), filepath.Join(checkout, "hack/test/python.sh"))
	path, err := find.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skip("SKIP the example in Python: " + lastLine(string(exit.Stderr)))
	}
	if err != nil {
		t.Fatalf("find a Python: %v", err)
	}
	return strings.TrimSpace(string(path))
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Run runs the example to its end.
func (f Fanout) Run(ctx context.Context, t *testing.T, o Options) Outcome {
	t.Helper()
	args := f.args(o)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" { // its kubectl is as old as the API server
		cmd.Env = append(os.Environ(), "PATH="+assets+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %q: %v", args, err)
	}
	return Outcome{Out: out.String(), Complaint: complaint.String(), Code: cmd.ProcessState.ExitCode()}
}

// Line is what a fanout prints of one index.
func Line(index, result, output string) string {
	return fmt.Sprintf("%-5s  %-14s  %s\n", index, result, output)
}
