// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const (
	// statusPace is the least time between two writes of a pool's status of which only counts differ.
	statusPace = time.Second

	// retryPace is how long after a write that somebody else's came before the next try is.
	retryPace = 250 * time.Millisecond

	// maxMessage is the greatest length of a condition's message in bytes.
	maxMessage = 2048
)

// poolStatus is the status of a pool that is not being deleted.
//
// Ready, the first row that matches:
//
//	| spec or template | creates | buffer         | pool            | Ready                                   |
//	| invalid          | -       | -              | -               | False, what is wrong                    |
//	| valid            | refused | -              | -               | False, InvalidTemplate or PodsForbidden |
//	| valid            | -       | >= bufferMin   | -               | True, BufferReady                       |
//	| valid            | -       | -              | full, none starts | True, BufferReady                     |
//	| valid            | -       | < bufferMin    | -               | False, BufferLow                        |
//
// where the buffer has only pods that are idle now, less what batches wait for.
func poolStatus(pool *v1alpha1.Pool, obs observed, plan scheduler.CapacityPlan, v view) *v1alpha1.PoolStatus {
	status := countStatus(pool, obs)
	if v.scaleReason != "" {
		status.LastScaleReason = v.scaleReason
	}
	set := setter(pool, status, obs.now)
	set(readyCondition(pool.Spec.CapacitySpec, obs, v))
	set(limitedCondition(pool, plan))
	set(failingCondition(v.trouble))
	return status
}

// deletionStatus is the status of a pool that waits for its last sandboxes.
func deletionStatus(pool *v1alpha1.Pool, obs observed) *v1alpha1.PoolStatus {
	status := countStatus(pool, obs)
	status.Waiting = 0
	set := setter(pool, status, obs.now)
	set(metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPoolTerminatingInUse,
		Message: fmt.Sprintf("the pool is being deleted and waits for %s that batches hold", count(obs.counts.Held, "sandbox pod")),
	})
	set(limitedCondition(pool, scheduler.CapacityPlan{Limited: scheduler.LimitNone}))
	set(failingCondition(nil))
	return status
}

func countStatus(pool *v1alpha1.Pool, obs observed) *v1alpha1.PoolStatus {
	status := pool.Status.DeepCopy()
	n := obs.counts
	status.ObservedGeneration = pool.Generation
	status.Revision = obs.revision
	status.Total = asInt32(n.Total())
	status.Allocated = asInt32(n.Held)
	status.Available = asInt32(n.Idle)
	status.Updated = asInt32(n.Updated)
	status.Starting = asInt32(n.Starting)
	status.Waiting = asInt32(n.Waiting)
	status.Recycled, status.Replaced = obs.released.Recycled, obs.released.Replaced
	status.RecycleObstacle = shorten(obs.recycleObstacle, maxMessage)
	return status
}

func asInt32(n int) int32 { return int32(max(0, min(n, math.MaxInt32))) } //nolint:gosec // clamped

func setter(pool *v1alpha1.Pool, status *v1alpha1.PoolStatus, now time.Time) func(metav1.Condition) {
	return func(c metav1.Condition) {
		c.ObservedGeneration = pool.Generation
		c.LastTransitionTime = metav1.NewTime(now)
		c.Message = shorten(c.Message, maxMessage)
		meta.SetStatusCondition(&status.Conditions, c)
	}
}

func readyCondition(spec v1alpha1.CapacitySpec, obs observed, v view) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	n := obs.counts
	switch {
	case obs.invalid != nil:
		c.Reason, c.Message = obs.invalid.reason, obs.invalid.message
	case v.refused != nil:
		c.Reason, c.Message = v.refused.reason, v.refused.message
	case n.Idle-n.Waiting >= int(spec.BufferMin):
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonBufferReady
		c.Message = fmt.Sprintf("at least bufferMin (%d) pods are idle", spec.BufferMin)
	case n.Total() >= int(spec.PoolMax) && n.Starting == 0 && n.Unusable == 0:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonBufferReady
		c.Message = fmt.Sprintf("the pool has poolMax (%d) pods, as many as it may", spec.PoolMax)
	default:
		c.Reason = v1alpha1.ReasonBufferLow
		c.Message = fmt.Sprintf("fewer than bufferMin (%d) pods are idle beside those that batches wait for%s", spec.BufferMin, strandedNote(n))
	}
	return c
}

// strandedNote completes a message where nodes keep pods from being handed out.
func strandedNote(n scheduler.Counts) string {
	switch {
	case n.Stranded() == 0:
		return ""
	case n.Away == 0:
		return fmt.Sprintf("; the nodes of %s are cordoned: uncordon them, or add nodes", count(n.Cordoned, "other pod"))
	case n.Cordoned == 0:
		return fmt.Sprintf("; the nodes of %s are not Ready", count(n.Away, "other pod"))
	default:
		return fmt.Sprintf("; the nodes of %s are cordoned or not Ready", count(n.Stranded(), "other pod"))
	}
}

func limitedCondition(pool *v1alpha1.Pool, plan scheduler.CapacityPlan) metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionScalingLimited, Status: metav1.ConditionTrue, Reason: string(plan.Limited),
	}
	switch plan.Limited {
	case scheduler.LimitPoolMax:
		c.Message = fmt.Sprintf("poolMax (%d) permits no more pods: raise it, or wait until batches give sandboxes back",
			pool.Spec.CapacitySpec.PoolMax)
	case scheduler.LimitStarting:
		c.Message = fmt.Sprintf("scaleStrategy.maxUnavailable (%s) permits no more pods to start at once",
			pool.Spec.ScaleStrategy.MaxUnavailable.String())
	default:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonUnlimited
		c.Message = "no bound keeps the pool from the size it needs"
	}
	return c
}

func failingCondition(trouble *problem) metav1.Condition {
	if trouble == nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionPodsFailing, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPodsHealthy,
			Message: "no pod is known to fail to start",
		}
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionPodsFailing, Status: metav1.ConditionTrue, Reason: trouble.reason, Message: trouble.message,
	}
}

// report shows the status in the gauges, writes it if it differs, and sends events about what turned bad. It returns how long to wait
// before the next try if this is not the time for one.
func (r *Reconciler) report(
	ctx context.Context, pool *v1alpha1.Pool, mem *memory, status *v1alpha1.PoolStatus,
) (time.Duration, error) {
	r.memories.show(pool, status)
	before := pool.DeepCopy()
	if equality.Semantic.DeepEqual(&before.Status, status) {
		mem.scaleReason = ""
		return 0, nil
	}
	now := r.clock.Now()
	if left := mem.statusAt.Add(statusPace).Sub(now); left > 0 && onlyCountsDiffer(&before.Status, status) {
		return left, nil
	}
	pool.Status = *status
	// With the resourceVersion, so that a write that lands late doesn't undo a later one.
	err := r.client.Status().Patch(ctx, pool, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case apierrors.IsConflict(err):
		return retryPace, nil // somebody else wrote the pool: look again when the cache has it
	case err != nil:
		return 0, fmt.Errorf("patch status of pool %s/%s: %w", before.Namespace, before.Name, err)
	}
	mem.written, mem.statusAt, mem.scaleReason = pool.DeepCopy(), now, ""
	for _, m := range turnedBad(before.Status.Conditions, status.Conditions) {
		r.send(pool, m)
	}
	return 0, nil
}

// onlyCountsDiffer says whether two statuses tell the same but for numbers and words about numbers. That a buffer is low is one
// of them: a pool that is taken from and refilled all the time goes from BufferReady to BufferLow and back with every pod. That it
// is ready again is not: somebody may wait for it.
func onlyCountsDiffer(a, b *v1alpha1.PoolStatus) bool {
	if a.ObservedGeneration != b.ObservedGeneration || a.Revision != b.Revision || len(a.Conditions) != len(b.Conditions) {
		return false
	}
	for i := range b.Conditions {
		if c := &b.Conditions[i]; changed(a.Conditions, c) && c.Reason != v1alpha1.ReasonBufferLow {
			return false
		}
	}
	return true
}
