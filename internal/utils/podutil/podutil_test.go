// SPDX-License-Identifier: Apache-2.0

package podutil

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestIsReady(t *testing.T) {
	cases := map[string]struct {
		conditions []corev1.PodCondition
		want       bool
	}{
		"a pod without conditions is not ready": {nil, false},
		"Ready is true":                         {[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, true},
		"Ready is false":                        {[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}, false},
		"Ready is unknown, as on a lost node":   {[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionUnknown}}, false},
		"other conditions don't count": {[]corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
		}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := IsReady(&corev1.Pod{Status: corev1.PodStatus{Conditions: c.conditions}}); got != c.want {
				t.Errorf("IsReady = %v, want %v", got, c.want)
			}
		})
	}
}

func TestHasEnded(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]bool{
		"": false, corev1.PodPending: false, corev1.PodRunning: false, corev1.PodUnknown: false, corev1.PodFailed: true, corev1.PodSucceeded: true,
	} {
		if got := HasEnded(&corev1.Pod{Status: corev1.PodStatus{Phase: phase}}); got != want {
			t.Errorf("HasEnded in phase %q = %v, want %v", phase, got, want)
		}
	}
}

func TestContainerReturnsTheOneOfTheSpec(t *testing.T) {
	spec := &corev1.PodSpec{
		Containers:     []corev1.Container{{Name: "a"}, {Name: "b"}},
		InitContainers: []corev1.Container{{Name: "init"}},
	}
	if got := Container(spec, "b"); got != &spec.Containers[1] {
		t.Errorf("Container(b) = %p, want the element itself, so that it can be changed", got)
	}
	for _, name := range []string{"c", "init", ""} {
		if got := Container(spec, name); got != nil {
			t.Errorf("Container(%q) = %v, want nil", name, got)
		}
	}
}
