// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// fewPods is up to how many pods of a pool are read one by one: a list has all of the pool's pods.
const fewPods = 16

// Replicas returns how many sandboxes a batch asks for.
func Replicas(sb *v1alpha1.BatchSandbox) int { return int(ptr.Deref(sb.Spec.Replicas, 1)) }

// Batch returns a batch by name.
func Batch(ctx context.Context, c client.Reader, namespace, name string) (*v1alpha1.BatchSandbox, error) {
	sb := &v1alpha1.BatchSandbox{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, sb); err != nil {
		return nil, err
	}
	return sb, nil
}

// PoolOf returns the pool that a batch takes its sandboxes from; nil if it takes them from none, or the pool doesn't exist.
func PoolOf(ctx context.Context, c client.Reader, sb *v1alpha1.BatchSandbox) (*v1alpha1.Pool, error) {
	if sb.Spec.PoolRef == "" {
		return nil, nil
	}
	pool := &v1alpha1.Pool{}
	err := c.Get(ctx, client.ObjectKey{Namespace: sb.Namespace, Name: sb.Spec.PoolRef}, pool)
	if apierrors.IsNotFound(err) && !IsNotInstalled(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pool, nil
}

// AllocatedPods returns the names of the pods that a pooled batch holds, by index, "" for none. A batch without a pool has no
// such list.
func AllocatedPods(sb *v1alpha1.BatchSandbox) ([]string, error) {
	value, ok := sb.Annotations[v1alpha1.AllocStatusAnnotation]
	if !ok || sb.Spec.PoolRef == "" {
		return nil, nil
	}
	var status struct {
		Pods []string `json:"pods"`
	}
	if err := json.Unmarshal([]byte(value), &status); err != nil {
		return nil, fmt.Errorf("annotation %s of batchsandbox %s is not {\"pods\":[...]}: %w", v1alpha1.AllocStatusAnnotation, sb.Name, err)
	}
	return status.Pods, nil
}

// Pod returns the pod of one index of a batch; nil if there is none, or no more.
func Pod(ctx context.Context, c client.Reader, sb *v1alpha1.BatchSandbox, index int) (*corev1.Pod, error) {
	if sb.Spec.PoolRef == "" {
		pods, err := listPods(ctx, c, sb, client.MatchingLabels{
			v1alpha1.BatchNameLabel: sb.Name, v1alpha1.PodIndexLabel: strconv.Itoa(index),
		})
		if err != nil {
			return nil, err
		}
		return at(ownPods(sb, pods), index), nil
	}
	names, err := AllocatedPods(sb)
	if err != nil || index < 0 || index >= len(names) || names[index] == "" {
		return nil, err
	}
	return podNamed(ctx, c, sb.Namespace, names[index])
}

// Pods returns the pods of a batch by index, nil where there is none, or no more. It is as long as the highest index with a pod asks.
func Pods(ctx context.Context, c client.Reader, sb *v1alpha1.BatchSandbox) ([]*corev1.Pod, error) {
	if sb.Spec.PoolRef == "" {
		pods, err := listPods(ctx, c, sb, client.MatchingLabels{v1alpha1.BatchNameLabel: sb.Name})
		return ownPods(sb, pods), err
	}
	names, err := AllocatedPods(sb)
	if err != nil {
		return nil, err
	}
	if len(names) <= fewPods {
		return podsNamed(ctx, c, sb.Namespace, names)
	}
	pods, err := listPods(ctx, c, sb, client.MatchingLabels{v1alpha1.PoolNameLabel: sb.Spec.PoolRef})
	return pick(names, pods), err
}

func podsNamed(ctx context.Context, c client.Reader, namespace string, names []string) ([]*corev1.Pod, error) {
	pods := make([]*corev1.Pod, len(names))
	for i, name := range names {
		if name == "" {
			continue
		}
		pod, err := podNamed(ctx, c, namespace, name)
		if err != nil {
			return nil, err
		}
		pods[i] = pod
	}
	return pods, nil
}

func podNamed(ctx context.Context, c client.Reader, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pod, nil
}

func listPods(ctx context.Context, c client.Reader, sb *v1alpha1.BatchSandbox, labels client.MatchingLabels) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := c.List(ctx, &list, client.InNamespace(sb.Namespace), labels)
	return list.Items, err
}

// pick returns of pods those with the names, in their order.
func pick(names []string, pods []corev1.Pod) []*corev1.Pod {
	byName := make(map[string]*corev1.Pod, len(pods))
	for i := range pods {
		byName[pods[i].Name] = &pods[i]
	}
	picked := make([]*corev1.Pod, len(names))
	for i, name := range names {
		picked[i] = byName[name]
	}
	return picked
}

// ownPods returns by index the pods that a batch without a pool made. Where one that is going has a successor, it's that.
func ownPods(sb *v1alpha1.BatchSandbox, pods []corev1.Pod) []*corev1.Pod {
	var byIndex []*corev1.Pod
	for i := range pods {
		pod := &pods[i]
		index, err := strconv.ParseInt(pod.Labels[v1alpha1.PodIndexLabel], 10, 32)
		if err != nil || index < 0 || !metav1.IsControlledBy(pod, sb) {
			continue
		}
		if missing := int(index) + 1 - len(byIndex); missing > 0 {
			byIndex = append(byIndex, make([]*corev1.Pod, missing)...)
		}
		if have := byIndex[index]; have == nil || have.DeletionTimestamp != nil {
			byIndex[index] = pod
		}
	}
	return byIndex
}

func at(pods []*corev1.Pod, index int) *corev1.Pod {
	if index < 0 || index >= len(pods) {
		return nil
	}
	return pods[index]
}

// Events returns the events about an object, oldest first. Where the user may not read events there are none.
func Events(ctx context.Context, c client.Reader, about client.Object) ([]corev1.Event, error) {
	var list corev1.EventList
	err := c.List(ctx, &list, client.InNamespace(about.GetNamespace()), client.MatchingFields{"involvedObject.uid": string(about.GetUID())})
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return LastSeen(&a).Compare(LastSeen(&b).Time) })
	return list.Items, err
}

// LastSeen returns when an event happened last. Those of the newer API group tell it elsewhere.
func LastSeen(e *corev1.Event) metav1.Time {
	switch {
	case e.Series != nil:
		return metav1.NewTime(e.Series.LastObservedTime.Time)
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	case !e.EventTime.IsZero():
		return metav1.NewTime(e.EventTime.Time)
	}
	return e.CreationTimestamp
}

// SandboxContainer returns the name of a pod's container that is the sandbox: the one that says so in its environment, else the first
// beside the task-executor's.
func SandboxContainer(pod *corev1.Pod) string {
	first := ""
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		switch {
		case c.Name == v1alpha1.TaskExecutorContainer:
		case slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == v1alpha1.MainContainerEnv }):
			return c.Name
		case first == "":
			first = c.Name
		}
	}
	if first == "" && len(pod.Spec.Containers) > 0 {
		return pod.Spec.Containers[0].Name // an executor alone is sandbox, too
	}
	return first
}
