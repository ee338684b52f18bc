// SPDX-License-Identifier: Apache-2.0

package podtemplate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestRootOf(t *testing.T) {
	root := corev1.EnvVar{Name: "SANDBOX_CONTROLLER_ROOT", Value: "r"}
	uid := corev1.EnvVar{Name: "SANDBOX_POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}
	container := func(name string, env ...corev1.EnvVar) corev1.Container {
		return corev1.Container{Name: name, Env: env}
	}
	for name, tc := range map[string]struct {
		init, containers []corev1.Container
		want             string
	}{
		"no container knows one":                          {containers: []corev1.Container{container("a"), container("b")}},
		"the executor":                                    {containers: []corev1.Container{container("a"), container("task-executor", root, uid)}, want: "r"},
		"the executor as a native sidecar":                {init: []corev1.Container{container("task-executor", root, uid)}, containers: []corev1.Container{container("a")}, want: "r"},
		"the only container":                              {containers: []corev1.Container{container("a", root, uid)}, want: "r"},
		"the only container, with one a webhook added":    {containers: []corev1.Container{container("a", root, uid), container("mesh")}, want: "r"},
		"a user's own variable":                           {containers: []corev1.Container{container("a", root), container("b")}},
		"a user's own variable beside an executor's root": {containers: []corev1.Container{container("a", corev1.EnvVar{Name: root.Name, Value: "mine"}, uid), container("task-executor", root, uid)}, want: "r"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := RootOf(&corev1.PodSpec{InitContainers: tc.init, Containers: tc.containers}); got != tc.want {
				t.Errorf("root %q, want %q", got, tc.want)
			}
		})
	}
}

func TestDisobeys(t *testing.T) {
	for name, tc := range map[string]struct {
		believed, present string
		want              bool
	}{
		"none, as under an older controller": {present: "r"},
		"none on either side":                {},
		"before the root is loaded":          {believed: "r"},
		"the same":                           {believed: "r", present: "r"},
		"another":                            {believed: "r", present: "s", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Disobeys(tc.believed, tc.present); got != tc.want {
				t.Errorf("disobeys: %t, want %t", got, tc.want)
			}
		})
	}
}
