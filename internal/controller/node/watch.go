// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// Slim keeps of a node what planNode reads, and what makes it an object of the cache.
func Slim(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Node{
		TypeMeta: node.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, CreationTimestamp: node.CreationTimestamp,
		},
		Spec: corev1.NodeSpec{Unschedulable: node.Spec.Unschedulable},
	}
	for i := range node.Spec.Taints {
		if drains(node.Spec.Taints[i]) {
			slim.Spec.Taints = append(slim.Spec.Taints, corev1.Taint{Key: node.Spec.Taints[i].Key})
		}
	}
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	return slim, nil
}

// matters lets through what may change a decision. Of a Slim node that is all but its resourceVersion, which heartbeats
// change too.
func matters() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		if !ok1 || !ok2 {
			return true
		}
		readyBefore, sinceBefore := readiness(before)
		readyAfter, sinceAfter := readiness(after)
		return before.UID != after.UID || before.Spec.Unschedulable != after.Spec.Unschedulable ||
			readyBefore != readyAfter || !sinceBefore.Equal(sinceAfter) ||
			!equality.Semantic.DeepEqual(drainKeys(before), drainKeys(after))
	}}
}

func drainKeys(node *corev1.Node) []string {
	var keys []string
	for i := range node.Spec.Taints {
		if drains(node.Spec.Taints[i]) {
			keys = append(keys, node.Spec.Taints[i].Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Allowed says whether the controller may watch nodes. Without the right, as where its rights end at some namespaces, it goes by
// the conditions of pods, as if every node were fit: the cluster marks pods of a node that is not Ready, and in the end deletes them.
func Allowed(ctx context.Context, reader client.Reader) (bool, error) {
	err := reader.List(ctx, &corev1.NodeList{}, client.Limit(1))
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsForbidden(err):
		return false, nil
	default:
		return false, fmt.Errorf("list nodes: %w", err)
	}
}
