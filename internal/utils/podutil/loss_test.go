// SPDX-License-Identifier: Apache-2.0

package podutil

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestLoss(t *testing.T) {
	disrupted := func(reason string) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason}}
	}
	cases := map[string]struct {
		deleted bool
		status  corev1.PodStatus
		want    string
	}{
		"a running pod is not lost":                  {false, corev1.PodStatus{Phase: corev1.PodRunning}, ""},
		"one that is about to be evicted is not yet": {false, corev1.PodStatus{Conditions: disrupted("EvictionByEvictionAPI")}, ""},
		"one that somebody deletes is deleted":       {true, corev1.PodStatus{Phase: corev1.PodRunning}, LossDeleted},
		"one that failed is failed":                  {false, corev1.PodStatus{Phase: corev1.PodFailed}, LossFailed},
		"one that failed and is deleted is failed":   {true, corev1.PodStatus{Phase: corev1.PodFailed}, LossFailed},
		"one that ended in success is ended":         {false, corev1.PodStatus{Phase: corev1.PodSucceeded}, LossEnded},
		"one that a drain evicts is evicted":         {true, corev1.PodStatus{Conditions: disrupted("EvictionByEvictionAPI")}, LossEvicted},
		"one that the kubelet evicts is evicted":     {false, corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, LossEvicted},
		"one that gave way to another is evicted":    {true, corev1.PodStatus{Conditions: disrupted("PreemptionByScheduler")}, LossEvicted},
		"one whose node is tainted is lost with it":  {true, corev1.PodStatus{Conditions: disrupted("DeletionByTaintManager")}, LossNodeLost},
		"one whose node is gone is lost with it":     {false, corev1.PodStatus{Phase: corev1.PodFailed, Conditions: disrupted("DeletionByPodGC")}, LossNodeLost},
		"one on an unreachable node is lost with it": {true, corev1.PodStatus{Phase: corev1.PodRunning, Reason: "NodeLost"}, LossNodeLost},
		"a disruption that is over says nothing": {true, corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, Reason: "EvictionByEvictionAPI"},
		}}, LossDeleted},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Status: c.status}
			if c.deleted {
				now := metav1.Now()
				pod.DeletionTimestamp = &now
			}
			if got := Loss(pod); got != c.want {
				t.Errorf("Loss = %q, want %q", got, c.want)
			}
		})
	}
}

func TestSandboxRestartsCountsTheSandboxAlone(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", RestartCount: 1}},
		ContainerStatuses: []corev1.ContainerStatus{
			{Name: "sandbox", RestartCount: 2}, {Name: v1alpha1.TaskExecutorContainer, RestartCount: 4}, {Name: "helper", RestartCount: 8},
		},
	}}
	if got := SandboxRestarts(pod); got != 10 {
		t.Errorf("SandboxRestarts = %d, want 10", got)
	}
}
