// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
)

// ran is what became of a command line.
type ran struct {
	out, errOut string
	code        int
	took        time.Duration
}

func (r ran) String() string {
	return fmt.Sprintf("exit code %d after %v\nstdout: %s\nstderr: %s", r.code, r.took, r.out, r.errOut)
}

// pluginCommand is `kubectl sandbox` in the test's namespace, with the plugin that make build made.
func (s *space) pluginCommand(ctx context.Context, args ...string) *exec.Cmd {
	s.t.Helper()
	bin, err := filepath.Abs("../../bin")
	s.must(err)
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"sandbox", "-n", s.name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	return cmd
}

// plugin runs `kubectl sandbox` to its end.
func (s *space) plugin(args ...string) ran {
	s.t.Helper()
	cmd := s.pluginCommand(s.ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start).Round(time.Millisecond)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return ran{out: out.String(), errOut: errOut.String(), code: cmd.ProcessState.ExitCode(), took: took}
}

// warmPool makes a pool of so many pods with a task-executor, and waits until they are warm.
func (s *space) warmPool(name string, size int32) {
	s.t.Helper()
	s.createYAML(fmt.Sprintf(`
kind: Pool
metadata: {name: %s}
spec:
  template:
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: sandbox-container
        image: ubuntu:latest
        command: ["sleep", "3600"]
      - name: task-executor
        image: %s
        securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
  capacitySpec: {bufferMin: 0, bufferMax: %d, poolMin: %d, poolMax: %d}
  recycleStrategy: {type: Noop}
`, name, s.executorImage, size, size, size))
	s.poolWarm(name, size)
}

func (s *space) poolWarm(name string, size int32) {
	s.t.Helper()
	s.poolIs(name, "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == size })
}

// Not parallel: it takes times, and the first has a bound.
func TestRunPrintsTheOutputOfATaskAndEndsWithItsExitCode(t *testing.T) {
	s := newSpace(t)
	s.warmPool("small", 2)
	numbers := ""
	for i := range 20000 {
		numbers += fmt.Sprintln(i + 1)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		out    string
		code   int
		errOut []string
		within time.Duration
	}{
		{name: "hi", args: []string{"--", "echo", "hi"}, out: "hi\n", within: 2 * time.Second},
		{name: "false", args: []string{"--", "false"}, code: 1, errOut: []string{"index 0 failed", "NonZeroExit", "exit code 1"}},
		{name: "much output, none of it lost or doubled", args: []string{"--", "seq", "20000"}, out: numbers},
		{
			name: "settings", args: []string{"--env", "A=b c", "--workdir", "/tmp", "--", "sh", "-c", `echo "$A" in $PWD; echo oops >&2; exit 7`},
			out: "b c in /tmp\n", code: 7, errOut: []string{"oops\n", "exit code 7"},
		},
		{name: "a timeout", args: []string{"--timeout", "1s", "--", "sleep", "60"}, code: 143, errOut: []string{"TimedOut"}},
		{name: "no such command", args: []string{"--", "/no/such"}, code: 1, errOut: []string{"StartError", "/no/such"}},
		{
			name: "two sandboxes", args: []string{"--replicas", "2", "--", "sh", "-c", "echo out; echo err >&2; exit 3"},
			code: 3, errOut: []string{"[0] err\n", "[1] err\n", "2 of 2 tasks failed", "index 1: NonZeroExit (exit code 3)"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.poolWarm("small", 2)
			got := s.plugin(append([]string{"run", "--pool", "small"}, tc.args...)...)
			t.Logf("took %v", got.took)
			if got.code != tc.code || (tc.out != "" && got.out != tc.out) {
				t.Fatalf("want exit code %d, and stdout of %d bytes: %.2000s", tc.code, len(tc.out), got)
			}
			for _, part := range tc.errOut {
				if !strings.Contains(got.errOut, part) {
					t.Errorf("stderr has no %q: %s", part, got)
				}
			}
			if tc.within > 0 && got.took > tc.within {
				t.Errorf("it took longer than %v: %s", tc.within, got)
			}
		})
	}
	var left v1alpha1.BatchSandboxList
	s.eventually("every batch is deleted", func() error {
		s.must(s.client.List(s.ctx, &left))
		for i := range left.Items {
			if left.Items[i].Namespace == s.name {
				return fmt.Errorf("%s is left", left.Items[i].Name)
			}
		}
		return nil
	})
}

func TestRunThatIsInterruptedDeletesItsBatch(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cmd := s.pluginCommand(s.ctx, "run", "long", "--image", "ubuntu:latest", "--executor-image", s.executorImage, "--", "sh", "-c", "echo begun; exec sleep 1000")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if string(buf[:n]) != "begun\n" {
		t.Fatalf("it printed %q (%v), and %s", buf[:n], err, errOut.String())
	}
	s.must(cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait() // the code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(errOut.String(), "interrupted: deleting batchsandbox long") {
		t.Errorf("exit code %d, stderr %s", code, errOut.String())
	}
	s.gone("long", &v1alpha1.BatchSandbox{})
}
