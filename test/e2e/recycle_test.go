// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// recycleTime bounds the time from the request to delete a batch until its pod is available again.
const recycleTime = 5 * time.Second

// leftProcesses are parts of the command lines of what a user leaves running.
func leftProcesses() []string { return []string{"sleep 7777", "sleep 8888", "sleep 9999"} }

// restarted is a pool of exactly one pod, which is restarted in place, as is the default.
func (s *space) restarted(name string) string {
	return strings.Replace(s.onePod(name), "  recycleStrategy: {type: Noop}\n", "", 1)
}

// again waits until a pod that a deleted batch held can be given to the next. The status of its pool may lag behind.
func (s *space) again(batch, pod string) {
	s.t.Helper()
	s.gone(batch, &v1alpha1.BatchSandbox{}) // by then the pod is marked
	s.eventually("the pod is available again", func() error {
		p := &corev1.Pod{}
		if err := s.get(pod, p); err != nil {
			return err
		}
		if _, marked := p.Annotations[v1alpha1.RecyclingAnnotation]; marked {
			return errors.New("it is still marked")
		}
		return nil
	})
}

func TestARecycledPodIsTheSameAndHasNothingOfItsLastUserTenTimesInARow(t *testing.T) {
	s := newSpace(t)
	s.createYAML(s.restarted("one"))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	var first *corev1.Pod
	var times []string
	for round := range 10 {
		batch := fmt.Sprintf("user-%d", round)
		s.create(s.taskBatch(batch, "one", "sh", "-c",
			"touch /root-left /dev/shm/left; (setsid sleep 7777 &); echo done > /root-ready; exec sleep 8888"))
		s.batchIs(batch, "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
		pod := s.pod(s.holders(batch)[0])
		if first == nil {
			first = pod
		}
		if pod.UID != first.UID || pod.Status.PodIP != first.Status.PodIP {
			t.Fatalf("round %d got pod %s (%s, %s), want the first one: %s (%s, %s)", round,
				pod.Name, pod.UID, pod.Status.PodIP, first.Name, first.UID, first.Status.PodIP)
		}
		s.eventually("the task has left its files", func() error {
			_, err := s.sh(pod.Name, sandboxContainer, "cat /root-ready")
			return err
		})
		// What a user does beside tasks: a process that no executor knows of.
		s.mustSh(pod.Name, sandboxContainer, "setsid sleep 9999 > /dev/null 2>&1 < /dev/null & touch /dev/shm/other")
		s.mustSh(pod.Name, v1alpha1.TaskExecutorContainer, "touch /executor-left")
		s.eventually("all processes run", func() error {
			processes, err := s.sh(pod.Name, sandboxContainer, "ps -eo args")
			if missing := without(processes, leftProcesses()); err != nil || len(missing) > 0 {
				return fmt.Errorf("%q are missing (%w) of\n%s", missing, err, processes)
			}
			return nil
		})
		s.mustSh(pod.Name, sandboxContainer, "ls /root-left /dev/shm/left /dev/shm/other")

		start := time.Now()
		s.must(s.client.Delete(s.ctx, s.batch(batch)))
		s.again(batch, pod.Name)
		took := time.Since(start)
		times = append(times, took.Round(10*time.Millisecond).String())
		if took > recycleTime {
			t.Errorf("round %d: available again after %v, want at most %v", round, took, recycleTime)
		}
		s.isClean(pod.Name)
		if t.Failed() {
			return
		}
	}
	t.Logf("from the delete to the pod being available again: %s", strings.Join(times, ", "))
	s.poolIs("one", "has counted them", func(p v1alpha1.PoolStatus) bool { return p.Recycled == 10 && p.Replaced == 0 })
	if obstacle := s.pool("one").Status.RecycleObstacle; obstacle != "" {
		t.Errorf("told of an obstacle: %s", obstacle)
	}
}

// isClean fails the test for everything the last user left.
func (s *space) isClean(pod string) {
	s.t.Helper()
	if left := s.mustSh(pod, sandboxContainer, "ls -A /dev/shm; ls -d /root-* 2>/dev/null || true"); left != "" {
		s.t.Errorf("files were left: %q", left)
	}
	processes := s.mustSh(pod, sandboxContainer, "ps -eo args")
	if len(without(processes, leftProcesses())) < len(leftProcesses()) {
		s.t.Errorf("not all of %q are gone:\n%s", leftProcesses(), processes)
	}
	if left := s.mustSh(pod, v1alpha1.TaskExecutorContainer, "ls -d /executor-* 2>/dev/null || true"); left != "" {
		s.t.Errorf("the executor's container still has %s", left)
	}
}

func TestAPodThatCantBeProvenCleanIsReplaced(t *testing.T) {
	s := newSpace(t)
	s.createYAML(s.restarted("one"))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	s.create(s.taskBatch("user", "one", "sh", "-c", "echo 192.0.2.1 elsewhere >> /etc/resolv.conf; exec sleep 1000"))
	s.batchIs("user", "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
	pod := s.pod(s.holders("user")[0])
	s.eventually("the task has changed the file", func() error {
		_, err := s.sh(pod.Name, sandboxContainer, "grep elsewhere /etc/resolv.conf")
		return err
	})
	s.must(s.client.Delete(s.ctx, s.batch("user")))
	s.podGone(pod.Name)
	s.poolIs("one", "has a new pod", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 && p.Replaced == 1 && p.Recycled == 0 })
	if events := s.kubectl("get", "events", "-o", "custom-columns=:.reason,:.message"); !strings.Contains(events, "/etc/resolv.conf was changed") {
		t.Errorf("no event says why the pod was replaced:\n%s", events)
	}
}

// The controller ends about where the mark is written, the restart is asked for, and it is seen. Tests of the controllers
// themselves lose it between any two writes.
func TestARecyclingThatLosesItsControllerIsEndedByTheNext(t *testing.T) {
	s := newSpace(t)
	s.createYAML(s.restarted("one"))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	for round, wait := range []time.Duration{0, 300 * time.Millisecond, time.Second} {
		batch := fmt.Sprintf("user-%d", round)
		s.create(s.taskBatch(batch, "one", "sh", "-c", "touch /root-left /dev/shm/left; exec sleep 8888"))
		s.batchIs(batch, "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
		pod := s.pod(s.holders(batch)[0])
		s.must(s.client.Delete(s.ctx, s.batch(batch)))
		time.Sleep(wait)
		_, err := run(s.ctx, "-n", systemNamespace, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
		s.must(err)
		s.again(batch, pod.Name)
		if now := s.pod(pod.Name); now.UID != pod.UID {
			t.Errorf("round %d: the pod was replaced", round)
		}
		s.isClean(pod.Name)
	}
}

func TestEveryContainerIsAnotherAfterARecycling(t *testing.T) {
	s := newSpace(t)
	s.createYAML(strings.Replace(s.restarted("one"), "      containers:\n", `      initContainers:
      - {name: setup, image: "ubuntu:latest", command: ["true"]}
      - {name: helper, image: "ubuntu:latest", command: ["sleep", "3600"], restartPolicy: Always}
      containers:
`, 1))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	user := s.taskBatch("user", "one")
	user.Spec.TaskTemplate = nil
	s.create(user)
	s.delivered("user", 1)
	before := s.pod(s.holders("user")[0])
	start := time.Now()
	s.must(s.client.Delete(s.ctx, s.batch("user")))
	s.again("user", before.Name)
	t.Logf("available again after %v", time.Since(start).Round(10*time.Millisecond))
	after := s.pod(before.Name)
	if after.UID != before.UID {
		t.Fatal("the pod was replaced")
	}
	was, is := containerIDs(before), containerIDs(after)
	if len(was) != 4 || len(is) != 4 {
		t.Fatalf("containers %v, then %v, want 4", was, is)
	}
	for name, id := range was {
		if is[name] == id {
			t.Errorf("container %s is still %s", name, id)
		}
	}
}

func containerIDs(pod *corev1.Pod) map[string]string {
	ids := map[string]string{}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		ids[status.Name] = status.ContainerID
	}
	return ids
}
