// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/client-go/tools/events"

	"opensandbox.io/controller/api/v1alpha1"
)

// maxNote bounds the note of an event, in bytes: the API server refuses longer ones.
const maxNote = 1024

// recorder tells users what happened to their batch, after it has.
type recorder struct{ events eventsv1.EventRecorder }

func (r recorder) allocated(sb *v1alpha1.BatchSandbox, n int) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "Allocated", "Allocate", "Allocated %d sandboxes from Pool %s", n, sb.Spec.PoolRef)
}

func (r recorder) podsCreated(sb *v1alpha1.BatchSandbox, n int) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "PodsCreated", "Create", "Created %d pods", n)
}

func (r recorder) expired(sb *v1alpha1.BatchSandbox) {
	r.events.Eventf(sb, nil, corev1.EventTypeNormal, "Expired", "Delete", "Deleted the batch, for its time is over")
}

func (r recorder) doubleAllocation(sb *v1alpha1.BatchSandbox, pod string) {
	r.events.Eventf(sb, nil, corev1.EventTypeWarning, "DoubleAllocation", "Allocate",
		"Pod %s is named by another batch too and stays with that one", pod)
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
	r.events.Eventf(sb, nil, corev1.EventTypeWarning, found.reason, "Reconcile", "%s", cut(found.message, maxNote))
}
