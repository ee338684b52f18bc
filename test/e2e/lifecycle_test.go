// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// The task goes on in the same sandbox while its pool is deleted, however that is done, and its end is reported. Nothing
// is left when the batch is deleted.
func TestDeletingThePoolUnderARunningBatchDoesNotDisturbTheBatch(t *testing.T) {
	for name, propagation := range map[string]metav1.DeletionPropagation{
		"in the background": metav1.DeletePropagationBackground,
		"in the foreground": metav1.DeletePropagationForeground,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.createYAML(s.onePod("one"))
			s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
			s.create(s.taskBatch("busy", "one", "sh", "-c", "echo $$ > /tmp/pid; until [ -e /tmp/go ]; do sleep 0.1; done"))
			s.batchIs("busy", "runs its task", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
			before := s.pod(s.holders("busy")[0])
			pool := s.pool("one")
			s.must(s.client.Delete(s.ctx, pool, client.PropagationPolicy(propagation)))
			s.eventually("the pool waits for its sandbox", func() error {
				for _, c := range s.pool("one").Status.Conditions {
					if c.Type == v1alpha1.ConditionReady && c.Reason == v1alpha1.ReasonPoolTerminatingInUse {
						return nil
					}
				}
				return fmt.Errorf("its status is %+v", s.pool("one").Status)
			})
			s.eventually("the batch has labelled its pod", func() error {
				if pod := s.pod(before.Name); pod.Labels[v1alpha1.BatchNameLabel] != "busy" {
					return fmt.Errorf("labels %v", pod.Labels)
				}
				return nil
			})
			pid := s.mustSh(before.Name, sandboxContainer, "cat /tmp/pid")
			s.mustSh(before.Name, sandboxContainer, "kill -0 "+pid+" && touch /tmp/go")
			sb := s.ended("busy", 1)
			after := s.pod(s.holders("busy")[0])
			if sb.Status.TaskSucceed != 1 || sb.Status.Restarts != 0 || len(sb.Status.TaskTries) != 0 {
				t.Errorf("the status is %+v, want one task that succeeded at its first try", sb.Status)
			}
			if after.UID != before.UID || after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
				t.Errorf("the sandbox is pod %s, was %s", after.Name, before.Name)
			}
			s.must(s.client.Delete(s.ctx, sb))
			s.gone("busy", sb)
			s.gone("one", pool)
			s.podGone(before.Name)
		})
	}
}

// What the kubelet does to a sandbox whose main process ends: it starts another container.
func TestARestartOfASandboxIsCountedAndItsTaskRunsAgain(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	s.create(s.taskBatch("b", "one", "sleep", "1000"))
	s.batchIs("b", "runs its task", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
	pod := s.holders("b")[0]
	_, _ = s.sh(pod, sandboxContainer, `kill -9 $(ps -eo pid,args | awk '/[s]leep 3600/ {print $1}')`) // ends the connection too
	s.batchIs("b", "has one restart, and runs its second try", func(sb *v1alpha1.BatchSandbox) bool {
		tries := sb.Status.TaskTries
		return sb.Status.Restarts == 1 && sb.Status.TaskRunning == 1 && len(tries) == 1 && tries[0] == v1alpha1.TaskTries{Lost: 1}
	})
	s.eventually("the restart is told", func() error {
		if events := s.kubectl("get", "events"); !strings.Contains(events, "Containers restarted in 1 sandbox: "+pod) {
			return fmt.Errorf("the events are\n%s", events)
		}
		return nil
	})
}

// A namespace that is deleted while its sandboxes are in use takes everything with it. The containers get their grace.
func TestADeletedNamespaceIsGoneSoon(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.createYAML(s.onePod("one"))
	s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
	s.create(s.taskBatch("b", "one", "sleep", "1000"))
	s.batchIs("b", "runs its task", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	s.must(s.client.Delete(s.ctx, ns))
	s.eventually("the namespace is gone", func() error {
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(ns), ns); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("still there: %+v (%w)", ns.Status.Conditions, err)
		}
		return nil
	})
}
