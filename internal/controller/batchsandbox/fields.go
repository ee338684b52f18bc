// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// fieldRef says which entry of a task's environment takes its value from a field of the sandbox's pod.
type fieldRef struct {
	entry int // in Process.Env
	path  string
}

// environment renders the environment of a task. Entries that take a field of the pod are left empty and named in the
// second result. The error says what to change, and completes a sentence that begins with the index.
func environment(env []corev1.EnvVar) ([]taskexecutor.EnvVar, []fieldRef, error) {
	var vars []taskexecutor.EnvVar
	var refs []fieldRef
	for i := range env {
		e := &env[i]
		if e.ValueFrom != nil {
			path, err := fieldPathOf(e)
			if err != nil {
				return nil, nil, err
			}
			refs = append(refs, fieldRef{entry: len(vars), path: path})
		}
		vars = append(vars, taskexecutor.EnvVar{Name: e.Name, Value: e.Value})
	}
	return vars, refs, nil
}

// fieldPathOf checks the valueFrom of an entry by the rules of a container's environment, with one source allowed:
//
//	| valueFrom                          | value | result                                        |
//	| fieldRef with a known field        | empty | the field                                     |
//	| fieldRef with a known field        | set   | refused: one of the two                       |
//	| fieldRef with another field        | -     | refused: the known ones are named             |
//	| configMapKeyRef, secretKeyRef,     | -     | refused: the controller reads nothing for     |
//	| fileKeyRef                         |       | users who may not be allowed to read it       |
//	| resourceFieldRef                   | -     | refused: a task has no resources of its own   |
//	| empty, or two of these             | -     | refused                                       |
func fieldPathOf(e *corev1.EnvVar) (string, error) {
	from := e.ValueFrom
	elsewhere := func(kind, member string) error {
		return fmt.Errorf("takes %s from a %s, which is not read for tasks: put %s into env or envFrom of the sandbox container "+
			"in the pod template, whose environment tasks inherit, or give it a value or a fieldRef", e.Name, kind, member)
	}
	switch {
	case from.SecretKeyRef != nil:
		return "", elsewhere("Secret", "the secretKeyRef")
	case from.ConfigMapKeyRef != nil:
		return "", elsewhere("ConfigMap", "the configMapKeyRef")
	case from.FileKeyRef != nil:
		return "", elsewhere("file", "the fileKeyRef")
	case from.ResourceFieldRef != nil:
		return "", fmt.Errorf("takes %s from a resourceFieldRef, but a task has no resources of its own: put it into env of the sandbox container "+
			"in the pod template, whose environment tasks inherit", e.Name)
	case from.FieldRef == nil:
		return "", fmt.Errorf("has a valueFrom without a source for %s: give it a fieldRef, or a value instead", e.Name)
	case e.Value != "":
		return "", fmt.Errorf("gives %s both a value and a valueFrom: leave one of them out", e.Name)
	}
	path, err := checkFieldRef(from.FieldRef)
	if err != nil {
		return "", fmt.Errorf("takes %s from fieldRef %q: %w", e.Name, from.FieldRef.FieldPath, err)
	}
	return path, nil
}

// podFields are the fields of a pod that an environment can take, as the kubelet gives them to a container.
func podFields() map[string]func(*corev1.Pod) string {
	return map[string]func(*corev1.Pod) string{
		"metadata.name":           func(p *corev1.Pod) string { return p.Name },
		"metadata.namespace":      func(p *corev1.Pod) string { return p.Namespace },
		"metadata.uid":            func(p *corev1.Pod) string { return string(p.UID) },
		"spec.nodeName":           func(p *corev1.Pod) string { return p.Spec.NodeName },
		"spec.serviceAccountName": func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
		"status.hostIP":           func(p *corev1.Pod) string { return p.Status.HostIP },
		"status.hostIPs":          hostIPs,
		"status.podIP":            func(p *corev1.Pod) string { return p.Status.PodIP },
		"status.podIPs":           podIPs,
	}
}

func hostIPs(p *corev1.Pod) string {
	ips := make([]string, len(p.Status.HostIPs))
	for i := range ips {
		ips[i] = p.Status.HostIPs[i].IP
	}
	return strings.Join(ips, ",")
}

func podIPs(p *corev1.Pod) string {
	ips := make([]string, len(p.Status.PodIPs))
	for i := range ips {
		ips[i] = p.Status.PodIPs[i].IP
	}
	return strings.Join(ips, ",")
}

// Fields of a pod of which one entry is taken: metadata.labels['app'].
const (
	labelsField      = "metadata.labels"
	annotationsField = "metadata.annotations"
)

// checkFieldRef returns the path of a field that exists, by today's name.
func checkFieldRef(ref *corev1.ObjectFieldSelector) (string, error) {
	if ref.APIVersion != "" && ref.APIVersion != "v1" {
		return "", fmt.Errorf("apiVersion %q is not known: leave it out", ref.APIVersion)
	}
	path := ref.FieldPath
	if path == "spec.host" { // its name of old, which pods take too
		path = "spec.nodeName"
	}
	if _, ok := podFields()[path]; ok {
		return path, nil
	}
	field, key, ok := subscript(path)
	var wrong []string
	switch {
	case ok && field == labelsField:
		wrong = validation.IsQualifiedName(key)
	case ok && field == annotationsField:
		wrong = validation.IsQualifiedName(strings.ToLower(key))
	default:
		return "", errors.New("there is no such field; there are metadata.labels['KEY'], metadata.annotations['KEY'], " + knownFields())
	}
	if len(wrong) > 0 {
		return "", fmt.Errorf("the key is wrong: %s", strings.Join(wrong, "; "))
	}
	return path, nil
}

func knownFields() string {
	var names []string
	for name := range podFields() {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// subscript splits metadata.labels['app'] into the field and the key.
func subscript(path string) (field, key string, ok bool) {
	inner, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	return strings.Cut(inner, "['")
}

// fieldOf is the value of a checked field. A label or annotation that the pod doesn't have is empty.
func fieldOf(pod *corev1.Pod, path string) string {
	if field, key, ok := subscript(path); ok {
		if field == labelsField {
			return pod.Labels[key]
		}
		return pod.Annotations[key]
	}
	return podFields()[path](pod)
}

// errPodNotSeen says that the cache doesn't show the pod of a sandbox any more, or not yet.
var errPodNotSeen = errors.New("the cache doesn't show the pod")

// fill gives a task the fields that it takes of the pod of its sandbox, as they are now. Only tasks that take some cost a
// look at the pod. The labels that tell the batch and the index are taken as given, for those of a pooled pod come later.
func (r *Reconciler) fill(ctx context.Context, obs *observed, index int, refs []fieldRef, env []taskexecutor.EnvVar) error {
	if len(refs) == 0 {
		return nil
	}
	s := obs.sandboxes[index]
	pod := &corev1.Pod{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: obs.sb.Namespace, Name: s.podName}, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != s.podUID:
		return errPodNotSeen
	case err != nil:
		return fmt.Errorf("get pod %s: %w", s.podName, err)
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[v1alpha1.BatchNameLabel], pod.Labels[v1alpha1.PodIndexLabel] = obs.sb.Name, strconv.Itoa(index)
	for _, ref := range refs {
		env[ref.entry].Value = fieldOf(pod, ref.path)
	}
	return nil
}

// settleSources gives each variable that a patch names the source that the patch gives it. A strategic merge leaves the
// template's value beside the patch's valueFrom, or the other way round.
func settleSources(env []corev1.EnvVar, patch []byte) error {
	if !slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.ValueFrom != nil }) {
		return nil // the usual case
	}
	var changes struct {
		Spec struct {
			Process struct {
				Env []struct {
					Name      string           `json:"name"`
					Value     *string          `json:"value"`
					ValueFrom *json.RawMessage `json:"valueFrom"`
				} `json:"env"`
			} `json:"process"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(patch, &changes); err != nil {
		return err
	}
	for _, change := range changes.Spec.Process.Env {
		i := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == change.Name })
		switch {
		case i < 0:
		case change.ValueFrom != nil && change.Value == nil:
			env[i].Value = ""
		case change.Value != nil && change.ValueFrom == nil:
			env[i].ValueFrom = nil
		}
	}
	return nil
}
