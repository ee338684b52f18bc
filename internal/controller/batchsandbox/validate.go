// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"

	"opensandbox.io/controller/api/v1alpha1"
)

// annotationBudget is the size in bytes up to which alloc-status and endpoints together may grow. Kubernetes allows
// 256 KiB for all annotations of an object; the rest is the user's.
const annotationBudget = 200 << 10

// podSuffixLength is what a pool adds to its name for the name of a pod.
const podSuffixLength = 6

// validate finds the mistakes that a schema would refuse, for API servers that can't, and those that a schema can't
// express. Nil means that there is none.
func validate(sb *v1alpha1.BatchSandbox) *problem {
	spec := &sb.Spec
	allocated := func(reason, format string, args ...any) *problem {
		return &problem{v1alpha1.ConditionAllocated, reason, fmt.Sprintf(format, args...)}
	}
	switch {
	case len(sb.Name) > v1alpha1.MaxNameLength:
		return allocated(v1alpha1.ReasonNameTooLong, "metadata.name has %d characters, at most %d are allowed: make a batch with a shorter name",
			len(sb.Name), v1alpha1.MaxNameLength)
	case spec.Replicas != nil && *spec.Replicas < 0:
		return allocated(v1alpha1.ReasonInvalidSpec, "spec.replicas is %d: set it to 0 or more", *spec.Replicas)
	case spec.MinAvailable != nil && *spec.MinAvailable < 0:
		return allocated(v1alpha1.ReasonInvalidSpec, "spec.minAvailable is %d: set it to 0 or more", *spec.MinAvailable)
	case spec.PoolRef == "" && (spec.Template == nil || len(spec.Template.Raw) == 0):
		return allocated(v1alpha1.ReasonNoTemplate, "spec has neither poolRef nor template: set one of them")
	case spec.TaskTemplate == nil && len(spec.ShardTaskPatches) > 0:
		return &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTask, "spec.shardTaskPatches needs spec.taskTemplate: make a batch with one"}
	}
	if fits := replicasThatFit(sb); spec.Replicas != nil && int(*spec.Replicas) > fits {
		return allocated(v1alpha1.ReasonTooManyReplicas, "spec.replicas is %d, but only %d sandboxes fit into this batch: use several batches",
			*spec.Replicas, fits)
	}
	return nil
}

// replicasThatFit is the number of entries of alloc-status, which pooled batches have, and endpoints that fit into
// annotationBudget, each a quoted string and a comma.
func replicasThatFit(sb *v1alpha1.BatchSandbox) int {
	const quotes = len(`"",`)
	entry := maxIPv4Length + quotes
	if sb.Spec.PoolRef != "" {
		entry += len(sb.Spec.PoolRef) + podSuffixLength + quotes
	}
	return annotationBudget / entry
}

// maxAnnotations is the size in bytes that Kubernetes allows for all annotations of an object, their keys included.
const maxAnnotations = 256 << 10

// tooLarge finds lists that exceed annotationBudget, or what others' annotations leave of maxAnnotations. replicasThatFit reckons
// with IPv4 and without others, for they change while sandboxes are in use; how long IPv6 addresses are is known only when the pods
// are. What is too large is not delivered, and nothing that was delivered is taken away.
func tooLarge(obs *observed, a allocation) *problem {
	const quotes, brackets = len(`"",`), 100
	size := 0
	for i, ip := range a.ips {
		size += len(ip) + quotes
		if obs.pooled() {
			size += len(a.pods[i]) + quotes
		}
	}
	others := othersAnnotations(obs.sb)
	room := max(0, maxAnnotations-others-len(v1alpha1.AllocStatusAnnotation)-len(v1alpha1.EndpointsAnnotation)-2*brackets)
	problem := func(format string, args ...any) *problem {
		return &problem{v1alpha1.ConditionAllocated, v1alpha1.ReasonTooManyReplicas, fmt.Sprintf(format, args...)}
	}
	switch {
	case size > annotationBudget+brackets:
		return problem("%d sandboxes with addresses as long as theirs don't fit into this batch: lower replicas to %d, and use several batches",
			len(a.ips), len(a.ips)*annotationBudget/size)
	case size > room:
		return problem("%d sandboxes don't fit into this batch beside its other annotations of %d bytes: remove some of those, or lower replicas to %d",
			len(a.ips), others, len(a.ips)*room/size)
	default:
		return nil
	}
}

// othersAnnotations is the size of a batch's annotations beside alloc-status and endpoints.
func othersAnnotations(sb *v1alpha1.BatchSandbox) int {
	size := 0
	for key, value := range sb.Annotations {
		if key != v1alpha1.AllocStatusAnnotation && key != v1alpha1.EndpointsAnnotation {
			size += len(key) + len(value)
		}
	}
	return size
}

// maxIPv4Length is the length of the longest IPv4 address.
const maxIPv4Length = 15
