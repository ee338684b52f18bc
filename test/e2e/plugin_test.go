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

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	s.createYAML(s.fixedPool(name, size))
	s.poolWarm(name, size)
}

func (s *space) poolWarm(name string, size int32) {
	s.t.Helper()
	s.poolIs(name, "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == size })
}

// allow gives a user rights in the test's namespace, and no others.
func (s *space) allow(user string, rules ...rbacv1.PolicyRule) {
	s.t.Helper()
	s.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules})
	s.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
}

// Not parallel: it takes times, and one of them has a bound.
func TestRunPrintsTheOutputOfATaskAndEndsWithItsExitCode(t *testing.T) {
	s := newSpace(t)
	s.warmPool("small", 2)
	s.allow("runner",
		rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"batchsandboxes"}, Verbs: []string{"create", "get", "watch", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}})
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
	}{
		{name: "hi", args: []string{"--", "echo", "hi"}, out: "hi\n"},
		{name: "false", args: []string{"--", "false"}, code: 1, errOut: []string{"index 0 failed", "NonZeroExit", "exit code 1"}},
		{name: "much output, none of it lost or doubled", args: []string{"--", "seq", "20000"}, out: numbers},
		{
			name: "settings", args: []string{"--env", "A=b c", "--workdir", "/tmp", "--", "sh", "-c", `echo "$A" in $PWD; echo oops >&2; exit 7`},
			out: "b c in /tmp\n", code: 7, errOut: []string{"oops\n", "exit code 7"},
		},
		{name: "a timeout", args: []string{"--timeout", "1s", "--", "sleep", "60"}, code: 143, errOut: []string{"TimedOut"}},
		{name: "no such command", args: []string{"--", "/no/such"}, code: 1, errOut: []string{"StartError", "/no/such"}},
		{
			name: "each its index", args: []string{"--replicas", "2", "--", "sh", "-c", "exit $((40 + JOB_COMPLETION_INDEX))"},
			code: 40, errOut: []string{"index 0: NonZeroExit (exit code 40)", "index 1: NonZeroExit (exit code 41)"},
		},
		{
			name: "two sandboxes", args: []string{"--replicas", "2", "--", "sh", "-c", "echo out; echo err >&2; exit 3"},
			code: 3, errOut: []string{"[0] err\n", "[1] err\n", "2 of 2 tasks failed", "index 1: NonZeroExit (exit code 3)"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.poolWarm("small", 2)
			got := s.plugin(append([]string{"run", "--as", "runner", "--pool", "small"}, tc.args...)...)
			t.Logf("took %v", got.took)
			if got.code != tc.code || (tc.out != "" && got.out != tc.out) {
				t.Fatalf("want exit code %d, and stdout of %d bytes: %.2000s", tc.code, len(tc.out), got)
			}
			for _, part := range tc.errOut {
				if !strings.Contains(got.errOut, part) {
					t.Errorf("stderr has no %q: %s", part, got)
				}
			}
		})
	}
	t.Run("hi, within two seconds on a machine that is busy now and then", func(t *testing.T) {
		for try := 1; ; try++ {
			s.poolWarm("small", 2)
			got := s.plugin("run", "--as", "runner", "--pool", "small", "--", "echo", "hi")
			if t.Logf("took %v", got.took); got.took <= 2*time.Second || try == 5 {
				if got.took > 2*time.Second || got.code != 0 || got.out != "hi\n" {
					t.Errorf("never within 2 s, the last time: %s", got)
				}
				return
			}
		}
	})
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

func TestOutputResultsAndShellsOfABatchAreShownByThePlugin(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.warmPool("small", 3)
	s.createYAML(`
kind: BatchSandbox
metadata: {name: three}
spec:
  replicas: 3
  poolRef: small
  expireTime: "2100-01-01T00:00:00Z"
  taskTemplate: {spec: {process: {command: ["sh", "-c", "echo one; echo two >&2; touch /tmp/here"]}}}
  shardTaskPatches:
  - {}
  - {spec: {backoffLimit: 1, process: {command: ["sh", "-c", "echo down; exit 4"]}}}
`)
	waited := s.plugin("results", "three", "--wait")
	if waited.code != 0 || waited.errOut != "" {
		t.Fatalf("results: %s", waited)
	}
	var rows []string
	for line := range strings.Lines(waited.out) {
		rows = append(rows, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"INDEX STATE EXIT REASON TRIES LAST LINE", "0 Succeeded 0 1 two", "1 Failed 4 NonZeroExit 2 down", "2 Succeeded 0 1 two"}
	for i, row := range want {
		if i >= len(rows) || (rows[i] != row && rows[i] != strings.ReplaceAll(row, "1 two", "1 one")) { // two streams, two ways
			t.Errorf("row %d is not %q: %s", i, row, waited)
		}
	}
	for _, tc := range []struct {
		args   string
		out    string
		errOut string
		code   int
	}{
		{args: "logs three", out: "[0] one\n[1] down\n[1] down\n[2] one\n", errOut: "[0] two\n[2] two\n"},
		{args: "logs three -f --index 1", out: "down\ndown\n"},
		{args: "logs three --failed --tail 1", out: "[1] down\n"},
		{args: "logs three --index 3", errOut: "error: batchsandbox three has no index 3: its indexes are 0 to 2\n", code: 1},
		{args: "logs nobody", errOut: "Error from server (NotFound): batchsandboxes.sandbox.opensandbox.io \"nobody\" not found\n", code: 1},
		{args: "exec three --index 2 -- sh -c ls${IFS}/tmp;exit${IFS}5", out: "here\n", errOut: "command terminated with exit code 5\n", code: 5},
		{args: "exec three -- cat /tmp/here", out: ""},
		{args: "exec three -c nobody -- ls", errOut: "has no container nobody: it has sandbox-container, task-executor\n", code: 1},
		{args: "extend three --until 2100-01-02T00:00:00Z", out: "batchsandbox.sandbox.opensandbox.io/three expires at 2100-01-02T00:00:00Z, in "},
		{args: "extend three --by 24h", out: "batchsandbox.sandbox.opensandbox.io/three expires at 2100-01-03T00:00:00Z, in "},
		{args: "extend three --never", out: "batchsandbox.sandbox.opensandbox.io/three never expires\n"},
		{args: "extend three --by 1h", errOut: "error: batchsandbox three: has no expireTime, so it lives until somebody deletes it: give it an end with --until\n", code: 1},
		{args: "scale three --replicas 4", out: "batchsandbox.sandbox.opensandbox.io/three scaled\n"},
	} {
		got := s.plugin(strings.Fields(tc.args)...)
		if got.code != tc.code || !strings.HasPrefix(got.out, tc.out) || !strings.HasSuffix(got.errOut, tc.errOut) {
			t.Errorf("%s: want exit code %d, %q, %q, and it was: %s", tc.args, tc.code, tc.out, tc.errOut, got)
		}
	}
	s.hasATerminalOfItsSize("three")
	// The pool has three, so the fourth waits.
	s.batchIs("three", "waits for a fourth", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.Queue != nil || sb.Status.TaskPending == 1 })
	got := s.plugin("exec", "three", "--index", "3", "--", "ls")
	if got.code != 1 || !strings.Contains(got.errOut, "index 3 of batchsandbox three has no sandbox yet: ") {
		t.Errorf("exec in what isn't there yet: %s", got)
	}
}

// hasATerminalOfItsSize gives exec -it a terminal, and looks whether the other end has one of its size.
func (s *space) hasATerminalOfItsSize(batch string) {
	s.t.Helper()
	inside := `for i in $(seq 100); do [ "$(stty size)" = "40 100" ] && echo as wide && exit; sleep 0.1; done; stty size`
	line := fmt.Sprintf("stty rows 40 cols 100; kubectl sandbox -n %s exec %s -it -- sh -c '%s'", s.name, batch, inside)
	cmd := exec.CommandContext(s.ctx, "script", "-qec", line, "/dev/null")
	cmd.Env = s.pluginCommand(s.ctx).Env
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "as wide\r\n") {
		s.t.Errorf("exec -it: %v, %q", err, out)
	}
}

func TestOutputOfAPodThatIsGoneIsShownFromTheStatus(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.warmPool("small", 1)
	sb := s.taskBatch("brief", "small", "sh", "-c", "echo last words; exit 3")
	release := v1alpha1.TaskResourcePolicyRelease
	sb.Spec.TaskResourcePolicyWhenCompleted = &release
	s.create(sb)
	s.failure("brief")
	s.batchIs("brief", "has given its sandbox back", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.Replicas == 0 })
	got := s.plugin("logs", "brief", "--index", "0")
	if got.code != 0 || got.out != "last words\n" || !strings.Contains(got.errOut, "The pod of index 0 is gone. The batch's status has the last lines of its task:\n") {
		t.Errorf("logs: %s", got)
	}
	got = s.plugin("results", "brief", "-o", "json")
	if got.code != 0 || !strings.Contains(got.out, `"exitCode": 3`) || !strings.Contains(got.out, `"output": "last words"`) {
		t.Errorf("results: %s", got)
	}
	got = s.plugin("exec", "brief", "--", "ls")
	if got.code != 1 || !strings.Contains(got.errOut, "has no sandbox any more: its task ended (see kubectl sandbox results brief)") {
		t.Errorf("exec: %s", got)
	}
}
