// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/internal/scheduler"
)

const (
	// lostAfter is how long a node is not Ready before its sandboxes count as lost.
	lostAfter = time.Minute

	// forgetAfter is how long a node that is gone is remembered. By then the garbage collector of the cluster has deleted its
	// pods, which takes about a minute.
	forgetAfter = 10 * time.Minute
)

// decision is what a node is good for, and when time alone changes that.
type decision struct {
	state scheduler.NodeState

	// again is how long until then; 0 for never.
	again time.Duration

	// forget says that nobody will ask for the node any more.
	forget bool
}

// planNode decides what a node that exists is good for:
//
//	| Ready    | for            | cordoned or drained | state     | look again        |
//	| not True | 60 s or longer | -                   | lost      | -                 |
//	| not True | less           | -                   | not ready | when 60 s are over|
//	| True     | -              | yes                 | cordoned  | -                 |
//	| True     | -              | no                  | fit       | -                 |
//
// A node that has no Ready condition yet is not Ready since its creation.
func planNode(node *corev1.Node, now time.Time) decision {
	ready, since := readiness(node)
	if !ready {
		if left := since.Add(lostAfter).Sub(now); left > 0 {
			return decision{state: scheduler.NodeNotReady, again: left}
		}
		return decision{state: scheduler.NodeLost}
	}
	if node.Spec.Unschedulable || slices.ContainsFunc(node.Spec.Taints, drains) {
		return decision{state: scheduler.NodeCordoned}
	}
	return decision{state: scheduler.NodeFit}
}

// planGone decides about a node that is no object any more: it is lost, and forgotten after forgetAfter.
func planGone(since, now time.Time) decision {
	if left := since.Add(forgetAfter).Sub(now); left > 0 {
		return decision{state: scheduler.NodeLost, again: left}
	}
	return decision{forget: true}
}

// readiness says whether a node is Ready, and since when that is so.
func readiness(node *corev1.Node) (ready bool, since time.Time) {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return false, node.CreationTimestamp.Time
}

// drains says whether a taint is put on nodes that are about to go, some before or without the cordon. Taints that only
// keep some pods away say nothing about the pods that are there.
func drains(taint corev1.Taint) bool {
	switch taint.Key {
	case corev1.TaintNodeUnschedulable, // the cordon, also where the taint was put on alone
		corev1.TaintNodeOutOfService,                // somebody says that the node is down
		"node.cloudprovider.kubernetes.io/shutdown", // the cloud says so
		"ToBeDeletedByClusterAutoscaler",            // the cluster autoscaler drains it
		"karpenter.sh/disrupted",                    // Karpenter drains it
		"karpenter.sh/disruption":                   // the same before Karpenter 1.0
		return true
	default:
		return false
	}
}
