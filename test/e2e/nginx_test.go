// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestATaskRunsBesideNginxWithTheEnvironmentOfItsContainer(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: web}
spec:
  replicas: 1
  template:
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: sandbox-container
        image: nginx:latest
        env: [{name: COLOR, value: "light blue"}]
      - name: task-executor
        image: %s
        securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
  taskTemplate:
    spec:
      process:
        command: ["sh", "-c", '(%s) > /tmp/who']
`, s.executorImage, strings.ReplaceAll(identity, "\n", "; ")))
	if sb := s.ended("web", 1); sb.Status.TaskSucceed != 1 {
		t.Fatalf("the task failed: %+v", sb.Status.FailedTasks)
	}
	got := s.mustSh("web-0", sandboxContainer, "cat /tmp/who")
	want := s.mustSh("web-0", sandboxContainer, identity)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the task differs from a process of the sandbox container (-want +got):\n%s", diff)
	}
}
