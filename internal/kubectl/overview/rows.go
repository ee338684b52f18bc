// SPDX-License-Identifier: Apache-2.0

// Package overview shows batches and pools at a glance: as they are (get), and by pressure (top).
package overview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/queue"
)

const none = "-"

// batchColumns are those of get.
func batchColumns() []cluster.Column {
	return []cluster.Column{
		{Name: "BATCH"}, {Name: "READY"}, {Name: "STATUS"}, {Name: "TASKS"}, {Name: "POOL"}, {Name: "EXPIRES"}, {Name: "AGE"},
		{Name: "PRIORITY", Wide: true}, {Name: "QUEUE", Wide: true}, {Name: "RESTARTS", Wide: true}, {Name: "FAILED", Wide: true},
	}
}

// batchRow is a batch in one line.
func batchRow(sb *v1alpha1.BatchSandbox, now time.Time) []any {
	pool, place := cmp.Or(sb.Spec.PoolRef, none), none
	if q := sb.Status.Queue; q != nil {
		place = fmt.Sprintf("%d, %d waiting", q.Position, q.Waiting)
	}
	priority := int32(0)
	if sb.Spec.Priority != nil {
		priority = *sb.Spec.Priority
	}
	return []any{
		sb.Name, fmt.Sprintf("%d/%d", sb.Status.Ready, cluster.Replicas(sb)), batchStatus(sb), tasks(sb), pool, expires(sb, now), age(sb.CreationTimestamp, now),
		priority, place, sb.Status.Restarts, failed(sb),
	}
}

// batchStatus is a batch in one or two words. The first row that matches:
//
//	| being deleted | answered | Allocated=False because of | Ready=False because of | tasks        | status             |
//	| yes           | -        | -                          | -                      | -            | Terminating        |
//	| no            | no       | -                          | -                      | -            | New                |
//	| no            | yes      | WaitingForPool             | -                      | -            | Waiting            |
//	| no            | yes      | CreatingPods               | -                      | -            | Starting           |
//	| no            | yes      | else                       | -                      | -            | the reason         |
//	| no            | yes      | -                          | PodsNotReady           | not all over | Starting           |
//	| no            | yes      | -                          | else                   | -            | the reason         |
//	| no            | yes      | True                       | True                   | all over     | Completed, Failed  |
//	| no            | yes      | True                       | True                   | some, or none | Running, Ready    |
func batchStatus(sb *v1alpha1.BatchSandbox) string {
	allocated := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionAllocated)
	ready := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady)
	completed := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionTasksCompleted)
	switch {
	case sb.DeletionTimestamp != nil:
		return "Terminating"
	case allocated == nil || ready == nil:
		return "New"
	case allocated.Status == metav1.ConditionFalse:
		return word(allocated.Reason)
	case completed != nil && completed.Status == metav1.ConditionTrue && completed.Reason == v1alpha1.ReasonTasksFailed:
		return "Failed"
	case completed != nil && completed.Status == metav1.ConditionTrue:
		return "Completed"
	case ready.Status == metav1.ConditionFalse:
		return word(ready.Reason)
	case completed != nil:
		return "Running"
	default:
		return "Ready"
	}
}

// word is a reason in words for a column; what is a mistake keeps its reason.
func word(reason string) string {
	switch reason {
	case v1alpha1.ReasonWaitingForPool:
		return "Waiting"
	case v1alpha1.ReasonCreatingPods, v1alpha1.ReasonPodsNotReady:
		return "Starting"
	default:
		return reason
	}
}

// tasks counts a batch's tasks by what they are doing: "3 running, 9 done".
func tasks(sb *v1alpha1.BatchSandbox) string {
	if sb.Spec.TaskTemplate == nil {
		return none
	}
	var parts []string
	for _, part := range []struct {
		n    int32
		word string
	}{
		{sb.Status.TaskPending, "pending"}, {sb.Status.TaskRunning, "running"}, {sb.Status.TaskSucceed, "done"},
		{sb.Status.TaskFailed, "failed"}, {sb.Status.TaskUnknown, "unknown"},
	} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.word))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), none)
}

// failed tells the failed tasks by reason.
func failed(sb *v1alpha1.BatchSandbox) string {
	parts := make([]string, 0, len(sb.Status.FailedReasons))
	for _, r := range sb.Status.FailedReasons {
		parts = append(parts, r.Reason+" "+r.Indexes)
	}
	return cmp.Or(strings.Join(parts, "; "), none)
}

// expires is how long a batch has left, as far as its expireTime tells.
func expires(sb *v1alpha1.BatchSandbox, now time.Time) string {
	switch t := sb.Spec.ExpireTime; {
	case t == nil:
		return none
	case !now.Before(t.Time):
		return "now"
	default:
		return duration.HumanDuration(t.Sub(now))
	}
}

func age(made metav1.Time, now time.Time) string {
	if made.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(max(0, now.Sub(made.Time)))
}

func poolColumns() []cluster.Column {
	return []cluster.Column{
		{Name: "POOL"}, {Name: "PODS"}, {Name: "HELD"}, {Name: "IDLE"}, {Name: "STARTING"}, {Name: "WAITING"}, {Name: "BUFFER"}, {Name: "STATUS"}, {Name: "AGE"},
		{Name: "UPDATED", Wide: true}, {Name: "RECYCLED", Wide: true}, {Name: "REPLACED", Wide: true}, {Name: "LAST DECISION", Wide: true},
	}
}

// poolRow is a pool in one line.
func poolRow(p *v1alpha1.Pool, now time.Time) []any {
	s, c := p.Status, p.Spec.CapacitySpec
	return []any{
		p.Name, fmt.Sprintf("%d/%d", s.Total, c.PoolMax), s.Allocated, s.Available, s.Starting, s.Waiting, fmt.Sprintf("%d-%d", c.BufferMin, c.BufferMax),
		poolStatus(p), age(p.CreationTimestamp, now),
		s.Updated, s.Recycled, s.Replaced, cmp.Or(s.LastScaleReason, none),
	}
}

// poolStatus is a pool in one word. The first row that matches:
//
//	| being deleted | answered | PodsFailing | ScalingLimited | Ready                | status                    |
//	| yes           | -        | -           | -              | -                    | Terminating               |
//	| no            | no       | -           | -              | -                    | New                       |
//	| no            | yes      | True        | -              | -                    | the reason of PodsFailing |
//	| no            | yes      | -           | PoolMaxReached | -                    | PoolMaxReached            |
//	| no            | yes      | -           | -              | False, BufferLow     | Growing, or BufferLow     |
//	| no            | yes      | -           | -              | False                | its reason                |
//	| no            | yes      | -           | -              | True                 | Ready                     |
func poolStatus(p *v1alpha1.Pool) string {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	failing := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionPodsFailing)
	limited := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionScalingLimited)
	switch {
	case p.DeletionTimestamp != nil:
		return "Terminating"
	case ready == nil:
		return "New"
	case failing != nil && failing.Status == metav1.ConditionTrue:
		return failing.Reason
	case limited != nil && limited.Status == metav1.ConditionTrue && limited.Reason == v1alpha1.ReasonPoolMaxReached:
		return limited.Reason
	case ready.Status == metav1.ConditionFalse && ready.Reason == v1alpha1.ReasonBufferLow && p.Status.Starting > 0:
		return "Growing"
	case ready.Status == metav1.ConditionFalse:
		return ready.Reason
	default:
		return "Ready"
	}
}

// --- pressure ---------------------------------------------------------------------------------------------

func pressureColumns() []cluster.Column {
	return []cluster.Column{
		{Name: "POOL"}, {Name: "WAITING"}, {Name: "HELD"}, {Name: "IDLE"}, {Name: "STARTING"}, {Name: "OTHER"}, {Name: "TOTAL"}, {Name: "MIN"}, {Name: "MAX"}, {Name: "USED"},
		{Name: "STATUS"}, {Name: "LAST DECISION", Wide: true},
	}
}

// used is the share of poolMax that batches hold, in percent.
func used(p *v1alpha1.Pool) int {
	if p.Spec.CapacitySpec.PoolMax == 0 {
		return 0
	}
	return int(100 * int64(p.Status.Allocated) / int64(p.Spec.CapacitySpec.PoolMax))
}

func pressureRow(p *v1alpha1.Pool) []any {
	s, c := p.Status, p.Spec.CapacitySpec
	return []any{
		p.Name, s.Waiting, s.Allocated, s.Available, s.Starting, max(0, s.Total-s.Allocated-s.Available-s.Starting), s.Total, c.PoolMin, c.PoolMax,
		fmt.Sprintf("%d%%", used(p)), poolStatus(p), cmp.Or(s.LastScaleReason, none),
	}
}

// byPressure orders pools: those with more waiting demand first, then those of which more is held, then by name.
func byPressure(a, b *v1alpha1.Pool) int {
	return cmp.Or(
		cmp.Compare(b.Status.Waiting, a.Status.Waiting), cmp.Compare(used(b), used(a)),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
	)
}

func needColumns() []cluster.Column {
	return []cluster.Column{
		{Name: "BATCH"}, {Name: "MISSING"}, {Name: "READY"}, {Name: "WAITING"}, {Name: "POOL"}, {Name: "QUEUE"}, {Name: "STATUS"}, {Name: "MESSAGE", Wide: true},
	}
}

// missing is the number of sandboxes that a batch wants and that are not Ready. What it gave back for good is not wanted.
func missing(sb *v1alpha1.BatchSandbox) int {
	if c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status == metav1.ConditionTrue {
		return 0
	}
	if sb.Spec.PoolRef == "" {
		return max(0, cluster.Replicas(sb)-int(sb.Status.Ready))
	}
	return max(0, queue.Wants(sb)+queue.Held(sb)-int(sb.Status.Ready))
}

// since is when a batch began to miss something.
func since(sb *v1alpha1.BatchSandbox) metav1.Time {
	for _, kind := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionReady} {
		if c := meta.FindStatusCondition(sb.Status.Conditions, kind); c != nil && c.Status == metav1.ConditionFalse {
			return c.LastTransitionTime
		}
	}
	return sb.CreationTimestamp
}

func needRow(sb *v1alpha1.BatchSandbox, now time.Time) []any {
	place, message := none, none
	if q := sb.Status.Queue; q != nil {
		place = fmt.Sprint(q.Position)
	}
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionAllocated} {
		if c := meta.FindStatusCondition(sb.Status.Conditions, kind); c != nil && c.Status == metav1.ConditionFalse {
			message = c.Message
		}
	}
	return []any{
		sb.Name, missing(sb), fmt.Sprintf("%d/%d", sb.Status.Ready, cluster.Replicas(sb)), age(since(sb), now), cmp.Or(sb.Spec.PoolRef, none), place,
		batchStatus(sb), message,
	}
}

// neediest are the batches that miss something, those that miss it for longest first, and of the same time those that miss most.
func neediest(batches []*v1alpha1.BatchSandbox, limit int) []*v1alpha1.BatchSandbox {
	var needy []*v1alpha1.BatchSandbox
	for _, sb := range batches {
		if sb.DeletionTimestamp == nil && missing(sb) > 0 {
			needy = append(needy, sb)
		}
	}
	slices.SortStableFunc(needy, func(a, b *v1alpha1.BatchSandbox) int {
		sinceA, sinceB := since(a), since(b)
		return cmp.Or(sinceA.Compare(sinceB.Time), cmp.Compare(missing(b), missing(a)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return needy[:min(len(needy), limit)]
}
