// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/internal/scheduler"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// readyNode is a node that has been Ready, or not, for so long.
func readyNode(status corev1.ConditionStatus, since time.Duration) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "uid-n", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-since))},
		}},
	}
}

func TestPlanNode(t *testing.T) {
	with := func(change func(*corev1.Node)) *corev1.Node {
		node := readyNode(corev1.ConditionTrue, time.Hour)
		change(node)
		return node
	}
	taint := func(key string) *corev1.Node {
		return with(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: corev1.TaintEffectNoSchedule}} })
	}
	cordoned, lost := decision{state: scheduler.NodeCordoned}, decision{state: scheduler.NodeLost}
	tests := map[string]struct {
		node *corev1.Node
		want decision
	}{
		"a Ready node is fit":                     {readyNode(corev1.ConditionTrue, 0), decision{state: scheduler.NodeFit}},
		"a cordoned node":                         {with(func(n *corev1.Node) { n.Spec.Unschedulable = true }), cordoned},
		"the taint of the cordon alone":           {taint("node.kubernetes.io/unschedulable"), cordoned},
		"a node the cluster autoscaler drains":    {taint("ToBeDeletedByClusterAutoscaler"), cordoned},
		"a candidate for that may be kept":        {taint("DeletionCandidateOfClusterAutoscaler"), decision{state: scheduler.NodeFit}},
		"a node Karpenter drains":                 {taint("karpenter.sh/disrupted"), cordoned},
		"a node an older Karpenter drains":        {taint("karpenter.sh/disruption"), cordoned},
		"a node that is out of service":           {taint("node.kubernetes.io/out-of-service"), cordoned},
		"a taint for pods of a kind says nothing": {taint("nvidia.com/gpu"), decision{state: scheduler.NodeFit}},
		"not Ready just now":                      {readyNode(corev1.ConditionFalse, 0), decision{state: scheduler.NodeNotReady, again: time.Minute}},
		"unknown for 20 s":                        {readyNode(corev1.ConditionUnknown, 20*time.Second), decision{state: scheduler.NodeNotReady, again: 40 * time.Second}},
		"not Ready for a minute":                  {readyNode(corev1.ConditionFalse, time.Minute), lost},
		"unknown for an hour, and cordoned": {func() *corev1.Node {
			n := readyNode(corev1.ConditionUnknown, time.Hour)
			n.Spec.Unschedulable = true
			return n
		}(), lost},
		"a new node without a condition is not Ready yet": {
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-10 * time.Second))}},
			decision{state: scheduler.NodeNotReady, again: 50 * time.Second},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := planNode(tt.node, now); got != tt.want {
				t.Errorf("decision %+v, want %+v", got, tt.want)
			}
			slim, err := Slim(tt.node.DeepCopy())
			if err != nil {
				t.Fatal(err)
			}
			if got := planNode(slim.(*corev1.Node), now); got != tt.want {
				t.Errorf("decision about the slim node %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestPlanGone(t *testing.T) {
	if got, want := planGone(now.Add(-4*time.Minute), now), (decision{state: scheduler.NodeLost, again: 6 * time.Minute}); got != want {
		t.Errorf("gone for 4 minutes: %+v, want %+v", got, want)
	}
	if got, want := planGone(now.Add(-10*time.Minute), now), (decision{forget: true}); got != want {
		t.Errorf("gone for 10 minutes: %+v, want %+v", got, want)
	}
}
