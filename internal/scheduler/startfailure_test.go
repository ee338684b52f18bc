// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestStartFailure(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	ended := func(code int32) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error"}
	}
	container := func(s corev1.ContainerStatus) corev1.Pod {
		s.Name = "main"
		return corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}}
	}
	tests := map[string]struct {
		pod  corev1.Pod
		want StartFailure
	}{
		"an image is pulled": {container(corev1.ContainerStatus{State: waiting("ContainerCreating", "")}), StartFailure{}},
		"an image can't be pulled": {
			container(corev1.ContainerStatus{State: waiting("ImagePullBackOff", "no such image")}),
			StartFailure{"ImagePullBackOff", "container main: no such image"},
		},
		"a container can't be made": {
			container(corev1.ContainerStatus{State: waiting("CreateContainerConfigError", "")}),
			StartFailure{"CreateContainerConfigError", "container main: CreateContainerConfigError"},
		},
		"a container crashes and waits": {
			container(corev1.ContainerStatus{
				RestartCount: 3, State: waiting("CrashLoopBackOff", "back-off 40s"),
				LastTerminationState: corev1.ContainerState{Terminated: ended(1)},
			}),
			StartFailure{"CrashLoopBackOff", "container main: ends again and again, last with exit code 1 (Error)"},
		},
		"a container has just crashed again": {
			container(corev1.ContainerStatus{RestartCount: 3, State: corev1.ContainerState{Terminated: ended(1)}}),
			StartFailure{"CrashLoopBackOff", "container main: ends again and again, last with exit code 1 (Error)"},
		},
		"an init container is done and was restarted once": {
			corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{
				Name: "init", RestartCount: 1, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}},
			}}}},
			StartFailure{},
		},
		"an init container crashes": {
			corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{
				Name: "init", State: waiting("ErrImagePull", "denied"),
			}}}},
			StartFailure{"ErrImagePull", "container init: denied"},
		},
		"no node has room": {
			corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available",
			}}}},
			StartFailure{"Unschedulable", "0/3 nodes are available"},
		},
		"the scheduler waits for a gate": {
			corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "SchedulingGated",
			}}}},
			StartFailure{},
		},
		"it is being recycled": {
			corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.RecyclingAnnotation: "{}"}},
				Status:     container(corev1.ContainerStatus{State: waiting("ImagePullBackOff", "x")}).Status,
			},
			StartFailure{},
		},
		"it is Ready": {
			corev1.Pod{Status: corev1.PodStatus{
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
				ContainerStatuses: container(corev1.ContainerStatus{State: waiting("ImagePullBackOff", "x")}).Status.ContainerStatuses,
			}},
			StartFailure{},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, startFailureOf(&tt.pod)); diff != "" {
				t.Errorf("failure (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSteady(t *testing.T) {
	pod := func(state PodState, reason, message string) Pod {
		return Pod{State: state, Failure: StartFailure{reason, message}}
	}
	tests := map[string]struct {
		before, now Pod
		want        StartFailure
	}{
		"a pull that failed goes into its back-off": {
			pod(PodStarting, "ErrImagePull", "no such image"), pod(PodStarting, "ImagePullBackOff", "back-off"),
			StartFailure{"ErrImagePull", "no such image"},
		},
		"a pull that failed fails in other words": {
			pod(PodStarting, "ErrImagePull", "read from 10.0.0.1:40001: reset"), pod(PodStarting, "ErrImagePull", "timeout"),
			StartFailure{"ErrImagePull", "read from 10.0.0.1:40001: reset"},
		},
		"a back-off is told first, and then the error": {
			pod(PodStarting, "ImagePullBackOff", "back-off"), pod(PodStarting, "ErrImagePull", "no such image"),
			StartFailure{"ErrImagePull", "no such image"},
		},
		"only a number differs": {
			pod(PodStarting, "Unschedulable", "0/3 nodes are available"), pod(PodStarting, "Unschedulable", "0/12 nodes are available"),
			StartFailure{"Unschedulable", "0/3 nodes are available"},
		},
		"the scheduler has another reason": {
			pod(PodStarting, "Unschedulable", "0/3 nodes: 3 Insufficient cpu"), pod(PodStarting, "Unschedulable", "0/3 nodes: 3 Insufficient memory"),
			StartFailure{"Unschedulable", "0/3 nodes: 3 Insufficient memory"},
		},
		"a container that crashes runs for a moment": {
			pod(PodStarting, "CrashLoopBackOff", "ends"), pod(PodStarting, "", ""), StartFailure{"CrashLoopBackOff", "ends"},
		},
		"a container that crashed is Ready":  {pod(PodStarting, "CrashLoopBackOff", "ends"), pod(PodReady, "", ""), StartFailure{}},
		"the image appeared":                 {pod(PodStarting, "ErrImagePull", "no such image"), pod(PodStarting, "", ""), StartFailure{}},
		"the image appeared, and it crashes": {pod(PodStarting, "ErrImagePull", "x"), pod(PodStarting, "CrashLoopBackOff", "ends"), StartFailure{"CrashLoopBackOff", "ends"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, steady(tt.before, tt.now)); diff != "" {
				t.Errorf("failure (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStartingSince(t *testing.T) {
	created := time.Unix(1000, 0)
	ready := func(status corev1.ConditionStatus, at time.Duration) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(created.Add(at))}
	}
	tests := map[string]struct {
		conditions []corev1.PodCondition
		want       time.Time
		wantTook   time.Duration
	}{
		"nobody has looked at it":           {nil, created, 0},
		"the kubelet has it":                {[]corev1.PodCondition{ready(corev1.ConditionFalse, time.Second)}, created.Add(time.Second), 0},
		"it stopped being Ready":            {[]corev1.PodCondition{ready(corev1.ConditionFalse, time.Hour)}, created.Add(time.Hour), 0},
		"it is Ready after 7 s":             {[]corev1.PodCondition{ready(corev1.ConditionTrue, 7*time.Second)}, time.Time{}, 7 * time.Second},
		"it is Ready within the one second": {[]corev1.PodCondition{ready(corev1.ConditionTrue, 0)}, time.Time{}, time.Second},
		"somebody holds it back": {[]corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
		}}, time.Time{}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)},
				Status:     corev1.PodStatus{Conditions: tt.conditions},
			}
			if got := startingSince(pod); !got.Equal(tt.want) {
				t.Errorf("starting since %v, want %v", got, tt.want)
			}
			if got := startTime(pod); got != tt.wantTook {
				t.Errorf("took %v, want %v", got, tt.wantTook)
			}
		})
	}
}
