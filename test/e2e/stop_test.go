// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
)

// letGoTime bounds the deletion of a batch whose tasks run, from the request until the finalizers are gone.
const letGoTime = 15 * time.Second

// onePod is a pool of exactly one pod, which is handed on as it is.
func (s *space) onePod(name string) string { return s.fixedPool(name, 1) }

// fixedPool is a pool of exactly so many pods, which are handed on as they are.
func (s *space) fixedPool(name string, size int32) string {
	return fmt.Sprintf(`
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
  capacitySpec: {bufferMin: 0, bufferMax: %[3]d, poolMin: %[3]d, poolMax: %[3]d}
  recycleStrategy: {type: Noop}
`, name, s.executorImage, size)
}

// Where a second batch waits for the only pod of the pool, its task is started the moment the pod is handed on, and lists
// the processes there. That would stop the first batch's task too, for an executor has one set of tasks: the other case
// waits until the pool calls the pod available, and then looks.
func TestADeletedBatchsProcessesAreGoneBeforeItsSandboxIsHandedOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		// traces are parts of the command lines of the processes that the script becomes.
		traces []string
		// next: a second batch waits.
		next bool
	}{
		"a task that sleeps": {
			script: "exec sleep 1000",
			traces: []string{"sleep 1000"},
		},
		"a task that ignores SIGTERM, with a child in a session of its own and an orphan that do too": {
			script: `trap "" TERM; (setsid sleep 2000 &); setsid sh -c "trap : TERM; while :; do sleep 3000; done" & while :; do sleep 1000; done`,
			traces: []string{"sleep 1000", "sleep 2000", "sleep 3000"},
			next:   true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.createYAML(s.onePod("one"))
			s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
			s.create(s.taskBatch("first", "one", "sh", "-c", c.script))
			s.batchIs("first", "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
			pod := s.holders("first")[0]
			s.eventually("all processes of the task run", func() error {
				processes, err := s.sh(pod, sandboxContainer, "ps -eo args")
				if missing := without(processes, c.traces); err != nil || len(missing) > 0 {
					return fmt.Errorf("%q are missing (%w) of\n%s", missing, err, processes)
				}
				return nil
			})
			if c.next {
				s.create(s.taskBatch("second", "one", "sh", "-c", "ps -eo args > /tmp/processes"))
			}

			s.must(s.client.Delete(s.ctx, s.batch("first")))
			if took := s.gone("first", &v1alpha1.BatchSandbox{}); took > letGoTime {
				t.Errorf("the finalizers were gone after %v, want at most %v", took, letGoTime)
			}
			list := "ps -eo args"
			if c.next {
				if sb := s.ended("second", 1); sb.Status.TaskSucceed != 1 {
					t.Fatalf("the second batch's task failed: %+v", sb.Status)
				}
				if next := s.holders("second")[0]; next != pod {
					t.Fatalf("the second batch got pod %s, want %s, the first one's", next, pod)
				}
				list = "cat /tmp/processes"
			}
			s.poolIs("one", "has its pod", func(p v1alpha1.PoolStatus) bool { return c.next || p.Available == 1 })
			processes := s.mustSh(pod, sandboxContainer, list)
			if left := len(c.traces) - len(without(processes, c.traces)); left > 0 {
				t.Errorf("%d of %q ran when the sandbox was handed on:\n%s", left, c.traces, processes)
			}
			if !strings.Contains(processes, "ps -eo args") {
				t.Errorf("the list of processes is not what it should be:\n%s", processes)
			}
		})
	}
}

func TestATaskThatRunsTooLongIsStoppedWithWhatItHasStarted(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	sb := s.taskBatch("late", "one", "sh", "-c", "echo begun; (setsid sleep 4000 &); sleep 5000")
	limit := int64(2)
	sb.Spec.TaskTemplate.Spec.TimeoutSeconds = &limit
	s.create(sb)
	if got := s.failure("late"); got.Reason != v1alpha1.TaskReasonTimedOut || !strings.Contains(got.Output, "begun") {
		t.Errorf("it failed with %+v, want %s and its output", got, v1alpha1.TaskReasonTimedOut)
	}
	processes := s.mustSh(s.holders("late")[0], sandboxContainer, "ps -eo args")
	if traces := []string{"sleep 4000", "sleep 5000"}; len(without(processes, traces)) != len(traces) {
		t.Errorf("not all of the task's tree is gone:\n%s", processes)
	}
}

// without returns those traces that stand nowhere in text.
func without(text string, traces []string) []string {
	var missing []string
	for _, trace := range traces {
		if !strings.Contains(text, trace) {
			missing = append(missing, trace)
		}
	}
	return missing
}

func TestANamespaceWithABusyPoolCanBeDeleted(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	s.create(s.taskBatch("busy", "one", "sleep", "1000"))
	s.batchIs("busy", "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
	s.kubectl("delete", "namespace", s.name, "--timeout=60s")
}
