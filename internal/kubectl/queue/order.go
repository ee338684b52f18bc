// SPDX-License-Identifier: Apache-2.0

// Package queue tells who waits for a pool, in the order in which the controller serves them.
package queue

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/indexset"
)

// Entry is one batch that wants more sandboxes of its pool than it has.
type Entry struct {
	Namespace string `json:"namespace"`
	Pool      string `json:"pool"`
	Batch     string `json:"batch"`

	// Position counts from 1, the batch that is served next. It is what the batch's status tells, and where that tells none
	// yet the place that the order gives. 0: the batch is not in the queue, and Reason says why.
	Position int `json:"position"`

	Priority int32 `json:"priority"`

	// Wants is the number of sandboxes that the batch asks for and has not, Held of those it has.
	Wants int `json:"wants"`
	Held  int `json:"held"`

	// Gang is the number of sandboxes that are handed over together; 0 where each is as soon as there is one.
	Gang int `json:"gang,omitempty"`

	// Since is when the batch began to wait.
	Since metav1.Time `json:"since"`

	// Reason and Message are those of the condition Allocated.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Compare orders batches of one pool as the controller serves them: higher priority first, then oldest, then by name.
func Compare(a, b *v1alpha1.BatchSandbox) int {
	return cmp.Or(
		cmp.Compare(priority(b), priority(a)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

func priority(sb *v1alpha1.BatchSandbox) int32 {
	if sb.Spec.Priority == nil {
		return 0
	}
	return *sb.Spec.Priority
}

// Entries are the batches that want more of their pools: those in a queue by namespace, pool and place, and after them,
// for each pool, those that are set aside. pool chooses one pool; "" means all.
//
//	| pooled, not being deleted | wants more | place in the status, or Allocated=False/WaitingForPool, or no condition yet | listed    |
//	| no                        | -          | -                                                                           | no        |
//	| yes                       | no         | -                                                                           | no        |
//	| yes                       | yes        | yes                                                                         | in place  |
//	| yes                       | yes        | no                                                                          | set aside |
func Entries(batches []v1alpha1.BatchSandbox, pool string) []Entry {
	sorted := make([]*v1alpha1.BatchSandbox, 0, len(batches))
	for i := range batches {
		sb := &batches[i]
		if sb.Spec.PoolRef != "" && (pool == "" || sb.Spec.PoolRef == pool) && sb.DeletionTimestamp == nil && Wants(sb) > 0 {
			sorted = append(sorted, sb)
		}
	}
	slices.SortStableFunc(sorted, func(a, b *v1alpha1.BatchSandbox) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Spec.PoolRef, b.Spec.PoolRef),
			compareBools(!queued(a), !queued(b)), Compare(a, b))
	})
	entries := make([]Entry, 0, len(sorted))
	place := 0
	for i, sb := range sorted {
		if i == 0 || sorted[i-1].Namespace != sb.Namespace || sorted[i-1].Spec.PoolRef != sb.Spec.PoolRef {
			place = 0
		}
		place++
		entries = append(entries, entryOf(sb, place))
	}
	return entries
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// queued says whether a batch that wants more stands in its pool's queue.
func queued(sb *v1alpha1.BatchSandbox) bool {
	c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionAllocated)
	return sb.Status.Queue != nil || c == nil || c.Reason == v1alpha1.ReasonWaitingForPool || c.Status == metav1.ConditionTrue
}

func entryOf(sb *v1alpha1.BatchSandbox, place int) Entry {
	e := Entry{
		Namespace: sb.Namespace, Pool: sb.Spec.PoolRef, Batch: sb.Name, Priority: priority(sb),
		Wants: Wants(sb), Held: Held(sb), Since: sb.CreationTimestamp,
	}
	if gang := Gang(sb); gang > 1 && gang > e.Held {
		e.Gang = gang
	}
	if c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionAllocated); c != nil {
		e.Reason, e.Message = c.Reason, c.Message
		if c.Status == metav1.ConditionFalse {
			e.Since = c.LastTransitionTime
		}
	}
	switch {
	case !queued(sb):
	case sb.Status.Queue != nil:
		e.Position = int(sb.Status.Queue.Position)
	default:
		e.Position = place
	}
	return e
}

// Gang is the number of sandboxes that a batch wants to have together, 0 for one by one.
func Gang(sb *v1alpha1.BatchSandbox) int {
	if sb.Spec.MinAvailable == nil {
		return 0
	}
	return min(int(*sb.Spec.MinAvailable), cluster.Replicas(sb))
}

// Pods are the pods that a pooled batch names, by index, "" for none. What can't be read is none: the controller tells of
// it in a condition.
func Pods(sb *v1alpha1.BatchSandbox) []string {
	pods, err := cluster.AllocatedPods(sb)
	if err != nil {
		return nil
	}
	return pods
}

// Held is the number of pods that a pooled batch names.
func Held(sb *v1alpha1.BatchSandbox) int {
	n := 0
	for _, pod := range Pods(sb) {
		if pod != "" {
			n++
		}
	}
	return n
}

// Wants is the number of sandboxes that a pooled batch asks for and doesn't name: those it gave back under Release don't count.
func Wants(sb *v1alpha1.BatchSandbox) int {
	pods, over := Pods(sb), map[int]bool{}
	if p := sb.Spec.TaskResourcePolicyWhenCompleted; p != nil && *p == v1alpha1.TaskResourcePolicyRelease {
		for _, list := range []string{sb.Status.CompletedIndexes, sb.Status.FailedIndexes} {
			indexes, _ := indexset.Parse(list) // what can't be read was not written by the controller
			for _, index := range indexes {
				over[index] = true
			}
		}
	}
	n := 0
	for i := range cluster.Replicas(sb) {
		if !over[i] && (i >= len(pods) || pods[i] == "") {
			n++
		}
	}
	return n
}

// Waited is how long a batch of the list has been waiting, at least 0.
func (e Entry) Waited(now time.Time) time.Duration {
	return max(0, now.Sub(e.Since.Time))
}
