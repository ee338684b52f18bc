// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// slim drops what nobody reads from any object of the cache: who wrote which field, and what kubectl applied last.
func slim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		delete(o.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return obj, nil
}

// slimPod keeps of foreign pods nothing but their identity, and of ours what somebody reads: metadata, where they are, what says
// whether they can be restarted in place and which root their executors believe, and how they are. The rest is most of a pod.
// What the cache shows of a pod is never written back: each write of one is a patch of its metadata.
func slimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	pod.ManagedFields = nil
	_, pooled := pod.Labels[v1alpha1.PoolNameLabel]
	_, batched := pod.Labels[v1alpha1.BatchNameLabel]
	if !pooled && !batched {
		pod.Spec, pod.Status, pod.Annotations = corev1.PodSpec{}, corev1.PodStatus{}, nil
		return pod, nil
	}
	pod.Spec, pod.Status = slimSpec(&pod.Spec), slimStatus(&pod.Status)
	return pod, nil
}

func slimSpec(spec *corev1.PodSpec) corev1.PodSpec {
	slim := corev1.PodSpec{
		NodeName: spec.NodeName, ServiceAccountName: spec.ServiceAccountName, RestartPolicy: spec.RestartPolicy,
		HostNetwork: spec.HostNetwork, HostPID: spec.HostPID, HostIPC: spec.HostIPC,
		InitContainers: each(spec.InitContainers, slimContainer), Containers: each(spec.Containers, slimContainer),
		Volumes: each(spec.Volumes, slimVolume),
	}
	for i := range spec.EphemeralContainers {
		slim.EphemeralContainers = append(slim.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: spec.EphemeralContainers[i].Name},
		})
	}
	return slim
}

func slimContainer(c corev1.Container) corev1.Container {
	slim := corev1.Container{
		Name: c.Name, RestartPolicy: c.RestartPolicy, RestartPolicyRules: c.RestartPolicyRules,
		VolumeMounts: c.VolumeMounts, VolumeDevices: c.VolumeDevices,
	}
	if s := c.SecurityContext; s != nil {
		slim.SecurityContext = &corev1.SecurityContext{Privileged: s.Privileged, Capabilities: s.Capabilities}
	}
	for _, e := range c.Env {
		if e.Name == taskexecutor.RootCertificateEnv || e.Name == taskexecutor.PodUIDEnv {
			slim.Env = append(slim.Env, e)
		}
	}
	return slim
}

// slimVolume keeps the kind of a volume, but of the most usual one, the token of the service account, not what is in it.
func slimVolume(v corev1.Volume) corev1.Volume {
	if v.Projected != nil {
		v.Projected = &corev1.ProjectedVolumeSource{}
	}
	return v
}

func slimStatus(status *corev1.PodStatus) corev1.PodStatus {
	return corev1.PodStatus{
		Phase: status.Phase, Reason: status.Reason, Message: status.Message, Conditions: status.Conditions,
		PodIP: status.PodIP, PodIPs: status.PodIPs, HostIP: status.HostIP, HostIPs: status.HostIPs,
		InitContainerStatuses: each(status.InitContainerStatuses, slimContainerStatus),
		ContainerStatuses:     each(status.ContainerStatuses, slimContainerStatus),
	}
}

func slimContainerStatus(s corev1.ContainerStatus) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: s.Name, State: s.State, LastTerminationState: s.LastTerminationState,
		Ready: s.Ready, RestartCount: s.RestartCount, ContainerID: s.ContainerID,
	}
}

// each is a list of what a function makes of the entries of another; nil of none.
func each[T any](from []T, of func(T) T) []T {
	if len(from) == 0 {
		return nil
	}
	to := slices.Clone(from)
	for i := range to {
		to[i] = of(to[i])
	}
	return to
}
