// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// Simulated nodes serve no logs, so that these are also tests of a plugin that can't read them.

// plugin starts `kubectl sandbox` in the test's namespace.
func (s *space) plugin(args ...string) (cmd *exec.Cmd, out, errOut *logBuffer) {
	s.t.Helper()
	cmd = exec.CommandContext(s.ctx, filepath.Join(s.bin, "kubectl-sandbox"), append([]string{"-n", s.name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig)
	out, errOut = &logBuffer{}, &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, errOut
	s.must(cmd.Start())
	return cmd, out, errOut
}

// pluginEnds waits for the end of the plugin, and returns its exit code.
func (s *space) pluginEnds(cmd *exec.Cmd) int {
	s.t.Helper()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestRunEndsWithTheExitCodeOfItsTasksAndTellsTheirLastLinesWhereLogsCannotBeRead(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 2))
	for _, tc := range []struct {
		args   []string
		code   int
		errOut []string
	}{
		{[]string{"--", "true"}, 0, []string{"the output of index 0 may be incomplete: "}},
		{[]string{"--", "sh", "-c", "echo the last words; exit 7"}, 7, []string{"error: index 0 failed: NonZeroExit (exit code 7)\n    | the last words\n"}},
		{[]string{"--replicas=2", "--", "sh", "-c", "exit 3"}, 3, []string{"error: 2 of 2 tasks failed:\n  index 0: NonZeroExit (exit code 3)\n  index 1: NonZeroExit (exit code 3)\n"}},
	} {
		s.idle("p", 2)
		cmd, out, errOut := s.plugin(append([]string{"run", "--pool=p"}, tc.args...)...)
		code := s.pluginEnds(cmd)
		if code != tc.code || out.String() != "" {
			t.Errorf("%v: exit code %d, want %d; it printed %q and %q", tc.args, code, tc.code, out, errOut)
		}
		for _, part := range tc.errOut {
			if !strings.Contains(errOut.String(), part) {
				t.Errorf("%v: stderr has no %q: %s", tc.args, part, errOut)
			}
		}
	}
	eventually(t, "every batch is deleted", func() error {
		var left v1alpha1.BatchSandboxList
		s.must(s.client.List(s.ctx, &left))
		for i := range left.Items {
			if left.Items[i].Namespace == s.name {
				return fmt.Errorf("%s is left", left.Items[i].Name)
			}
		}
		return nil
	})
}

func TestRunThatWaitsSaysWhatForAndDeletesItsBatchWhenItIsInterrupted(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	pool := taskPool("p", 1)
	pool.Spec.CapacitySpec = v1alpha1.CapacitySpec{PoolMin: 1, PoolMax: 1, BufferMax: 1}
	s.create(pool)
	s.create(makeBatch("first", "p", 1))
	s.delivered("first", 1)
	cmd, _, errOut := s.plugin("run", "second", "--pool=p", "--ttl=1h", "--", "true")
	eventually(t, "it says that it waits", func() error {
		if !strings.Contains(errOut.String(), "batchsandbox second: waiting for pods of Pool p (place 1 in the queue, 1 sandboxes are wanted in all)\n") {
			return fmt.Errorf("stderr %q", errOut)
		}
		return nil
	})
	if ttl := s.batch("second").Spec.TTLSecondsAfterFinished; ttl == nil || *ttl != 3600 {
		t.Errorf("ttlSecondsAfterFinished is %v", ttl)
	}
	s.must(cmd.Process.Signal(syscall.SIGINT))
	if code := s.pluginEnds(cmd); code != 130 || !strings.HasSuffix(errOut.String(), "interrupted: deleting batchsandbox second\n") {
		t.Errorf("exit code %d, stderr %s", code, errOut)
	}
	s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "second"}})
}

func TestRunThatCannotEverRunSaysWhyAtOnce(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	cmd, _, errOut := s.plugin("run", "lost", "--pool=nowhere", "--", "true")
	if code := s.pluginEnds(cmd); code != 1 || !strings.Contains(errOut.String(), "error: batchsandbox lost can't run: PoolNotFound: ") {
		t.Errorf("exit code %d, stderr %s", code, errOut)
	}
	s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "lost"}})

	s.create(makeBatch("taken", "nowhere", 1))
	cmd, _, errOut = s.plugin("run", "taken", "--pool=nowhere", "--", "true")
	if code := s.pluginEnds(cmd); code != 1 || errOut.String() != "error: batchsandbox taken exists already: choose another name, or none to have one made up\n" {
		t.Errorf("exit code %d, stderr %s", code, errOut)
	}
	s.batch("taken") // it is somebody else's
}
