// SPDX-License-Identifier: Apache-2.0

package podutil

import (
	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// Why a pod is no sandbox any more, in the words that events use.
const (
	LossDeleted  = "deleted"
	LossEvicted  = "evicted"
	LossFailed   = "failed"
	LossEnded    = "ended"
	LossNodeLost = "node lost"
)

// Loss says why a pod is no sandbox any more, "" if it still may be one. The first row that matches:
//
//	| phase     | being deleted | DisruptionTarget, or reason of the status       | answer    |
//	| Failed    | or yes        | by the taint manager, by pod GC, NodeLost       | node lost |
//	| Failed    | or yes        | by the eviction API, scheduler, kubelet, Evicted | evicted   |
//	| Failed    | -             | -                                               | failed    |
//	| Succeeded | -             | -                                               | ended     |
//	| -         | yes           | -                                               | deleted   |
//	| -         | no            | -                                               | ""        |
func Loss(pod *corev1.Pod) string {
	failed := pod.Status.Phase == corev1.PodFailed
	if failed || pod.DeletionTimestamp != nil {
		if why := disruption(pod); why != "" {
			return why
		}
	}
	switch {
	case failed:
		return LossFailed
	case pod.Status.Phase == corev1.PodSucceeded:
		return LossEnded
	case pod.DeletionTimestamp != nil:
		return LossDeleted
	default:
		return ""
	}
}

// disruption is what Kubernetes itself says about a pod that it took away, "" for nothing.
func disruption(pod *corev1.Pod) string {
	reasons := []string{pod.Status.Reason}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			reasons = append(reasons, c.Reason)
		}
	}
	for _, reason := range reasons {
		switch reason {
		case "NodeLost", "DeletionByTaintManager", "DeletionByPodGC":
			return LossNodeLost
		case "Evicted", "EvictionByEvictionAPI", corev1.PodReasonPreemptionByScheduler, corev1.PodReasonTerminationByKubelet:
			return LossEvicted
		}
	}
	return ""
}

// SandboxRestarts is how often the containers of a pod restarted that make up the sandbox: all but the task-executor,
// whose restarts are told as the loss of its tasks, and init containers.
func SandboxRestarts(pod *corev1.Pod) int32 {
	var n int32
	for i := range pod.Status.ContainerStatuses {
		if c := &pod.Status.ContainerStatuses[i]; c.Name != v1alpha1.TaskExecutorContainer {
			n += c.RestartCount
		}
	}
	return n
}
