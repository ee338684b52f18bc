// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventsv1 "k8s.io/client-go/tools/events"

	"opensandbox.io/controller/api/v1alpha1"
)

// recorder tells users what happened to their batch, after it has.
type recorder struct{ events eventsv1.EventRecorder }

func (r recorder) allocated(sb *v1alpha1.BatchSandbox, n int) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "Allocated", "Allocate", "Allocated %d sandboxes from Pool %s", n, sb.Spec.PoolRef)
}

func (r recorder) podsCreated(sb *v1alpha1.BatchSandbox, n int) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "PodsCreated", "Create", "Created %d pods", n)
}

func (r recorder) released(sb *v1alpha1.BatchSandbox, n int) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "Released", "Release", "Gave %d sandboxes back", n)
}

func (r recorder) sandboxesLost(sb *v1alpha1.BatchSandbox, lost []mishap) {
	if len(lost) > 0 {
		r.events.Eventf(sb, nil, corev1.EventTypeWarning, "SandboxLost", "Replace", "Lost %s", cut(sentence(lost)))
	}
}

func (r recorder) sandboxesRestarted(sb *v1alpha1.BatchSandbox, restarted []mishap) {
	if len(restarted) > 0 {
		r.events.Eventf(sb, nil, corev1.EventTypeWarning, "SandboxRestarted", "Observe", "Containers restarted in %s", cut(sentence(restarted)))
	}
}

// notRecycled tells at the pool, for it is the pool's template that could be changed.
func (r recorder) notRecycled(pool *v1alpha1.Pool, obstacle string) {
	r.events.Eventf(pool, nil, corev1.EventTypeWarning, "PodNotRecycled", "Recycle", "%s",
		cut("Released pods are deleted and not restarted: "+obstacle))
}

// quarantined tells at the pool that one of its pods was taken out of use.
func (r recorder) quarantined(pool *v1alpha1.Pool, pod string) {
	r.events.Eventf(pool, nil, corev1.EventTypeWarning, "PodQuarantined", "Recycle",
		"Deleted pod %s: the tasks of %d holders in a row could not be started there or lost their task-executor", pod, v1alpha1.MaxTaskFailures)
}

// tasksCompleted tells once that every task has ended.
func (r recorder) tasksCompleted(sb *v1alpha1.BatchSandbox, before *v1alpha1.BatchSandboxStatus) {
	now := condition(sb, v1alpha1.ConditionTasksCompleted)
	if now == nil || now.Status != metav1.ConditionTrue || meta.IsStatusConditionTrue(before.Conditions, v1alpha1.ConditionTasksCompleted) {
		return
	}
	kind := corev1.EventTypeNormal
	if now.Reason == v1alpha1.ReasonTasksFailed {
		kind = corev1.EventTypeWarning
	}
	r.events.Eventf(sb, nil, kind, now.Reason, "Run", "%s", now.Message)
}

func (r recorder) expired(sb *v1alpha1.BatchSandbox) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "Expired", "Delete", "Deleted the batch, for its time is over")
}

func (r recorder) doubleAllocation(sb *v1alpha1.BatchSandbox, pod string) {
	r.events.Eventf(sb, nil, corev1.EventTypeWarning, "DoubleAllocation", "Allocate",
		"Pod %s is named by another batch too and stays with that one", pod)
}

// tooLarge tells what the status has no room for, if that is what an error says.
func (r recorder) tooLarge(sb *v1alpha1.BatchSandbox, err error) {
	if !isTooLarge(err) {
		return
	}
	r.events.Eventf(sb, nil, corev1.EventTypeWarning, v1alpha1.ReasonTooLarge, "Reconcile", "The API server takes no write of the batch, which is too large: "+
		"make its template, patches or annotations smaller, or use several batches")
}

// problemFound tells of a mistake once: when the condition's reason changes.
func (r recorder) problemFound(sb *v1alpha1.BatchSandbox, before *v1alpha1.BatchSandboxStatus, found *problem) {
	if found == nil {
		return
	}
	for i := range before.Conditions {
		c := &before.Conditions[i]
		if c.Type == found.condition && c.Reason == found.reason && c.Message == found.message {
			return
		}
	}
	r.events.Eventf(sb, nil, corev1.EventTypeWarning, found.reason, "Reconcile", "%s", cut(found.message))
}
