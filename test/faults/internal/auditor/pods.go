// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// class is what a pod of a pool is that nobody holds.
type class int

const (
	// idlePod: could be handed out.
	idlePod class = iota
	// startingPod: not Ready yet, or being recycled.
	startingPod
	// strandedPod: on a node that is cordoned or not Ready.
	strandedPod
	// unusablePod: must not be handed out any more: ended, to be evicted, or left behind by a batch.
	unusablePod
	// goingPod: being deleted.
	goingPod
)

// classOf is the first row that matches:
//
//	| being deleted | ended, marked for eviction, or a batch's labels | its node        | marked | Ready, has an IP | class    |
//	| yes           | -                                               | -               | -      | -                | going    |
//	| no            | yes                                             | -               | -      | -                | unusable |
//	| no            | no                                              | not fit for new | -      | -                | stranded |
//	| no            | no                                              | fit, or none    | no     | yes              | idle     |
//	| no            | no                                              | fit, or none    | -      | -                | starting |
func (w *world) classOf(pod *corev1.Pod) class {
	_, evict := pod.Labels[v1alpha1.EvictLabel]
	switch {
	case pod.DeletionTimestamp != nil:
		return goingPod
	case hasEnded(pod), evict, pod.Labels[v1alpha1.BatchNameLabel] != "":
		return unusablePod
	case !w.onFitNode(pod):
		return strandedPod
	case markOf(pod) == nil && isPodReady(pod) && pod.Status.PodIP != "":
		return idlePod
	default:
		return startingPod
	}
}

func isPodReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// onFitNode says whether the pod's node takes new sandboxes. A pod without a node may still get a fit one.
func (w *world) onFitNode(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return true
	}
	node := w.nodes[pod.Spec.NodeName]
	drains := func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute || t.Effect == corev1.TaintEffectNoSchedule
	}
	return node != nil && !node.Spec.Unschedulable && isReady(node.Status.Conditions) && !slices.ContainsFunc(node.Spec.Taints, drains)
}

// isSandbox says whether a pod that is held serves its user: it has not ended, and its node is not lost.
func (w *world) isSandbox(pod *corev1.Pod) bool {
	switch {
	case pod == nil, pod.DeletionTimestamp != nil, hasEnded(pod):
		return false
	case pod.Spec.NodeName == "":
		return true
	}
	node := w.nodes[pod.Spec.NodeName]
	if node == nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return w.now.Sub(c.LastTransitionTime.Time) < w.nodeLoss
		}
	}
	return true
}

// idlePods are the pods of a pool that could be handed out now.
func (w *world) idlePods(pool name) map[name]bool {
	idle := map[name]bool{}
	for n := range w.pool(pool).pods {
		if len(w.holders[n]) == 0 && w.classOf(w.pods[n]) == idlePod {
			idle[n] = true
		}
	}
	return idle
}

// missing is the number of sandboxes that a batch of a pool still wants.
func (w *world) missing(b *batch) int {
	return replicas(b.obj) - len(givenBack(b.obj)) - w.usable(b)
}

// usable is the number of sandboxes that a batch of a pool asks for and has.
func (w *world) usable(b *batch) int {
	n, released := 0, givenBack(b.obj)
	for i, pod := range b.named[:min(len(b.named), replicas(b.obj))] {
		if pod != "" && !slices.Contains(released, i) && w.isSandbox(w.pods[name{Namespace: b.obj.Namespace, Name: pod}]) {
			n++
		}
	}
	return n
}

// givenBack are the indexes that are not wanted any more since their tasks ended.
func givenBack(sb *v1alpha1.BatchSandbox) []int {
	if p := sb.Spec.TaskResourcePolicyWhenCompleted; p == nil || *p != v1alpha1.TaskResourcePolicyRelease {
		return nil
	}
	ended := slices.Concat(indexes(sb.Status.CompletedIndexes), indexes(sb.Status.FailedIndexes))
	return slices.DeleteFunc(ended, func(i int) bool { return i >= replicas(sb) })
}

// serving are the pods of each index of the batches that make their own.
func (w *world) serving() map[types.UID]map[int]*corev1.Pod {
	all := map[types.UID]map[int]*corev1.Pod{}
	for _, n := range sortedNames(w.pods) {
		pod := w.pods[n]
		of := makerOf(pod)
		index, err := strconv.Atoi(pod.Labels[v1alpha1.PodIndexLabel])
		if of == "" || err != nil || !w.isSandbox(pod) {
			continue
		}
		if all[of] == nil {
			all[of] = map[int]*corev1.Pod{}
		}
		all[of][index] = pod
	}
	return all
}

// servingPool are the pods of each index of a batch that has them from a pool.
func (w *world) servingPool(b *batch) map[int]*corev1.Pod {
	pods := map[int]*corev1.Pod{}
	for index, n := range b.named {
		if pod := w.pods[name{Namespace: b.obj.Namespace, Name: n}]; w.isSandbox(pod) {
			pods[index] = pod
		}
	}
	return pods
}

// makerOf is the batch that made the pod itself, "" for none.
func makerOf(pod *corev1.Pod) types.UID {
	for _, o := range pod.OwnerReferences {
		if o.Kind == "BatchSandbox" && o.Controller != nil && *o.Controller {
			return o.UID
		}
	}
	return ""
}

// indexes reads a compressed list as that of an Indexed Job, "0-3,7". What can't be read is none.
func indexes(text string) []int {
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || last-first > 1<<20 {
			continue
		}
		for i := first; i <= last; i++ {
			all = append(all, i)
		}
	}
	return all
}
