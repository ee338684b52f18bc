// SPDX-License-Identifier: Apache-2.0

// Package podtemplate reads pod templates as users wrote them and completes them with what the controller needs.
package podtemplate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podutil"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// revisionLength is the number of hexadecimal digits of a revision: 40 bits, so that two templates of one pool
// don't meet by chance, and short enough for a column.
const revisionLength = 10

// Decode reads a pod template. The error says what to change.
func Decode(raw *v1alpha1.RawObject) (*corev1.PodTemplateSpec, error) {
	if raw == nil || len(raw.Raw) == 0 {
		return nil, errors.New("template is empty: give it at least one container")
	}
	template := &corev1.PodTemplateSpec{}
	if err := json.Unmarshal(raw.Raw, template); err != nil {
		return nil, fmt.Errorf("template is no pod template: %w", err)
	}
	if len(template.Spec.Containers) == 0 {
		return nil, errors.New("template.spec.containers is empty: give it at least one container")
	}
	return template, nil
}

// Revision is a short hash of a template that doesn't depend on the order of its members or white space.
func Revision(raw *v1alpha1.RawObject) string {
	var canonical []byte
	if raw != nil {
		var value any
		if err := json.Unmarshal(raw.Raw, &value); err == nil {
			canonical, _ = json.Marshal(value) // a value that was just decoded from JSON can be encoded
		}
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])[:revisionLength]
}

// AddTaskRecords gives the task-executor's container, if the pod has one beside others, an emptyDir for its
// records. A pod that already mounts something there keeps it.
func AddTaskRecords(spec *corev1.PodSpec) {
	executor := podutil.Container(spec, v1alpha1.TaskExecutorContainer)
	if executor == nil || slices.ContainsFunc(executor.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == v1alpha1.TaskRecordsPath
	}) {
		return
	}
	if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == v1alpha1.TaskRecordsVolume }) {
		spec.Volumes = append(spec.Volumes, corev1.Volume{
			Name:         v1alpha1.TaskRecordsVolume,
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
		})
	}
	executor.VolumeMounts = append(executor.VolumeMounts, corev1.VolumeMount{
		Name: v1alpha1.TaskRecordsVolume, MountPath: v1alpha1.TaskRecordsPath,
	})
}

// AddSidecarMode tells a task-executor that has a container beside others that tasks belong into one of those. It can't see that
// by itself where the pod doesn't share its processes, and would run them in its own. What the template says stays.
func AddSidecarMode(spec *corev1.PodSpec) {
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			c := &containers[i]
			alone := len(spec.Containers) == 1 && &spec.Containers[0] == c
			if c.Name == v1alpha1.TaskExecutorContainer && !alone && !slices.ContainsFunc(c.Env, isSidecarMode) {
				setEnv(c, corev1.EnvVar{Name: taskexecutor.SidecarModeEnv, Value: "true"})
			}
		}
	}
}

func isSidecarMode(e corev1.EnvVar) bool { return e.Name == taskexecutor.SidecarModeEnv }

// AddRoot tells the task-executor of a pod which controller to believe: every container of that name, and the only container
// of a pod that has one. A root of "" adds nothing.
func AddRoot(spec *corev1.PodSpec, root string) {
	if root == "" {
		return
	}
	for c := range executors(spec) {
		setEnv(c, corev1.EnvVar{Name: taskexecutor.RootCertificateEnv, Value: root})
		setEnv(c, corev1.EnvVar{Name: taskexecutor.PodUIDEnv, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.uid"},
		}})
	}
}

// executors are the containers of a pod that AddRoot means.
func executors(spec *corev1.PodSpec) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range containers {
				c := &containers[i]
				only := len(spec.Containers) == 1 && &spec.Containers[0] == c
				if (c.Name == v1alpha1.TaskExecutorContainer || only) && !yield(c) {
					return
				}
			}
		}
	}
}

// RootOf is the root that a pod's task-executor believes, "" for none. Where the only container has got others beside it since
// AddRoot, from a webhook, it is known by its having both variables; one alone in such a pod is the user's own.
func RootOf(spec *corev1.PodSpec) string {
	for c := range executors(spec) {
		if e := envOf(c, taskexecutor.RootCertificateEnv); e != nil {
			return e.Value
		}
	}
	for i := range spec.Containers {
		root, uid := envOf(&spec.Containers[i], taskexecutor.RootCertificateEnv), envOf(&spec.Containers[i], taskexecutor.PodUIDEnv)
		if root != nil && uid != nil && uid.ValueFrom != nil {
			return root.Value
		}
	}
	return ""
}

// envOf is the variable of a name, nil for none.
func envOf(c *corev1.Container, name string) *corev1.EnvVar {
	if at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }); at >= 0 {
		return &c.Env[at]
	}
	return nil
}

// Disobeys says that an executor that believes the root believed refuses every call of a controller that has the root present.
// One that believes none was made by an older controller, before there were roots, and may well obey.
//
//	| believed | present              | disobeys |
//	| none     | -                    | no       |
//	| -        | none: not loaded yet | no       |
//	| r        | r                    | no       |
//	| r        | another              | yes      |
func Disobeys(believed, present string) bool {
	return believed != "" && present != "" && believed != present
}

// setEnv puts a variable last, in place of all that the template has under its name.
func setEnv(c *corev1.Container, env corev1.EnvVar) {
	c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(e corev1.EnvVar) bool { return e.Name == env.Name })
	c.Env = append(c.Env, env)
}
