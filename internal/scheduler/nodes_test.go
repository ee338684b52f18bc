// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// podOn is a pod that is Ready on a node.
func podOn(name, node string) Pod {
	pod := readyPod(name)
	pod.Node = node
	return pod
}

// newPoolOn returns a ledger with a pod of pool p on each of the nodes: p-0, p-1, ...
func newPoolOn(nodes ...string) (*Ledger, *recorder) {
	l, rec := newPool(0)
	for i, node := range nodes {
		l.ObservePod(poolP, podOn(fmt.Sprintf("p-%d", i), node))
	}
	*rec = recorder{}
	return l, rec
}

func TestWhatPodsOnANodeCountAs(t *testing.T) {
	tests := map[string]struct {
		pod   func(*Pod)
		state NodeState
		want  Counts
	}{
		"fit: it may be handed out":                       {nil, NodeFit, Counts{Idle: 1, Updated: 1}},
		"cordoned: it is kept aside":                      {nil, NodeCordoned, Counts{Unusable: 1, Cordoned: 1, Updated: 1}},
		"not ready: it is kept aside":                     {nil, NodeNotReady, Counts{Unusable: 1, Away: 1, Updated: 1}},
		"lost: it is kept aside":                          {nil, NodeLost, Counts{Unusable: 1, Away: 1, Updated: 1}},
		"a starting pod on a cordoned node is no supply":  {func(p *Pod) { p.State = PodStarting }, NodeCordoned, Counts{Unusable: 1, Cordoned: 1, Updated: 1}},
		"an ended pod is unusable wherever it is":         {func(p *Pod) { p.State = PodUnusable }, NodeCordoned, Counts{Unusable: 1, Updated: 1}},
		"a deletion on a cordoned node lands":             {func(p *Pod) { p.State = PodTerminating }, NodeCordoned, Counts{Terminating: 1}},
		"a deletion on a node that is not ready is stuck": {func(p *Pod) { p.State = PodTerminating }, NodeNotReady, Counts{Terminating: 1, Stuck: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l, _ := newPool(0)
			pod := podOn("p-0", "n")
			if tt.pod != nil {
				tt.pod(&pod)
			}
			l.ObservePod(poolP, pod)
			l.ObserveNode("n", tt.state)
			if diff := cmp.Diff(tt.want, l.Counts(poolP)); diff != "" {
				t.Errorf("counts after the node's news (-want +got):\n%s", diff)
			}
			l, _ = newPool(0)
			l.ObserveNode("n", tt.state)
			l.ObservePod(poolP, pod)
			if diff := cmp.Diff(tt.want, l.Counts(poolP)); diff != "" {
				t.Errorf("counts after the pod's news (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsOfAnUnfitNodeAreNeitherHandedOutNorDeletedAndComeBack(t *testing.T) {
	for _, state := range []NodeState{NodeCordoned, NodeNotReady, NodeLost} {
		t.Run(state.String(), func(t *testing.T) {
			l, rec := newPoolOn("n", "n", "other")
			l.ObserveNode("n", state)
			if len(rec.pools) != 1 {
				t.Errorf("woken %v, want the pool once", rec.pools)
			}
			if got := l.RetireUnusable(poolP); len(got) != 0 {
				t.Errorf("%v are to be deleted, want none", got)
			}
			if diff := cmp.Diff([]string{"0:p-2"}, granted(l.Assume(demand("b", 0, 0, 1, 2)))); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
			*rec = recorder{}
			l.ObserveNode("n", NodeFit)
			if diff := cmp.Diff([]string{"b"}, rec.batches); diff != "" {
				t.Errorf("woken (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"1:p-0", "2:p-1"}, granted(l.Assume(demand("b", 0, 1, 2)))); diff != "" {
				t.Errorf("grants when the node is back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeldPodIsLostWithItsNodeAloneAndItsBatchIsWoken(t *testing.T) {
	l, rec := newPoolOn("n")
	l.Assume(demand("b", 0, 0))
	l.Confirm(key("b"))
	for _, step := range []struct {
		state      NodeState
		lost, wake bool
	}{{NodeCordoned, false, false}, {NodeNotReady, false, false}, {NodeLost, true, true}, {NodeCordoned, false, true}, {NodeFit, false, false}} {
		*rec = recorder{}
		l.ObserveNode("n", step.state)
		if got := l.Holdings(key("b"), "uid-b")[0].Pod.Lost(); got != step.lost {
			t.Errorf("node %s: lost = %v, want %v", step.state, got, step.lost)
		}
		if got := len(rec.batches) > 0; got != step.wake {
			t.Errorf("node %s: woken %v, want %v", step.state, rec.batches, step.wake)
		}
	}
	if got := l.Counts(poolP); got.Held != 1 {
		t.Errorf("counts %+v, want the pod held throughout", got)
	}
}

func TestReplacedPodOfALostNodeIsDirtyAndDeleted(t *testing.T) {
	l, _ := newPoolOn("n", "other")
	l.Assume(demand("b", 0, 0))
	l.Confirm(key("b"))
	l.ObserveNode("n", NodeLost)
	if diff := cmp.Diff([]string{"0:p-1"}, granted(l.Assume(demand("b", 0, 0)))); diff != "" {
		t.Fatalf("grants (-want +got):\n%s", diff)
	}
	l.ObserveNode("n", NodeFit)
	if got := l.RetireUnusable(poolP); len(got) != 1 || got[0].Name != "p-0" || !got[0].Dirty {
		t.Errorf("to be deleted %+v, want p-0, which is dirty", got)
	}
}

func TestPodThatWasBoundToAnUnfitNodeCountsAsOnAFitOne(t *testing.T) {
	l, _ := newPool(0)
	l.ObserveNode("n", NodeCordoned)
	l.ExpectPod(poolP, "p-0", "r1")
	l.ObservePod(poolP, podOn("p-0", "n"))
	if got := l.Counts(poolP); got.Idle != 1 {
		t.Errorf("counts %+v, want 1 idle: another pod would land there too", got)
	}
	l.ObserveNode("n", NodeNotReady)
	if got := l.Counts(poolP); got.Away != 1 {
		t.Errorf("counts %+v, want 1 away when it gets worse", got)
	}
	l.ObserveNode("n", NodeFit)
	l.ObserveNode("n", NodeCordoned)
	if got := l.Counts(poolP); got.Cordoned != 1 {
		t.Errorf("counts %+v, want 1 cordoned when that happens again", got)
	}
}

func TestStrandedPodsOnCordonedNodesAreRetiredFirst(t *testing.T) {
	l, _ := newPoolOn("away", "cordoned", "fit", "cordoned")
	l.ObserveNode("away", NodeNotReady)
	l.ObserveNode("cordoned", NodeCordoned)
	var names []string
	for _, pod := range l.RetireStranded(poolP, 9) {
		names = append(names, pod.Name)
	}
	if diff := cmp.Diff([]string{"p-1", "p-3", "p-0"}, names); diff != "" {
		t.Errorf("retired (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Counts{Idle: 1, Terminating: 3, Stuck: 1, Updated: 1}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestNodeIsForgottenWithItsLastPod(t *testing.T) {
	l, _ := newPoolOn("n")
	l.ObserveNode("n", NodeLost)
	l.ForgetNode("n")
	if got := l.NodeState("n"); got != NodeLost {
		t.Errorf("the node is %s while it has a pod, want lost", got)
	}
	l.RemovePod(poolP, "p-0", "")
	l.ObserveNode("other", NodeCordoned)
	l.ObserveNode("other", NodeFit)
	if len(l.nodes) != 0 {
		t.Errorf("%d nodes are remembered, want none", len(l.nodes))
	}
}

func TestSameNewsOfANodeWakesNobody(t *testing.T) {
	l, rec := newPoolOn("n")
	l.ObserveNode("n", NodeCordoned)
	*rec = recorder{}
	l.ObserveNode("n", NodeCordoned)
	if len(rec.pools)+len(rec.batches) != 0 {
		t.Errorf("woken %v and %v, want nobody", rec.pools, rec.batches)
	}
}

func TestWaitingListsTheQueueInOrder(t *testing.T) {
	l, _ := newPool(0)
	l.Assume(demand("young", 1, 0))
	l.Assume(demand("old", 9, 0))
	if diff := cmp.Diff([]types.NamespacedName{key("old"), key("young")}, l.Waiting(poolP)); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
	if got := l.Waiting(key("unknown")); got != nil {
		t.Errorf("queue of an unknown pool: %v, want none", got)
	}
}

// mustKnowItsNodes checks that nodes have exactly the pods that are bound to them, and that none is remembered in vain.
func mustKnowItsNodes(t *rapid.T, l *Ledger) {
	bound := 0
	for _, p := range l.pools {
		for _, e := range p.pods {
			switch {
			case e.pod.Node == "" && e.on != nil, e.pod.Node != "" && (e.on == nil || e.on.name != e.pod.Node):
				t.Fatalf("pod %s of node %q is listed at %v", e.pod.Name, e.pod.Node, e.on)
			case e.on == nil:
			case e.on.pods[e] != p || l.nodes[e.pod.Node] != e.on:
				t.Fatalf("pod %s is not among those of its node", e.pod.Name)
			default:
				bound++
			}
			if e.class == classIdle && e.nodeState() != NodeFit {
				t.Fatalf("pod %s is idle on a node that is %s", e.pod.Name, e.nodeState())
			}
		}
	}
	for name, n := range l.nodes {
		bound -= len(n.pods)
		if len(n.pods) == 0 && n.state == NodeFit {
			t.Fatalf("node %s is remembered in vain", name)
		}
	}
	if bound != 0 {
		t.Fatalf("nodes have %d pods more than there are", -bound)
	}
}

// The cost of a node's news depends on the pods there, not on those of the pool.
func TestCostOfANodesNewsDoesNotGrowWithThePool(t *testing.T) {
	var first float64
	for i, n := range []int{100, 10_000} {
		l := newLargePool(n)
		for j := range 10 {
			l.ObservePod(poolP, podOn(fmt.Sprintf("on-n-%d", j), "n"))
		}
		got := testing.AllocsPerRun(100, func() {
			l.ObserveNode("n", NodeCordoned)
			l.ObserveNode("n", NodeFit)
		})
		if i == 0 {
			first = got
		}
		if got > first {
			t.Errorf("%d pods: %.0f allocations of memory, with 100 pods %.0f", n, got, first)
		}
	}
}

// BenchmarkObserveNode is a node with 100 pods that is cordoned and uncordoned, in pools of several sizes.
func BenchmarkObserveNode(b *testing.B) {
	for _, n := range poolSizes {
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			l := newLargePool(n)
			for i := range 100 {
				l.ObservePod(poolP, podOn(fmt.Sprintf("on-n-%d", i), "n"))
			}
			b.ReportAllocs()
			for b.Loop() {
				l.ObserveNode("n", NodeCordoned)
				l.ObserveNode("n", NodeFit)
			}
		})
	}
}
