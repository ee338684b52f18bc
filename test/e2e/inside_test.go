// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
)

// identity prints what a process is: user, groups, capabilities, umask, directory and environment but for what the
// shell and the executor add.
const identity = `id; pwd; umask; grep -E "^(Cap|NoNewPrivs|Groups)" /proc/self/status
env | grep -vE "^(_|PWD|OLDPWD|SHLVL|OPENSANDBOX_TASK_RUN)=" | sort`

// sysPtraceBit is the executor's own capability, as a bit of the sets in /proc/<pid>/status.
const sysPtraceBit = 1 << 19

func TestATaskRunsWithTheRightsAndTheEnvironmentOfTheSandboxContainer(t *testing.T) {
	t.Parallel()
	for name, securityContext := range map[string]string{
		"root":                    `{}`,
		"another user":            `{runAsUser: 1000, runAsGroup: 1001}`,
		"root with fewer rights":  `{capabilities: {drop: ["NET_RAW", "MKNOD"]}}`,
		"root with no new rights": `{allowPrivilegeEscalation: false}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			// The tool is there once the pod is Ready, and only the sandbox container's PATH leads to it.
			s.createYAML(fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: who}
spec:
  replicas: 1
  template:
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      securityContext: {supplementalGroups: [3000]}
      containers:
      - name: sandbox-container
        image: ubuntu:latest
        workingDir: /var/tmp
        command: ["sh", "-c", 'mkdir /tmp/tools && cp /bin/sh /tmp/tools/own-shell && exec sleep 3600']
        env:
        - {name: COLOR, value: "light blue"}
        - {name: PATH, value: "/tmp/tools:/usr/bin:/bin"}
        readinessProbe: {exec: {command: ["test", "-x", "/tmp/tools/own-shell"]}, periodSeconds: 1}
        securityContext: %s
      - name: task-executor
        image: %s
        env:
        - {name: EXECUTOR_ONLY, value: "not for tasks"}
        securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
  taskTemplate:
    spec:
      process:
        command: ["own-shell", "-c", '(%s) > /tmp/who']
        env:
        - {name: COLOR, value: "red"}
`, securityContext, s.executorImage, strings.ReplaceAll(identity, "\n", "; ")))
			if sb := s.ended("who", 1); sb.Status.TaskSucceed != 1 {
				t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
			}
			got := s.mustSh("who-0", sandboxContainer, "cat /tmp/who")
			// A process that the container runtime itself starts in the sandbox container is the measure.
			want := strings.Replace(s.mustSh("who-0", sandboxContainer, identity), "COLOR=light blue", "COLOR=red", 1)
			if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the task differs from a process of the sandbox container (-want +got):\n%s", diff)
			}
			for line := range strings.SplitSeq(got, "\n") {
				set, value, ok := strings.Cut(line, ":")
				var bits uint64
				if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &bits); ok && err == nil && strings.HasPrefix(set, "Cap") && bits&sysPtraceBit != 0 {
					t.Errorf("%s of the task has the executor's SYS_PTRACE", line)
				}
			}
			if !strings.Contains(got, "CapEff:") || !strings.Contains(got, "COLOR=red") {
				t.Errorf("the task did not tell what it is:\n%s", got)
			}
		})
	}
}

func TestAnExecutorThatMayNotEnterTheSandboxSaysSoAndRunsTheTaskNowhere(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: weak}
spec:
  replicas: 1
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
        securityContext: {runAsUser: 65532}
        volumeMounts: [{name: open, mountPath: /open}]
      volumes: [{name: open, emptyDir: {}}]
  taskTemplate:
    spec:
      process:
        command: ["/bin/sh", "-c", "echo escaped > /open/mark"]
`, s.executorImage))
	got := s.failure("weak")
	if got.Reason != v1alpha1.TaskReasonStartError || !strings.Contains(got.Message, "SYS_PTRACE") || !strings.Contains(got.Message, "denied") {
		t.Errorf("it failed with %+v, want %s with a message that names the refusal and the capability", got, v1alpha1.TaskReasonStartError)
	}
	// The executor itself could have written there.
	if files := s.mustSh("weak-0", v1alpha1.TaskExecutorContainer, "touch /open/reachable; ls /open"); files != "reachable" {
		t.Errorf("/open of the executor has %q: the task ran in the executor's container", files)
	}
}
