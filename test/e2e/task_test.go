// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// taskPod is a batch of one pod of a sandbox container and an executor, whose task runs a script in sh. Each string is a part
// of a YAML mapping in braces.
type taskPod struct {
	pod, sandbox, executor, script string
}

func (s *space) createTaskPod(name string, p taskPod) {
	s.t.Helper()
	s.createYAML(fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: %s}
spec:
  replicas: 1
  template:
    spec: {terminationGracePeriodSeconds: 1, %s
      containers: [
        {name: sandbox-container, image: "ubuntu:latest", %s},
        {name: task-executor, image: "%s", %s}
      ]}
  taskTemplate:
    spec:
      process: {command: ["sh", "-c", %q]}
`, name, p.pod, p.sandbox, s.executorImage, p.executor, p.script))
}

const (
	sharedProcesses = `shareProcessNamespace: true,`
	staysUp         = `command: ["sleep", "3600"]`
	mayEnter        = `securityContext: {capabilities: {add: ["SYS_PTRACE"]}}`
)

// Other than a main process that is killed, which the kubelet restarts at once, this one ends by itself, and in one case for good.
func TestATaskWhoseSandboxEndsByItselfEndsAsLost(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]string{"and is restarted": "Always", "for good": "Never"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.createTaskPod("short", taskPod{
				pod:      sharedProcesses + "restartPolicy: " + policy + ",",
				sandbox:  `command: ["sh", "-c", "until [ -e /tmp/run ]; do sleep 0.1; done; sleep 1; exit 0"]`,
				executor: mayEnter,
				script:   "echo begun; touch /tmp/run; exec sleep 1000",
			})
			if got := s.failure("short"); got.Reason != v1alpha1.TaskReasonSandboxLost {
				t.Errorf("it failed with %+v, want %s", got, v1alpha1.TaskReasonSandboxLost)
			}
		})
	}
}

func TestATaskThatCannotBeStartedWhereItShouldSaysWhyAndRunsNowhereElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pod  taskPod
		want []string // parts of the message
	}{
		"an executor of another user": {
			pod:  taskPod{pod: sharedProcesses, sandbox: staysUp, executor: `securityContext: {runAsUser: 65532}`},
			want: []string{"denied", "SYS_PTRACE"},
		},
		"an executor that is root without the capability, beside another user": {
			pod:  taskPod{pod: sharedProcesses, sandbox: staysUp + `, securityContext: {runAsUser: 1000}`, executor: `securityContext: {}`},
			want: []string{"denied", "SYS_PTRACE"},
		},
		"an executor that may look but not enter": {
			pod:  taskPod{pod: sharedProcesses, sandbox: staysUp, executor: `securityContext: {capabilities: {add: ["SYS_PTRACE"], drop: ["SYS_CHROOT"]}}`},
			want: []string{"enter the sandbox's root", "not permitted"},
		},
		"processes that are not shared": {
			pod:  taskPod{sandbox: staysUp, executor: mayEnter},
			want: []string{"shareProcessNamespace"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			// Both containers could be written to.
			c.pod.pod += `volumes: [{name: open, emptyDir: {}}],`
			c.pod.sandbox += `, volumeMounts: [{name: open, mountPath: /open}]`
			c.pod.executor += `, volumeMounts: [{name: open, mountPath: /open}]`
			c.pod.script = "echo escaped > /open/mark"
			s.createTaskPod("weak", c.pod)
			got := s.failure("weak")
			if got.Reason != v1alpha1.TaskReasonStartError {
				t.Errorf("it failed with %+v, want %s", got, v1alpha1.TaskReasonStartError)
			}
			for _, part := range c.want {
				if !strings.Contains(got.Message, part) {
					t.Errorf("the message %q lacks %q", got.Message, part)
				}
			}
			if files := s.mustSh("weak-0", v1alpha1.TaskExecutorContainer, "touch /open/reachable; ls /open"); files != "reachable" {
				t.Errorf("/open has %q: the task ran somewhere", files)
			}
		})
	}
}

func TestATaskThatFailsTellsHow(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	for _, c := range []struct {
		name, script string
		want         v1alpha1.FailedTask
	}{
		{"code", "echo oops >&2; exit 7", v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonNonZeroExit, ExitCode: new(int32(7)), Output: "oops"}},
		{"signal", "echo out; kill -SEGV $$", v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonNonZeroExit, ExitCode: new(int32(139)), Signal: 11, Output: "out"}},
		{"silent", "exec >&- 2>&-; exit 9", v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonNonZeroExit, ExitCode: new(int32(9))}},
	} {
		s.create(s.taskBatch(c.name, "one", "sh", "-c", c.script))
		got := s.failure(c.name)
		got.Message, got.Tries = "", 0
		c.want.Index = got.Index
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s failed otherwise (-want +got):\n%s", c.name, diff)
		}
		s.must(s.client.Delete(s.ctx, s.batch(c.name)))
	}
	s.create(s.taskBatch("missing", "one", "no-such-program"))
	if got := s.failure("missing"); got.Reason != v1alpha1.TaskReasonStartError || !strings.Contains(got.Message, "PATH") {
		t.Errorf("a program that isn't there failed with %+v, want %s", got, v1alpha1.TaskReasonStartError)
	}
}

func TestWhatATaskLeavesRunningLivesUntilItsSandboxIsGivenBack(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	s.create(s.taskBatch("boot", "one", "sh", "-c", "(setsid sleep 6666 &); sleep 7777 & exit 0"))
	if sb := s.ended("boot", 1); sb.Status.TaskSucceed != 1 {
		t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
	}
	pod := s.holders("boot")[0]
	daemons := []string{"sleep 6666", "sleep 7777"}
	if processes := s.mustSh(pod, sandboxContainer, "ps -eo args"); len(without(processes, daemons)) > 0 {
		t.Errorf("not all of %q live:\n%s", daemons, processes)
	}
	s.must(s.client.Delete(s.ctx, s.batch("boot")))
	s.gone("boot", &v1alpha1.BatchSandbox{})
	s.wantNone(pod, daemons...)
}

func TestTheOutputOfATaskIsInTheLogLineByLineAndItsFilesAreBounded(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.executorPod("one", "{}")
	c := s.executor("one")
	// 5 MiB that end with a known line, one line longer than any log keeps whole, and bytes that are no text.
	script := `echo to-out; echo to-err >&2
i=0; while [ $i -lt 5 ]; do head -c 1048576 /dev/zero | tr '\0' x | fold -w 1023; echo; i=$((i+1)); done
printf 'no text \377\376\033[31m here\n'; echo the-end`
	s.set(c, taskexecutor.Task{Name: "loud", Process: taskexecutor.Process{Command: []string{"sh", "-c", script}}})
	status := s.tasksAre(c, "it ended", func(status map[string]*taskexecutor.ProcessStatus) error {
		_, err := endOf(status, "loud")
		return err
	})
	end := status["loud"].Terminated
	if end.ExitCode != 0 || !strings.HasSuffix(end.Output, "no text [31m here\nthe-end") || len(end.Output) > 1024 {
		t.Errorf("it ended with code %d and %d bytes of output %q", end.ExitCode, len(end.Output), end.Output)
	}
	const dir = "/var/lib/sandbox/tasks/t-loud/"
	sizes := s.mustSh("one", v1alpha1.TaskExecutorContainer, "cd "+dir+" && for f in stdout.log stdout.log.1 stderr.log; do wc -c < $f; done")
	var out, older, errs int
	if _, err := fmt.Sscan(sizes, &out, &older, &errs); err != nil {
		t.Fatalf("sizes %q: %v", sizes, err)
	}
	if total := out + older; total > 1<<20 || total < 1<<19 || errs != len("to-err\n") {
		t.Errorf("the files have %d, %d and %d bytes, want at most 1 MiB of one stream, at least half of it, and all of the other", out, older, errs)
	}
	if last := s.mustSh("one", v1alpha1.TaskExecutorContainer, "tail -n 1 "+dir+"stdout.log"); last != "the-end" {
		t.Errorf("the file ends with %q, want the end of the output", last)
	}
	s.eventually("the log has the output", func() error {
		log := s.kubectl("logs", "one", "-c", v1alpha1.TaskExecutorContainer)
		var missing []error
		for _, line := range []string{"task=loud stream=stdout | to-out\n", "task=loud stream=stderr | to-err\n", "task=loud stream=stdout | the-end\n"} {
			if !strings.Contains(log, line) {
				missing = append(missing, fmt.Errorf("no line %q in %d bytes", line, len(log)))
			}
		}
		return errors.Join(missing...)
	})
}

func TestTheKernelEndsATaskBeforeItsExecutorWhenMemoryIsShort(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const some = `resources: {requests: {memory: 64Mi}, limits: {memory: 128Mi}}`
	s.createTaskPod("tight", taskPod{
		pod: sharedProcesses, sandbox: staysUp, executor: mayEnter + ", " + some,
		script: "cat /proc/self/oom_score_adj /proc/$(pgrep -x task-executor)/oom_score_adj",
	})
	s.batchIs("tight", "has succeeded", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskSucceed == 1 })
	var scores []int
	for line := range strings.Lines(s.kubectl("logs", "tight-0", "-c", v1alpha1.TaskExecutorContainer)) {
		if _, text, ok := strings.Cut(strings.TrimSpace(line), " stream=stdout | "); ok {
			n, err := strconv.Atoi(text)
			s.must(err)
			scores = append(scores, n)
		}
	}
	if len(scores) != 2 || scores[0] <= scores[1] {
		t.Errorf("oom_score_adj of the task and of its executor are %v, want the task's to be higher", scores)
	}
}
