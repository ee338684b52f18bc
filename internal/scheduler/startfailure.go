// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/internal/utils/podutil"
)

// StartFailure is why a pod is not becoming Ready, as its status tells; the zero value if the status tells of nothing.
type StartFailure struct {
	// Reason is the word of the kubelet or the scheduler.
	Reason string

	// Message names the container, but not the pod, and counts nothing: it stays the same while the trouble does.
	Message string
}

// The words that are compared with.
const (
	crashLoop        = "CrashLoopBackOff"
	errImagePull     = "ErrImagePull"
	imagePullBackOff = "ImagePullBackOff"
)

// Unschedulable says that no node takes the pod. Another pod of the same template would fare no better: the scheduler keeps
// trying this one.
func (f StartFailure) Unschedulable() bool { return f.Reason == corev1.PodReasonUnschedulable }

// startFailureOf reads why a pod is not becoming Ready. A pod that is being recycled restarts for our sake.
func startFailureOf(pod *corev1.Pod) StartFailure {
	if pod.DeletionTimestamp != nil || podutil.HasEnded(pod) || podutil.IsReady(pod) || isRecycling(pod) {
		return StartFailure{}
	}
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
		return StartFailure{c.Reason, cmp.Or(c.Message, c.Reason)}
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if reason, message := containerFailure(&statuses[i]); reason != "" {
				return StartFailure{reason, fmt.Sprintf("container %s: %s", statuses[i].Name, message)}
			}
		}
	}
	return StartFailure{}
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == kind {
			return c
		}
	}
	return nil
}

// containerFailure says why a container doesn't run, in the kubelet's word; "" if nothing is wrong.
func containerFailure(status *corev1.ContainerStatus) (reason, message string) {
	if w := status.State.Waiting; w != nil {
		switch w.Reason {
		case errImagePull, imagePullBackOff, "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
			"CreateContainerError", "RunContainerError":
			return w.Reason, cmp.Or(w.Message, w.Reason)
		case crashLoop:
			return crashLoop, crashMessage(status)
		}
	}
	if t := status.State.Terminated; t != nil && t.ExitCode != 0 && status.RestartCount > 0 {
		return crashLoop, crashMessage(status)
	}
	return "", ""
}

// crashMessage doesn't count restarts nor name the back-off.
func crashMessage(status *corev1.ContainerStatus) string {
	for _, t := range []*corev1.ContainerStateTerminated{status.State.Terminated, status.LastTerminationState.Terminated} {
		if t != nil {
			return fmt.Sprintf("ends again and again, last with exit code %d (%s)", t.ExitCode, t.Reason)
		}
	}
	return "ends again and again"
}

// steady is what to tell of a pod now, given what was told before: the same words while the trouble is the same.
//
//	| told before      | now                                      | tell        |
//	| crash loop       | nothing, and the pod is not Ready        | as before: it runs until the next crash |
//	| image pull       | image pull in the kubelet's other word   | as before, but an error in place of a bare back-off |
//	| the same reason  | a message that differs in numbers alone  | as before   |
//	| -                | -                                        | what is now |
func steady(before, now Pod) StartFailure {
	was, is := before.Failure, now.Failure
	switch {
	case was.Reason == crashLoop && is.Reason == "" && now.State == PodStarting && !now.Recycling:
		return was
	case was.Reason == errImagePull && (is.Reason == imagePullBackOff || is.Reason == errImagePull):
		return was
	case was.Reason == is.Reason && withoutNumbers(was.Message) == withoutNumbers(is.Message):
		return was
	default:
		return is
	}
}

func withoutNumbers(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// startingSince is when a pod that is not Ready was made, or stopped being Ready; zero for a pod that the scheduler holds
// back because somebody asked it to, and for one that is Ready or over.
func startingSince(pod *corev1.Pod) time.Time {
	if pod.DeletionTimestamp != nil || podutil.HasEnded(pod) || podutil.IsReady(pod) {
		return time.Time{}
	}
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonSchedulingGated {
		return time.Time{}
	}
	since := pod.CreationTimestamp.Time
	if c := condition(pod, corev1.PodReady); c != nil && c.LastTransitionTime.After(since) {
		since = c.LastTransitionTime.Time
	}
	return since
}

// startTime is the time from the creation of a pod to its being Ready, to the second as the API server keeps it, and at
// least 1 s; 0 for a pod that is not Ready.
func startTime(pod *corev1.Pod) time.Duration {
	c := condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue || pod.CreationTimestamp.IsZero() {
		return 0
	}
	return max(time.Second, c.LastTransitionTime.Sub(pod.CreationTimestamp.Time))
}
