// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
)

// apply applies a sample word for word; only the executor's image may be another one.
func (s *space) apply(sample string) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join("../../config/samples", sample))
	s.must(err)
	file := filepath.Join(s.t.TempDir(), sample)
	s.must(os.WriteFile(file, []byte(strings.ReplaceAll(string(data), "image: "+defaultExecutor, "image: "+s.executorImage)), 0o600))
	s.kubectl("apply", "-f", file)
}

// wantEndpoints checks that the batch tells the address of each of its pods, in their order.
func (s *space) wantEndpoints(batch string, pods []string) {
	s.t.Helper()
	var got, want []string
	s.must(json.Unmarshal([]byte(s.batch(batch).Annotations[v1alpha1.EndpointsAnnotation]), &got))
	for _, pod := range pods {
		want = append(want, s.pod(pod).Status.PodIP)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("endpoints of %s (-want +got):\n%s", batch, diff)
	}
	for _, ip := range got {
		if net.ParseIP(ip) == nil {
			s.t.Errorf("endpoint %q of %s is no address", ip, batch)
		}
	}
}

func (s *space) wantColumns(kind string, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.columns(kind)); diff != "" {
		s.t.Errorf("columns of kubectl get %s -o wide (-want +got):\n%s", kind, diff)
	}
}

func TestTheBasicSampleMakesTwoSandboxesThatServe(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply("basic-batch.yaml")
	s.delivered("basic-batch-sandbox", 2)
	pods := []string{"basic-batch-sandbox-0", "basic-batch-sandbox-1"}
	s.wantEndpoints("basic-batch-sandbox", pods)
	s.wantColumns("batchsandbox", "NAME", "DESIRED", "TOTAL", "ALLOCATED", "READY",
		"TASK_RUNNING", "TASK_SUCCEED", "TASK_FAILED", "TASK_UNKNOWN", "EXPIRE", "AGE")
	for _, pod := range pods {
		if got := s.mustSh(pod, sandboxContainer, "cat /proc/1/comm"); got != "nginx" {
			t.Errorf("%s runs %q, want nginx", pod, got)
		}
	}

	s.kubectl("delete", "batchsandbox", "basic-batch-sandbox", "--timeout=60s")
	for _, pod := range pods {
		s.podGone(pod)
	}
}

func TestTheShardPatchSampleMakesTwoDifferentSandboxes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply("shard-patch-batch.yaml")
	s.delivered("shard-patch-batch-sandbox", 2)
	if got := s.pod("shard-patch-batch-sandbox-0").Labels["example.com/role"]; got != "leader" {
		t.Errorf("the first pod's label says %q, want leader", got)
	}
	for pod, want := range map[string]string{"shard-patch-batch-sandbox-0": "leader", "shard-patch-batch-sandbox-1": "worker"} {
		if got := s.mustSh(pod, sandboxContainer, "echo $ROLE"); got != want {
			t.Errorf("ROLE in %s is %q, want %q", pod, got, want)
		}
	}
	if got := s.kubectl("get", "batchsandbox"); !strings.Contains(got, "2099-12-31T23:59:59Z") {
		t.Errorf("EXPIRE should say when:\n%s", got)
	}
}

func TestThePoolSamplesDeliverWarmSandboxesAndGetThemBack(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply("pool.yaml")
	s.poolIs("example-pool", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available >= 5 && p.Starting == 0 })
	s.wantColumns("pool", "NAME", "TOTAL", "ALLOCATED", "AVAILABLE", "UPDATED", "STARTING", "WAITING", "REVISION", "AGE")

	s.apply("pooled-batch.yaml")
	s.delivered("pooled-batch-sandbox", 3)
	pods := s.holders("pooled-batch-sandbox")
	if len(pods) != 3 {
		t.Fatalf("the batch holds %q, want 3 pods", pods)
	}
	s.wantEndpoints("pooled-batch-sandbox", pods)
	for _, pod := range pods {
		if s.pod(pod).Labels[v1alpha1.PoolNameLabel] != "example-pool" {
			t.Errorf("%s is not of the pool", pod)
		}
	}
	s.poolIs("example-pool", "has 3 allocated", func(p v1alpha1.PoolStatus) bool { return p.Allocated == 3 })

	s.kubectl("delete", "batchsandbox", "pooled-batch-sandbox", "--timeout=60s")
	s.poolIs("example-pool", "is warm again", func(p v1alpha1.PoolStatus) bool {
		return p.Allocated == 0 && p.Available >= 5 && p.Starting == 0
	})
}

func TestTheTaskSamplesRunTwoDifferentTasksInsideTheirSandboxes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply("task-pool.yaml")
	s.poolIs("task-example-pool", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available >= 2 })
	s.apply("task-batch.yaml")
	s.kubectl("wait", "--for=condition=TasksCompleted", "batchsandbox/task-batch-sandbox", "--timeout=60s")

	sb := s.batch("task-batch-sandbox")
	if sb.Status.TaskSucceed != 2 || sb.Status.CompletedIndexes != "0-1" {
		t.Fatalf("want 2 tasks that succeeded, got %+v", sb.Status)
	}
	rows := strings.Fields(s.kubectl("get", "batchsandbox", "-o", "wide", "--no-headers"))
	if want := []string{"task-batch-sandbox", "2", "2", "2", "2", "0", "2", "0", "0"}; len(rows) < len(want) || !cmp.Equal(want, rows[:len(want)]) {
		t.Errorf("kubectl get -o wide shows %q, want it to begin with %q", rows, want)
	}
	pods := s.holders("task-batch-sandbox")
	if got := s.mustSh(pods[0], sandboxContainer, "cat /tmp/result"); got != "hello from 0" {
		t.Errorf("/tmp/result in the sandbox says %q, want \"hello from 0\"", got)
	}
	if got := s.mustSh(pods[0], v1alpha1.TaskExecutorContainer, "ls /tmp/result 2>/dev/null || echo absent"); got != "absent" {
		t.Errorf("/tmp/result is in the executor's container: the task ran outside of its sandbox (%s)", got)
	}
	if got := s.mustSh(pods[1], sandboxContainer, "ls /tmp/result 2>/dev/null || echo absent"); got != "absent" {
		t.Errorf("/tmp/result of the first task is in the second sandbox too (%s)", got)
	}
	if log := s.kubectl("logs", pods[1], "-c", v1alpha1.TaskExecutorContainer); !strings.Contains(log, "Custom task for sandbox 1 with additional arguments") {
		t.Errorf("the second task's output is not in the executor's log:\n%s", log)
	}

	s.kubectl("delete", "batchsandbox", "task-batch-sandbox", "--timeout=60s")
	s.poolIs("task-example-pool", "is warm again", func(p v1alpha1.PoolStatus) bool { return p.Allocated == 0 && p.Available >= 2 })
}
