// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

type name = types.NamespacedName

// world is what the API server has after some change.
type world struct {
	now time.Time
	// nodeLoss is Settings.NodeLoss.
	nodeLoss time.Duration

	pods    map[name]*corev1.Pod
	batches map[name]*batch
	pools   map[name]*pool
	nodes   map[string]*corev1.Node

	// holders are the live batches that name a pod, the first to do so first.
	holders map[name][]holder

	// known are all batches that ever were, and podNames and lostAt the pods: their names, and when it was first seen that one
	// is no sandbox any more, or that its node is not fit to run it.
	known    map[types.UID]*batch
	podNames map[types.UID]name
	lostAt   map[types.UID]time.Time
	// revisions are those of the last changes, by object.
	revisions map[types.UID]int64
}

// batch is a batch and what it holds. It is kept when the object is gone.
type batch struct {
	obj   *v1alpha1.BatchSandbox
	gone  bool
	named []string // by index, "" for none; empty unless the batch is live
	// sizes are the numbers of replicas it had, one after the other.
	sizes []int
	// editedAt is when its spec was last changed after its creation.
	editedAt time.Time
	// delivered: its endpoints were complete once.
	delivered bool
}

// pool has what became of all Pools of one name, for their pods are told apart by the name alone.
type pool struct {
	obj   *v1alpha1.Pool // nil while there is none
	specs []spec
	pods  map[name]bool
}

// spec is a spec that was in force for some time.
type spec struct {
	v1alpha1.PoolSpec
	until time.Time // zero: still
}

// holder is a batch that names a pod.
type holder struct {
	batch    *batch
	index    int
	revision int64
}

// step is a change with what was before, and what it did to the holds of a batch.
type step struct {
	Change
	before, after client.Object // nil for none

	batch *batch // nil unless a batch changed
	// given are the indexes at which the batch names pods that it did not name before, letGo the pods it names no more, and twice
	// the indexes at which it newly names a pod that stands at a lower index too.
	given []int
	letGo []string
	twice []int
}

func newWorld(nodeLoss time.Duration) *world {
	return &world{
		nodeLoss: nodeLoss,
		pods:     map[name]*corev1.Pod{}, batches: map[name]*batch{}, pools: map[name]*pool{}, nodes: map[string]*corev1.Node{},
		holders: map[name][]holder{}, known: map[types.UID]*batch{}, podNames: map[types.UID]name{},
		lostAt: map[types.UID]time.Time{}, revisions: map[types.UID]int64{},
	}
}

func nameOf(obj client.Object) name { return client.ObjectKeyFromObject(obj) }

// titled names an object as findings do.
func titled(kind string, n name) string {
	if n.Namespace == "" {
		return kind + " " + n.Name
	}
	return kind + " " + n.String()
}

func (b *batch) title() string { return titled("BatchSandbox", nameOf(b.obj)) }

// take makes the world what it is after a change.
func (w *world) take(c Change) step {
	w.now = c.Time
	s := step{Change: c, after: c.Object}
	if c.Type == Deleted {
		s.after = nil
	}
	w.revisions[c.Object.GetUID()] = c.Revision
	switch obj := c.Object.(type) {
	case *corev1.Pod:
		w.takePod(&s, obj)
	case *v1alpha1.BatchSandbox:
		w.takeBatch(&s, obj)
	case *v1alpha1.Pool:
		w.takePool(&s, obj)
	case *corev1.Node:
		w.takeNode(&s, obj)
	}
	return s
}

func (w *world) takePod(s *step, pod *corev1.Pod) {
	n := nameOf(pod)
	if before, ok := w.pods[n]; ok {
		s.before = before
		w.members(before, func(p *pool) { delete(p.pods, n) })
	}
	w.podNames[pod.UID] = n
	if s.after == nil {
		delete(w.pods, n)
		w.lose(pod)
		return
	}
	w.pods[n] = pod
	w.members(pod, func(p *pool) { p.pods[n] = true })
	if pod.DeletionTimestamp != nil || hasEnded(pod) {
		w.lose(pod)
	}
}

func (w *world) lose(pod *corev1.Pod) {
	if _, known := w.lostAt[pod.UID]; !known {
		w.lostAt[pod.UID] = w.now
	}
}

// members calls f with the pool of a pod, if it is of one.
func (w *world) members(pod *corev1.Pod, f func(*pool)) {
	if of := pod.Labels[v1alpha1.PoolNameLabel]; of != "" {
		f(w.pool(name{Namespace: pod.Namespace, Name: of}))
	}
}

func (w *world) pool(n name) *pool {
	p, ok := w.pools[n]
	if !ok {
		p = &pool{pods: map[name]bool{}}
		w.pools[n] = p
	}
	return p
}

func (w *world) takePool(s *step, obj *v1alpha1.Pool) {
	p := w.pool(nameOf(obj))
	if p.obj != nil {
		s.before = p.obj
		p.specs[len(p.specs)-1].until = w.now
	}
	p.obj = nil
	if s.after != nil {
		p.obj = obj
		p.specs = append(p.specs, spec{PoolSpec: obj.Spec})
	}
}

// inForce are the specs of a pool that a controller could go by since some time. Where there was none, it is the last one.
func (p *pool) inForce(since time.Time) []spec {
	first := len(p.specs) - 1
	for first > 0 && !p.specs[first-1].until.Before(since) {
		first--
	}
	return p.specs[max(0, first):]
}

func (w *world) takeNode(s *step, node *corev1.Node) {
	before, ok := w.nodes[node.Name]
	if ok {
		s.before = before
	}
	if s.after == nil {
		delete(w.nodes, node.Name)
	} else {
		w.nodes[node.Name] = node
	}
	if s.after != nil && isReady(node.Status.Conditions) {
		return
	}
	for _, pod := range w.pods {
		if pod.Spec.NodeName == node.Name {
			w.lose(pod)
		}
	}
}

func isReady(conditions []corev1.NodeCondition) bool {
	return slices.ContainsFunc(conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (w *world) takeBatch(s *step, sb *v1alpha1.BatchSandbox) {
	n := nameOf(sb)
	b := w.known[sb.UID]
	if b == nil {
		b = &batch{}
		w.known[sb.UID] = b
	} else {
		s.before = b.obj
		if b.obj.Generation != sb.Generation {
			b.editedAt = w.now
		}
	}
	s.batch = b
	b.obj, b.gone = sb, s.after == nil
	if b.gone {
		delete(w.batches, n)
	} else {
		w.batches[n] = b
	}
	if size := replicas(sb); len(b.sizes) == 0 || b.sizes[len(b.sizes)-1] != size {
		b.sizes = append(b.sizes, size)
	}
	w.hold(s, b, w.namedBy(b))
	b.delivered = b.delivered || IsDelivered(sb)
}

// namedBy are the pods that a batch has, by index.
//
//	| object | being deleted | our finalizer | alloc-status    | the batch has            |
//	| gone   | -             | -             | -               | none                     |
//	| there  | yes           | no            | -               | none: it has let them go |
//	| there  | yes           | yes           | can be read     | what is named            |
//	| there  | no            | -             | can be read     | what is named            |
//	| there  | -             | -             | can't be read   | what it had              |
func (w *world) namedBy(b *batch) []string {
	if b.gone || (b.obj.DeletionTimestamp != nil && !slices.Contains(b.obj.Finalizers, v1alpha1.PoolAllocationFinalizer)) {
		return nil
	}
	value, ok := b.obj.Annotations[v1alpha1.AllocStatusAnnotation]
	if !ok {
		return nil
	}
	var status struct {
		Pods []string `json:"pods"`
	}
	if err := json.Unmarshal([]byte(value), &status); err != nil {
		return b.named
	}
	return status.Pods
}

// hold makes a batch hold what it names.
func (w *world) hold(s *step, b *batch, named []string) {
	had, has := setOf(b.named), setOf(named)
	repeats := repeated(b.named)
	for _, index := range repeated(named) {
		if !slices.Contains(repeats, index) {
			s.twice = append(s.twice, index)
		}
	}
	for pod := range maps.Keys(had) {
		if !has[pod] {
			s.letGo = append(s.letGo, pod)
			n := name{Namespace: b.obj.Namespace, Name: pod}
			w.holders[n] = slices.DeleteFunc(w.holders[n], func(h holder) bool { return h.batch == b })
			if len(w.holders[n]) == 0 {
				delete(w.holders, n)
			}
		}
	}
	slices.Sort(s.letGo)
	for index, pod := range named {
		if pod == "" || had[pod] {
			continue
		}
		had[pod] = true
		s.given = append(s.given, index)
		n := name{Namespace: b.obj.Namespace, Name: pod}
		w.holders[n] = append(w.holders[n], holder{batch: b, index: index, revision: s.Revision})
	}
	b.named = named
}

// repeated are the indexes whose pod stands at a lower index too.
func repeated(pods []string) []int {
	var again []int
	seen := make(map[string]bool, len(pods))
	for index, pod := range pods {
		if pod != "" && seen[pod] {
			again = append(again, index)
		}
		seen[pod] = true
	}
	return again
}

func setOf(pods []string) map[string]bool {
	set := make(map[string]bool, len(pods))
	for _, pod := range pods {
		if pod != "" {
			set[pod] = true
		}
	}
	return set
}

func replicas(sb *v1alpha1.BatchSandbox) int {
	if sb.Spec.Replicas == nil {
		return 1
	}
	return int(*sb.Spec.Replicas)
}

// IsDelivered says whether a client sees the addresses of all that the batch asks for.
func IsDelivered(sb *v1alpha1.BatchSandbox) bool {
	var ips []string
	if json.Unmarshal([]byte(sb.Annotations[v1alpha1.EndpointsAnnotation]), &ips) != nil {
		return false // there are none
	}
	size := replicas(sb)
	return size > 0 && len(ips) >= size && !slices.Contains(ips[:size], "")
}

func hasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// podTitle names a pod by what is known of it.
func (w *world) podTitle(uid types.UID) string {
	if n, ok := w.podNames[uid]; ok {
		return titled("Pod", n)
	}
	return "Pod with the UID " + string(uid)
}

// sortedNames are the keys of a map by name, so that findings come in one order.
func sortedNames[V any](m map[name]V) []name {
	return slices.SortedFunc(maps.Keys(m), compareNames)
}

func compareNames(a, b name) int {
	return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
}
