// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// plan is what one reconcile is going to do. It is made of the observation alone.
type plan struct {
	// expired: the batch is to be deleted now.
	expired bool

	// problem is why nothing new is made; nil if nothing keeps the batch from it.
	problem *problem

	// setAside is why some of the indexes are not even asked for, while others are; nil if all are.
	setAside *problem

	// missing are the indexes that want a pod and may get one.
	missing []int

	// unserved are the indexes below replicas without a usable sandbox, whether they may get one or not.
	unserved []int

	// release are the indexes whose sandbox is to be given back.
	release []int

	// discard are pods without a use: surplus ones and those that failed.
	discard []*corev1.Pod

	// lookAgain is when time alone changes the plan; zero if it doesn't.
	lookAgain time.Time
}

// makePlan decides what to do about a batch that is not being deleted.
func makePlan(obs *observed) plan {
	p := plan{problem: obs.problem}
	if p.expired = planEnd(obs, &p); p.expired {
		return p
	}
	for i, s := range obs.sandboxes {
		switch {
		case !obs.wanted(i) && s.leaving():
		case s.givenBack, s.podName != "" && !obs.wanted(i):
			p.release = append(p.release, i)
		case !obs.wanted(i):
		case s.usable():
		default:
			p.unserved = append(p.unserved, i)
			p.missing = append(p.missing, i)
			if s.pod != nil && s.pod.DeletionTimestamp == nil {
				p.discard = append(p.discard, s.pod)
			}
		}
	}
	p.missing = slices.DeleteFunc(p.missing, obs.isOver)
	p.discard = append(p.discard, obs.surplus...)
	if obs.pooled() {
		planDemand(obs, &p)
	}
	if p.problem != nil {
		p.missing = nil
	}
	p.lookAtRetries(obs)
	if !obs.unseenUntil.IsZero() {
		p.lookAt(obs.unseenUntil)
	}
	return p
}

// isOver says that an index is given back as soon as the end of its task is recorded.
func (o *observed) isOver(index int) bool {
	_, ended := o.ends[index]
	return ended && o.releases()
}

// lookAtRetries has the batch looked at again when the next try may begin that waits.
func (p *plan) lookAtRetries(obs *observed) {
	for _, next := range obs.retries {
		if obs.now.Before(next.notBefore) {
			p.lookAt(next.notBefore)
		}
	}
}

// planEnd says whether the batch's time is over: expireTime, or ttlSecondsAfterFinished after its last task.
func planEnd(obs *observed, p *plan) bool {
	if t := obs.sb.Spec.ExpireTime; t != nil {
		if !obs.now.Before(t.Time) {
			return true
		}
		p.lookAt(t.Time)
	}
	if end, ok := ttlEnd(obs.sb); ok {
		if !obs.now.Before(end) {
			return true
		}
		p.lookAt(end)
	}
	return false
}

func ttlEnd(sb *v1alpha1.BatchSandbox) (time.Time, bool) {
	ttl := sb.Spec.TTLSecondsAfterFinished
	if ttl == nil {
		return time.Time{}, false
	}
	c := condition(sb, v1alpha1.ConditionTasksCompleted)
	if c == nil || c.Status != "True" {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Add(time.Duration(*ttl) * time.Second), true
}

func (p *plan) lookAt(t time.Time) {
	if p.lookAgain.IsZero() || t.Before(p.lookAgain) {
		p.lookAgain = t
	}
}

// planDemand takes out of what is missing what the pool can't give:
//
//	| pool        | gang       | asked for  | waited    | missing            | told                |
//	| none        | -          | -          | -         | nothing            | PoolNotFound        |
//	| terminating | -          | -          | -         | nothing            | PoolTerminating     |
//	| there       | > poolMax  | -          | -         | nothing            | ExceedsPoolMax      |
//	| there       | <= poolMax | -          | too long  | nothing            | AllocationTimedOut  |
//	| there       | <= poolMax | > poolMax  | -         | up to poolMax      | ExceedsPoolMax      |
//	| there       | <= poolMax | <= poolMax | -         | all                | -                   |
//
// What others hold of the pool doesn't matter: it comes back some day. A batch that holds poolMax sandboxes already and asks
// for more has a problem; one that may still get some waits for those in the queue, and the rest is set aside: it counts
// neither as waiting nor for the place in the queue. All of it is looked at again when the batch or the pool is edited.
func planDemand(obs *observed, p *plan) {
	if p.problem != nil || len(p.missing) == 0 {
		return
	}
	name := obs.sb.Spec.PoolRef
	fail := func(reason, format string, args ...any) {
		p.problem = &problem{v1alpha1.ConditionAllocated, reason, fmt.Sprintf(format, args...)}
	}
	switch {
	case obs.pool == nil:
		fail(v1alpha1.ReasonPoolNotFound, "there is no Pool %s in namespace %s: make one, or delete the batch", name, obs.sb.Namespace)
		return
	case obs.pool.DeletionTimestamp != nil:
		fail(v1alpha1.ReasonPoolTerminating, "Pool %s is being deleted: wait for a new one of that name, or delete the batch", name)
		return
	}
	poolMax := int(obs.pool.Spec.CapacitySpec.PoolMax)
	if gang := obs.gang(); gang > poolMax {
		fail(v1alpha1.ReasonExceedsPoolMax, "minAvailable asks for %d sandboxes together, but Pool %s has a poolMax of %d: lower the one or raise the other",
			gang, name, poolMax)
		return
	}
	if timeout := obs.sb.Spec.AllocationTimeoutSeconds; timeout != nil {
		end := obs.waitingSince().Add(time.Duration(*timeout) * time.Second)
		if !obs.now.Before(end) {
			fail(v1alpha1.ReasonAllocationTimedOut, "Pool %s could not give %d of the sandboxes within %d s: enlarge the pool, or make a new batch",
				name, len(p.missing), *timeout)
			return
		}
		p.lookAt(end)
	}
	if room := max(0, poolMax-obs.usable()); len(p.missing) > room {
		p.missing = p.missing[:room]
		p.setAside = &problem{v1alpha1.ConditionAllocated, v1alpha1.ReasonExceedsPoolMax,
			fmt.Sprintf("%d sandboxes are asked for, but Pool %s has a poolMax of %d: lower replicas or raise poolMax", obs.replicas(), name, poolMax)}
		if room == 0 {
			p.problem = p.setAside
		}
	}
}

// waitingSince is when the batch began to wait for its pool: at its creation, or when it lost or asked for a sandbox after
// it had had all of them.
func (o *observed) waitingSince() time.Time {
	c := condition(o.sb, v1alpha1.ConditionAllocated)
	switch {
	case c == nil:
		return o.sb.CreationTimestamp.Time
	case c.Status == metav1.ConditionTrue:
		return o.now
	default:
		return c.LastTransitionTime.Time
	}
}

// gang is the number of sandboxes that must be handed over together.
func (o *observed) gang() int {
	if o.sb.Spec.MinAvailable == nil {
		return 0
	}
	return min(int(*o.sb.Spec.MinAvailable), o.replicas())
}

func (o *observed) usable() int {
	n := 0
	for _, s := range o.sandboxes {
		if s.usable() {
			n++
		}
	}
	return n
}
