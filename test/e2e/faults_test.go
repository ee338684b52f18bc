// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// The task runs again in the same pod: beside what the first try wrote where its executor was lost, in a fresh root where the
// sandbox's container was. Nothing of the first try is left, and it costs nothing of backoffLimit, which is 0.
func TestATaskOfAKilledContainerRunsAgainOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		container, kill string
		marks           int
	}{
		"the executor": {
			container: v1alpha1.TaskExecutorContainer,
			kill:      "kill -9 $(pidof task-executor)",
			marks:     2,
		},
		"the sandbox's main process": {
			container: sandboxContainer,
			kill:      `kill -9 $(pgrep -xf "sleep 3600")`,
			marks:     1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.createYAML(s.onePod("one"))
			s.create(s.taskBatch("hit", "one", "sh", "-c", "echo run >> /tmp/runs; exec sleep 1000"))
			s.batchIs("hit", "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
			pod := s.holders("hit")[0]

			// The shell may end with its container before it can say so: what counts is what becomes of the task.
			if out, err := s.sh(pod, c.container, c.kill); err != nil {
				t.Logf("kill: %s %v", out, err)
			}
			s.batchIs("hit", "runs its second try", func(sb *v1alpha1.BatchSandbox) bool {
				tries := sb.Status.TaskTries
				return sb.Status.TaskRunning == 1 && len(tries) == 1 && tries[0] == v1alpha1.TaskTries{Lost: 1}
			})
			s.eventually(c.container+" runs again", func() error { return restartedOnce(s.pod(pod), c.container) })
			if holders := s.holders("hit"); holders[0] != pod {
				t.Errorf("the sandbox is %s, want %s as before", holders[0], pod)
			}
			if marks := strings.Count(s.mustSh(pod, sandboxContainer, "cat /tmp/runs; echo"), "run"); marks != c.marks {
				t.Errorf("%d runs left a mark, want %d", marks, c.marks)
			}
			processes := s.mustSh(pod, sandboxContainer, "ps -eo args")
			if n := strings.Count("\n"+processes+"\n", "\nsleep 1000\n"); n != 1 {
				t.Errorf("the task has %d processes, want 1:\n%s", n, processes)
			}
		})
	}
}

// restartedOnce says that one container of the pod has been started again, and no other.
func restartedOnce(pod *corev1.Pod, container string) error {
	for _, c := range pod.Status.ContainerStatuses {
		want := int32(0)
		if c.Name == container {
			want = 1
		}
		if c.RestartCount != want || !c.Ready {
			return fmt.Errorf("container %s: %d restarts, ready %t; want %d restarts", c.Name, c.RestartCount, c.Ready, want)
		}
	}
	return nil
}

// Not parallel: there is one controller for all.
func TestTasksThatEndWhileTheControllerIsReplacedAreReportedAndRunOnce(t *testing.T) {
	s := newSpace(t)
	s.apply("task-pool.yaml")
	sb := s.taskBatch("long", "task-example-pool", "sh", "-c", `echo "$SECONDS_TO_RUN" >> /tmp/runs; sleep "$SECONDS_TO_RUN"`)
	const tasks = 4
	replicas := int32(tasks)
	sb.Spec.Replicas = &replicas
	for i := range tasks {
		sb.Spec.ShardTaskPatches = append(sb.Spec.ShardTaskPatches, *raw(fmt.Sprintf(
			`{"spec":{"process":{"env":[{"name":"SECONDS_TO_RUN","value":"%d"}]}}}`, 3+4*i)))
	}
	s.create(sb)
	s.batchIs("long", "runs all its tasks", func(sb *v1alpha1.BatchSandbox) bool {
		return sb.Status.TaskRunning+sb.Status.TaskSucceed == tasks
	})
	if done := s.batch("long").Status.TaskSucceed; done == tasks {
		t.Fatal("all tasks ended before the controller could be replaced")
	}

	old := s.managerPods()
	for i := range old {
		s.must(s.client.Delete(s.ctx, &old[i], client.GracePeriodSeconds(0)))
	}
	s.eventually("another controller runs", func() error {
		for _, pod := range s.managerPods() {
			if pod.UID != old[0].UID && isReady(&pod) {
				return nil
			}
		}
		return fmt.Errorf("pods: %d", len(s.managerPods()))
	})

	if sb := s.ended("long", tasks); sb.Status.TaskSucceed != tasks || len(sb.Status.TaskTries) > 0 {
		t.Errorf("want %d tasks that succeeded at the first try, got %+v", tasks, sb.Status)
	}
	for i, pod := range s.holders("long") {
		if got, want := s.mustSh(pod, sandboxContainer, "cat /tmp/runs"), fmt.Sprint(3+4*i); got != want {
			t.Errorf("the marks of task %d are %q, want one of %q", i, got, want)
		}
	}
}

func (s *space) managerPods() []corev1.Pod {
	s.t.Helper()
	var pods corev1.PodList
	s.must(s.client.List(s.ctx, &pods, client.InNamespace(systemNamespace), client.MatchingLabels{"control-plane": "controller-manager"}))
	return pods.Items
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
