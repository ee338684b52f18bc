// SPDX-License-Identifier: Apache-2.0

// Package recycling says which pods can be made fit for the next user by restarting all their containers in place, and
// what the mark on such a pod means.
package recycling

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podutil"
)

// TypeOf is how a pool recycles its pods: Delete, Restart, Noop, or "" for the default, which is Restart where the result is
// provably clean and else Delete. A type that isn't known is the one that is always clean.
func TypeOf(pool *v1alpha1.Pool) v1alpha1.RecycleType {
	if pool.Spec.RecycleStrategy == nil {
		return ""
	}
	switch how := pool.Spec.RecycleStrategy.Type; how {
	case "", v1alpha1.RecycleNoop, v1alpha1.RecycleRestart:
		return how
	default:
		return v1alpha1.RecycleDelete
	}
}

// Restarts says whether a pool's pods are restarted in place where they can be.
func Restarts(how v1alpha1.RecycleType) bool { return how == "" || how == v1alpha1.RecycleRestart }

// AddRestartRules lets the task-executor restart all containers of its pod by exiting with the reserved code. Only a
// pod whose containers are always restarted, and that has an executor beside others, gets the rules; rules of the
// template's own stay, and its container then can't be recycled in place.
func AddRestartRules(spec *corev1.PodSpec) {
	executor := podutil.Container(spec, v1alpha1.TaskExecutorContainer)
	if executor == nil || len(spec.Containers) < 2 || !alwaysRestarts(spec) ||
		executor.RestartPolicy != nil || len(executor.RestartPolicyRules) > 0 {
		return
	}
	executor.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	executor.RestartPolicyRules = []corev1.ContainerRestartRule{restartRule()}
}

// RemoveRestartRules takes away what AddRestartRules gave, for API servers that don't know it.
func RemoveRestartRules(spec *corev1.PodSpec) (removed bool) {
	executor := podutil.Container(spec, v1alpha1.TaskExecutorContainer)
	if executor == nil || !hasRestartRules(executor) {
		return false
	}
	executor.RestartPolicy, executor.RestartPolicyRules = nil, nil
	return true
}

// HasRestartRules says whether a pod's executor has the rule that AddRestartRules gives.
func HasRestartRules(spec *corev1.PodSpec) bool {
	executor := podutil.Container(spec, v1alpha1.TaskExecutorContainer)
	return executor != nil && hasRestartRules(executor)
}

func restartRule() corev1.ContainerRestartRule {
	return corev1.ContainerRestartRule{
		Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
			Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{v1alpha1.TaskExecutorRecycleExitCode},
		},
	}
}

func alwaysRestarts(spec *corev1.PodSpec) bool {
	return spec.RestartPolicy == "" || spec.RestartPolicy == corev1.RestartPolicyAlways
}

// hasRestartRules says whether the first rule that applies to the reserved exit code is the one of AddRestartRules.
func hasRestartRules(executor *corev1.Container) bool {
	if executor.RestartPolicy == nil || *executor.RestartPolicy != corev1.ContainerRestartPolicyAlways || len(executor.RestartPolicyRules) == 0 {
		return false
	}
	first := executor.RestartPolicyRules[0]
	return first.Action == corev1.ContainerRestartRuleActionRestartAllContainers && first.ExitCodes != nil &&
		first.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn &&
		slices.Contains(first.ExitCodes.Values, v1alpha1.TaskExecutorRecycleExitCode)
}

// Obstacle says why restarting all containers would not make this pod clean, "" if it would:
//
//	| the pod                                                          | obstacle |
//	| ended, or is being deleted                                       | yes      |
//	| its executor has no restart rules: made for another recycle type | yes      |
//	| got an ephemeral container, which is never restarted             | yes      |
//	| shares a namespace of the node, or has a container that may      |          |
//	| change what outlives it: privileged, NET_ADMIN, SYS_ADMIN, ALL   | yes      |
//	| has a volume that outlives containers, writable in one of them   | yes      |
//	| the same, and it is the executor's emptyDir for its records,     |          |
//	| mounted nowhere else                                             | no       |
//	| a container without an ID, which could not be told from the next | yes      |
func Obstacle(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil || podutil.HasEnded(pod) {
		return "the pod has ended or is being deleted"
	}
	if obstacle := SpecObstacle(&pod.Spec); obstacle != "" {
		return obstacle
	}
	if _, whole := containerIDs(pod); !whole {
		return "a container has no ID"
	}
	return ""
}

// SpecObstacle is the part of Obstacle that a pod's spec alone decides.
func SpecObstacle(spec *corev1.PodSpec) string {
	executor := podutil.Container(spec, v1alpha1.TaskExecutorContainer)
	switch {
	case executor == nil:
		return "there is no container " + v1alpha1.TaskExecutorContainer
	case !hasRestartRules(executor) || !alwaysRestarts(spec):
		return "the container " + v1alpha1.TaskExecutorContainer + " has no rule to restart all containers"
	case len(spec.EphemeralContainers) > 0:
		return "ephemeral containers are not restarted"
	case spec.HostNetwork || spec.HostPID || spec.HostIPC:
		return "the pod shares a namespace of its node"
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if capability := lastingPower(&c); capability != "" {
			return fmt.Sprintf("container %s has the power to change what outlives it (%s)", c.Name, capability)
		}
		if volume := lastingVolume(spec, &c); volume != "" {
			return fmt.Sprintf("container %s can write to volume %s, which outlives it", c.Name, volume)
		}
	}
	return ""
}

// lastingPower is what lets a container change the pod's network or mounts, "" for nothing.
func lastingPower(c *corev1.Container) string {
	if c.SecurityContext == nil {
		return ""
	}
	if ptr.Deref(c.SecurityContext.Privileged, false) {
		return "privileged"
	}
	if c.SecurityContext.Capabilities == nil {
		return ""
	}
	for _, capability := range c.SecurityContext.Capabilities.Add {
		switch capability {
		case "ALL", "NET_ADMIN", "SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN":
			return string(capability)
		}
	}
	return ""
}

// lastingVolume is the first volume that a container can write to and that outlives it, "" for none.
func lastingVolume(spec *corev1.PodSpec, c *corev1.Container) string {
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		at := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		switch {
		case m.ReadOnly, at >= 0 && isReadOnly(&spec.Volumes[at]):
		case at >= 0 && c.Name == v1alpha1.TaskExecutorContainer && isRecords(spec, &spec.Volumes[at], m):
		default:
			return m.Name
		}
	}
	if len(c.VolumeDevices) > 0 {
		return c.VolumeDevices[0].Name
	}
	return ""
}

// isReadOnly says whether nobody can write to a volume, whatever the mount says.
func isReadOnly(v *corev1.Volume) bool {
	return v.Projected != nil || v.Secret != nil || v.ConfigMap != nil || v.DownwardAPI != nil || v.Image != nil
}

// isRecords says whether a volume is the executor's own, which it empties itself: mounted nowhere else, not even to be
// read.
func isRecords(spec *corev1.PodSpec, v *corev1.Volume, at *corev1.VolumeMount) bool {
	if v.EmptyDir == nil || v.Name != v1alpha1.TaskRecordsVolume || at.MountPath != v1alpha1.TaskRecordsPath {
		return false
	}
	mounts := 0
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for i := range c.VolumeMounts {
			if c.VolumeMounts[i].Name == v.Name {
				mounts++
			}
		}
	}
	return mounts == 1
}

// Mark is the value of the recycling annotation.
type Mark struct {
	// Batch is the UID of the batch that released the pod.
	Batch types.UID `json:"batch"`

	// Containers are the IDs of the containers the batch had, by name, init containers included.
	Containers map[string]string `json:"containers"`

	// Since is when the mark was written, to the second: the time that a recycling may take counts from then. Zero in marks
	// of older controllers.
	Since time.Time `json:"since,omitzero"`
}

// MarkOf is the mark for a pod that a batch releases now. Ask Obstacle before.
func MarkOf(pod *corev1.Pod, batch types.UID, now time.Time) Mark {
	ids, _ := containerIDs(pod) // Obstacle said that they are whole
	return Mark{Batch: batch, Containers: ids, Since: now.UTC().Truncate(time.Second)}
}

// Left is what is left, or less than nothing, of the time that a recycling may take. It counts from the mark, so that no restart
// of a controller extends it, and from when the mark was first seen (by a clock that nobody sets, within a process): what is
// over first counts. So a mark from the future, or a clock set back, makes no recycling endless.
func (m Mark) Left(seen, now time.Time, limit time.Duration) time.Duration {
	left := seen.Add(limit).Sub(now)
	if m.Since.IsZero() {
		return left
	}
	return min(left, m.Since.Add(limit).Sub(now))
}

// containerIDs are the IDs of all containers. They are whole if no container of the spec is without.
func containerIDs(pod *corev1.Pod) (ids map[string]string, whole bool) {
	ids = map[string]string{}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if statuses[i].ContainerID != "" {
				ids[statuses[i].Name] = statuses[i].ContainerID
			}
		}
	}
	return ids, len(ids) == len(pod.Spec.InitContainers)+len(pod.Spec.Containers)
}

// Encode writes the mark as the annotation has it.
func (m Mark) Encode() string {
	data, err := json.Marshal(m)
	if err != nil {
		return "{}" // strings always encode
	}
	return string(data)
}

// Parse reads the mark of a pod. A mark without a batch or containers proves nothing and is an error.
func Parse(pod *corev1.Pod) (Mark, error) {
	var m Mark
	if err := json.Unmarshal([]byte(pod.Annotations[v1alpha1.RecyclingAnnotation]), &m); err != nil {
		return Mark{}, fmt.Errorf("decode annotation %s: %w", v1alpha1.RecyclingAnnotation, err)
	}
	if m.Batch == "" || len(m.Containers) == 0 {
		return Mark{}, fmt.Errorf("annotation %s names no batch or no containers", v1alpha1.RecyclingAnnotation)
	}
	return m, nil
}

// Progress is how far a marked pod has come, in the kubelet's word.
type Progress int

const (
	// Untouched: the executor's container is still the one the last user had.
	Untouched Progress = iota

	// Restarting: the executor's container is another one, but not all are, or the pod isn't Ready.
	Restarting

	// Alone: the executor's container was restarted and runs, while one that the last user had runs on. Whoever restarts all
	// containers ends them all before the first runs again.
	Alone

	// Restarted: every container is another one, and the pod is Ready.
	Restarted
)

// ProgressOf compares a marked pod's containers with those of the mark.
//
//	| the executor's ID | all other IDs              | every container runs, pod Ready | progress   |
//	| as in the mark    | -                          | -                               | Untouched  |
//	| another, running  | some old, of running ones  | -                               | Alone      |
//	| another, or none  | some old                   | -                               | Restarting |
//	| another           | others                     | no                              | Restarting |
//	| another           | others                     | yes                             | Restarted  |
func ProgressOf(m Mark, pod *corev1.Pod) Progress {
	ids, whole := containerIDs(pod)
	if ids[v1alpha1.TaskExecutorContainer] == m.Containers[v1alpha1.TaskExecutorContainer] {
		return Untouched
	}
	if runsAlone(m, pod) {
		return Alone
	}
	if !whole || !podutil.IsReady(pod) || pod.Status.PodIP == "" {
		return Restarting
	}
	for name, id := range ids {
		if old, known := m.Containers[name]; !known || old == id {
			return Restarting
		}
	}
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.State.Running == nil || !s.Ready {
			return Restarting
		}
	}
	return Restarted
}

// runsAlone says whether the executor's container runs anew beside one that runs on from before the mark.
func runsAlone(m Mark, pod *corev1.Pod) bool {
	anew, before := false, false
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.State.Running == nil {
			continue
		}
		old := s.ContainerID == m.Containers[s.Name]
		anew = anew || (s.Name == v1alpha1.TaskExecutorContainer && !old)
		before = before || old
	}
	return anew && before
}
