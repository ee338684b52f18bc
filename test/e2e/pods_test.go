// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"opensandbox.io/controller/api/v1alpha1"
)

// otherPod is a batch of one pod with this spec, whose task says where it runs.
func otherPod(spec string) string {
	return fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: other}
spec:
  replicas: 1
  template:
    spec:
      terminationGracePeriodSeconds: 1
      %s
  taskTemplate:
    spec:
      process: {command: ["sh", "-c", "echo ran > /tmp/mark"]}
`, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n      "))
}

func TestATaskRunsInTheContainerThatThePodMarksOrSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	const containers = `
shareProcessNamespace: true
containers:
- {name: first, image: "ubuntu:latest", command: ["sleep", "3600"]%s}
- {name: second, image: "ubuntu:latest", command: ["sleep", "3600"]%s}
- name: task-executor
  image: %s
  securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
`
	marked := func(container string) string {
		return fmt.Sprintf(", env: [{name: %s, value: %s}]", v1alpha1.MainContainerEnv, container)
	}
	for name, c := range map[string]struct {
		first, second string
		want          string // a container; empty: an error
	}{
		"the second is marked": {second: marked("second"), want: "second"},
		"none is marked":       {},
		"both are marked":      {first: marked("first"), second: marked("second")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.createYAML(otherPod(fmt.Sprintf(containers, c.first, c.second, s.executorImage)))
			if c.want == "" {
				got := s.failure("other")
				if got.Reason != v1alpha1.TaskReasonStartError || !strings.Contains(got.Message, v1alpha1.MainContainerEnv) {
					t.Errorf("it failed with %+v, want %s with a message that names %s", got, v1alpha1.TaskReasonStartError, v1alpha1.MainContainerEnv)
				}
			} else if sb := s.ended("other", 1); sb.Status.TaskSucceed != 1 {
				t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
			}
			for _, container := range []string{"first", "second", v1alpha1.TaskExecutorContainer} {
				want := "absent"
				if container == c.want {
					want = "ran"
				}
				if got := s.mustSh("other-0", container, "cat /tmp/mark 2>/dev/null || echo absent"); got != want {
					t.Errorf("the task's file in %s says %q, want %q", container, got, want)
				}
			}
		})
	}
}

func TestAnExecutorThatIsThePodsOnlyContainerRunsTasksInItsOwn(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(otherPod(fmt.Sprintf(`
containers:
- {name: task-executor, image: %s}
`, s.executorImage)))
	if sb := s.ended("other", 1); sb.Status.TaskSucceed != 1 {
		t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
	}
	if got := s.mustSh("other-0", v1alpha1.TaskExecutorContainer, "cat /tmp/mark"); got != "ran" {
		t.Errorf("the task's file says %q, want \"ran\"", got)
	}
}

// Existing manifests have no container for the executor: they copy its binary into the sandbox's.
func TestAnExecutorThatTheSandboxStartsByItselfRunsTasksInTheSandbox(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(otherPod(fmt.Sprintf(`
initContainers:
- name: install
  image: %s
  command: ["cp", "/workspace/server", "/opt/opensandbox/task-executor"]
  volumeMounts: [{name: tools, mountPath: /opt/opensandbox}]
containers:
- name: sandbox-container
  image: ubuntu:latest
  command: ["sh", "-c", "/opt/opensandbox/task-executor -listen-addr=0.0.0.0:5758 -data-dir=/tmp/tasks -enable-sidecar-mode=false & exec sleep 3600"]
  volumeMounts: [{name: tools, mountPath: /opt/opensandbox}]
volumes:
- {name: tools, emptyDir: {}}
`, s.executorImage)))
	if sb := s.ended("other", 1); sb.Status.TaskSucceed != 1 {
		t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
	}
	if got := s.mustSh("other-0", sandboxContainer, "cat /tmp/mark"); got != "ran" {
		t.Errorf("the task's file says %q, want \"ran\"", got)
	}
}
