// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/internal/cluster"
	"opensandbox.io/controller/test/wrappers"
)

// newHand is a hand in a world with three nodes, all pools, a pod and a batch.
func newHand(t *testing.T) *hand {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	objects := []client.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: "pod", UID: "uid"}},
		wrappers.MakeBatch(faultsNamespace, "b-00001").Pool(noopPool).Obj(),
	}
	for _, name := range poolNames {
		objects = append(objects, poolOf(name, bounds(chance(1))))
	}
	for _, name := range []string{"n-0", "n-1", "n-2"} {
		objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": name}}})
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&corev1.Pod{}, &corev1.Node{}).Build()
	h := &hand{client: c, random: chance(1), done: newTally()}
	if h.nodes, err = nodesAsTheyAre(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hand) do(t *testing.T, deed func(context.Context) (bool, error)) {
	t.Helper()
	if did, err := deed(t.Context()); !did || err != nil {
		t.Fatalf("did it: %v (%v)", did, err)
	}
}

func listed[L client.ObjectList](t *testing.T, h *hand, list L) L {
	t.Helper()
	if err := h.client.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAPodThatFailsIsNotReadyAnyMore(t *testing.T) {
	h := newHand(t)
	h.do(t, h.failPod)
	if pods := listed(t, h, &corev1.PodList{}).Items; pods[0].Status.Phase != corev1.PodFailed {
		t.Errorf("status %+v", pods[0].Status)
	}
}

func TestWhatIsDoneToNodesIsUndoneAtTheEnd(t *testing.T) {
	h := newHand(t)
	h.do(t, h.removeNode)
	if n := len(listed(t, h, &corev1.NodeList{}).Items); n != 2 {
		t.Fatalf("%d nodes are left, want 2", n)
	}
	if did, err := h.cordonNode(t.Context()); did || err != nil {
		t.Errorf("did something to another node (%v), though only two thirds are left", err)
	}
	if err := h.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.do(t, h.cordonNode)
	cordoned := 0
	for _, n := range listed(t, h, &corev1.NodeList{}).Items {
		if n.Spec.Unschedulable {
			cordoned++
		}
	}
	if cordoned != 1 {
		t.Errorf("%d nodes are cordoned, want one", cordoned)
	}
	if err := h.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes := listed(t, h, &corev1.NodeList{}).Items
	for _, n := range nodes {
		if n.Spec.Unschedulable || n.Labels["of"] != n.Name {
			t.Errorf("node %s is cordoned (%v) or not as it was: %v", n.Name, n.Spec.Unschedulable, n.Labels)
		}
	}
	if len(nodes) != 3 {
		t.Errorf("%d nodes, want 3", len(nodes))
	}
}

func TestAPoolThatIsDeletedIsMadeAgain(t *testing.T) {
	h := newHand(t)
	h.do(t, h.deletePool)
	if n := len(listed(t, h, &v1alpha1.PoolList{}).Items); n != len(poolNames)-1 {
		t.Fatalf("%d pools are left", n)
	}
	h.later[0].at = time.Now()
	h.endDue(t.Context())
	if n := len(listed(t, h, &v1alpha1.PoolList{}).Items); n != len(poolNames) || len(h.later) != 0 {
		t.Errorf("%d pools, and %d things are left to be ended", n, len(h.later))
	}
}

func TestWhatUsersDoIsAccepted(t *testing.T) {
	h := newHand(t)
	for name, deed := range map[string]func(context.Context) (bool, error){
		"boundPool": h.boundPool, "updatePool": h.updatePool, "scaleBatch": h.scaleBatch, "expireBatch": h.expireBatch, "labelPod": h.labelPod,
	} {
		t.Run(name, func(t *testing.T) { h.do(t, deed) })
	}
	sb := listed(t, h, &v1alpha1.BatchSandboxList{}).Items[0]
	if sb.Spec.ExpireTime == nil {
		t.Errorf("spec %+v, want one that expires", sb.Spec)
	}
	if pod := listed(t, h, &corev1.PodList{}).Items[0]; pod.Labels[v1alpha1.EvictLabel] != "" || len(pod.Labels) != 1 {
		t.Errorf("labels %v, want the one for eviction", pod.Labels)
	}
	for _, p := range listed(t, h, &v1alpha1.PoolList{}).Items {
		if p.Spec.RecycleStrategy == nil || p.Spec.Template == nil {
			t.Errorf("pool %s has lost a part of its spec: %+v", p.Name, p.Spec)
		}
	}
}
