// SPDX-License-Identifier: Apache-2.0

// Package podutil answers questions about pods.
package podutil

import (
	corev1 "k8s.io/api/core/v1"
)

// IsReady says whether the pod's Ready condition is true.
func IsReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return pod.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// HasEnded says whether every container of the pod ended for good: phase Failed (an evicted pod too) or
// Succeeded.
func HasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// Container returns the container of that name, nil if the spec has none.
func Container(spec *corev1.PodSpec, name string) *corev1.Container {
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return &spec.Containers[i]
		}
	}
	return nil
}
