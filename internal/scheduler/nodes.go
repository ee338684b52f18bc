// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// NodeState is what a node is good for, from best to worst. A node that nobody told the ledger of is fit, so that a
// controller without the right to watch nodes works as if all were.
type NodeState int

const (
	// NodeFit: its pods may be handed out.
	NodeFit NodeState = iota

	// NodeCordoned: it runs its pods, but takes no new ones, or is being drained.
	NodeCordoned

	// NodeNotReady: its kubelet doesn't answer, and may again. A deletion of a pod there doesn't land before.
	NodeNotReady

	// NodeLost: it was not Ready for so long that its sandboxes count as lost, or it is gone.
	NodeLost
)

// String is the state in words.
func (s NodeState) String() string {
	switch s {
	case NodeFit:
		return "fit"
	case NodeCordoned:
		return "cordoned"
	case NodeNotReady:
		return "not ready"
	case NodeLost:
		return "lost"
	default:
		return "unknown"
	}
}

// node has the pods of all pools that are bound to one node.
type node struct {
	name  string
	state NodeState
	gone  bool // to be forgotten with its last pod
	pods  map[*entry]*pool
}

// NodeState returns what the ledger was told of a node.
func (l *Ledger) NodeState(name string) NodeState {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, known := l.nodes[name]; known {
		return n.state
	}
	return NodeFit
}

// ObserveNode takes over what a node is good for. Its cost is that of the pods on the node.
func (l *Ledger) ObserveNode(name string, state NodeState) {
	l.locked(func(w *wakes) {
		n := l.node(name)
		defer l.forgetNode(n)
		n.gone = false
		if n.state == state {
			return
		}
		before := n.state
		n.state = state
		for _, e := range n.sorted() {
			n.pods[e].nodeChanged(e, before, w)
		}
	})
}

// ForgetNode says that a node is gone for good. What is known of it is dropped once no pod refers to it.
func (l *Ledger) ForgetNode(name string) {
	l.locked(func(_ *wakes) {
		if n, known := l.nodes[name]; known {
			n.gone = true
			l.forgetNode(n)
		}
	})
}

// nodeChanged counts a pod anew and wakes its pool, its holder if it is lost now or no more, and the batch that waits
// longest, since it says why.
func (p *pool) nodeChanged(e *entry, before NodeState, w *wakes) {
	wasLost := worse(before, e.landed) == NodeLost
	e.landed = min(e.landed, e.on.state)
	p.count(e, -1)
	changed := p.refile(e)
	p.count(e, 1)
	if h, held := p.holders[e.pod.Name]; held && wasLost != (e.nodeState() == NodeLost) {
		w.batch(h.batch)
	}
	if !changed {
		return
	}
	w.pool(p.name)
	if head := p.queue.head(); head != nil {
		w.batch(head.Batch)
	}
}

// nodeState is what is wrong with the node of a pod, as far as it concerns the pod. What the node was already when the pod
// was bound to it is nothing wrong: its template tolerates that, or names the node, and another pod in its place would
// land there too.
func (e *entry) nodeState() NodeState {
	if e.on == nil {
		return NodeFit
	}
	return worse(e.on.state, e.landed)
}

// worse is the state of a node if it is worse than another, else fit.
func worse(state, than NodeState) NodeState {
	if state > than {
		return state
	}
	return NodeFit
}

// facts are what is known of a pod, with what only the ledger knows.
func (e *entry) facts() Pod {
	pod := e.pod
	pod.Dirty = e.dirty
	pod.OnLostNode = e.nodeState() == NodeLost
	return pod
}

// bind notes where a pod is bound to. The binding of a pod that was known before says what its node was good for then.
func (l *Ledger) bind(p *pool, e *entry, before Pod) {
	if e.on != nil && e.on.name == e.pod.Node {
		return
	}
	l.unbind(e)
	if e.pod.Node == "" {
		return
	}
	e.on = l.node(e.pod.Node)
	e.on.pods[e] = p
	if before.Name != "" {
		e.landed = e.on.state
	}
}

func (l *Ledger) unbind(e *entry) {
	if e.on == nil {
		return
	}
	n := e.on
	delete(n.pods, e)
	e.on, e.landed = nil, NodeFit
	l.forgetNode(n)
}

// Waiting returns the batches in the queue of a pool, in the order they are served.
func (l *Ledger) Waiting(name types.NamespacedName) []types.NamespacedName {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return nil
	}
	batches := make([]types.NamespacedName, len(p.queue.demands))
	for i, d := range p.queue.demands {
		batches[i] = d.Batch
	}
	return batches
}

func (l *Ledger) node(name string) *node {
	n, known := l.nodes[name]
	if !known {
		n = &node{name: name, pods: map[*entry]*pool{}}
		l.nodes[name] = n
	}
	return n
}

// forgetNode drops a node of which there is nothing to know.
func (l *Ledger) forgetNode(n *node) {
	if len(n.pods) == 0 && (n.gone || n.state == NodeFit) {
		delete(l.nodes, n.name)
	}
}

// sorted are the pods of a node by pool and name, so that what follows is reproducible.
func (n *node) sorted() []*entry {
	entries := make([]*entry, 0, len(n.pods))
	for e := range n.pods {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int {
		return cmp.Or(
			strings.Compare(n.pods[a].name.Namespace, n.pods[b].name.Namespace),
			strings.Compare(n.pods[a].name.Name, n.pods[b].name.Name),
			strings.Compare(a.pod.Name, b.pod.Name),
		)
	})
	return entries
}
