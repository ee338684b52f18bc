// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/queue"
)

func poolChecks() []check {
	return []check{
		goneCauses, poolEnding, controllerCauses,
		func(f *Facts) ([]Cause, bool) { return poolMistakes(f), false },
		func(f *Facts) ([]Cause, bool) { return f.failingPool(), false },
		poolBounds,
	}
}

func poolEnding(f *Facts) ([]Cause, bool) {
	if f.Pool.DeletionTimestamp == nil {
		return nil, false
	}
	c := Cause{
		Reason: ReasonTerminating,
		Sentence: fmt.Sprintf("Pool %s is being deleted since %s, and goes when batches have given its last sandboxes back: they hold %d%s",
			f.Name, ago(f.Now, f.Pool.DeletionTimestamp.Time), f.Pool.Status.Allocated, f.holders()),
		Remedy:   "wait for these batches, or delete them: sandboxes in use are not killed with their pool",
		Commands: []string{"kubectl sandbox -n " + f.Namespace + " get batches"},
		Evidence: []string{"metadata.deletionTimestamp", from("pool", condition(f.Pool.Status.Conditions, v1alpha1.ConditionReady))},
	}
	if lease, stale := f.leaseCause(); stale {
		return []Cause{lease, c}, true
	}
	return one(c), true
}

// poolMistakes tells what the controller calls wrong with the pool, in its words.
func poolMistakes(f *Facts) []Cause {
	c := condition(f.Pool.Status.Conditions, v1alpha1.ConditionReady)
	if c.Status != metav1.ConditionFalse {
		return nil
	}
	if cause, found := f.quotaCause(c, "pool"); found {
		return one(cause)
	}
	edit := []string{f.kubectl("edit", "pool/"+f.Pool.Name)}
	about := fmt.Sprintf("Pool %s: %s", f.Pool.Name, tidy(c.Message))
	evidence := []string{from("pool", c)}
	switch c.Reason {
	case v1alpha1.ReasonInvalidTemplate, v1alpha1.ReasonInvalidSpec:
		return one(Cause{Reason: c.Reason, Sentence: about, Remedy: "correct what the message names", Commands: edit, Evidence: evidence})
	case v1alpha1.ReasonPodsForbidden:
		return one(Cause{
			Reason: c.Reason, Sentence: about, Commands: edit, Evidence: evidence,
			Remedy: "ask who runs the cluster for what the message names (a Pod Security level, a quota, a service account), or change the template",
		})
	case v1alpha1.ReasonNameTooLong:
		return one(Cause{Reason: c.Reason, Sentence: about, Remedy: "make the pool under a shorter name", Evidence: evidence})
	default:
		return nil
	}
}

// failingPool tells what keeps the pool's pods from being Ready: by the pods themselves where they can be read and still are
// there, else in the words of the pool's condition. Held pods are their batches' affair.
func (f *Facts) failingPool() []Cause {
	held := map[string]bool{}
	for i := range f.Batches {
		for _, pod := range queue.Pods(&f.Batches[i]) {
			held[pod] = true
		}
	}
	var free []corev1.Pod
	for i := range f.PoolPods {
		if !held[f.PoolPods[i].Name] {
			free = append(free, f.PoolPods[i])
		}
	}
	failing := condition(f.Pool.Status.Conditions, v1alpha1.ConditionPodsFailing)
	evidence := from("pool", failing)
	var causes []Cause
	for _, g := range f.groupTroubles(free, nil) {
		if g.mild || g.reason == ReasonPodNotReady && failing.Status != metav1.ConditionTrue {
			continue
		}
		c := f.causeOf(g, "pool/"+f.Pool.Name)
		c.Sentence = fmt.Sprintf("pods of Pool %s don't start: %s", f.Pool.Name, c.Sentence)
		if failing.Status == metav1.ConditionTrue {
			c.Evidence = append(c.Evidence, evidence)
		}
		causes = append(causes, c)
	}
	if len(causes) > 0 || failing.Status != metav1.ConditionTrue {
		return causes
	}
	pod, _, _ := strings.Cut(strings.TrimPrefix(failing.Message, "pod "), ":")
	pod, _, _ = strings.Cut(pod, " ")
	c := Cause{
		Reason:   failureReason(failing.Reason),
		Sentence: fmt.Sprintf("pods of Pool %s don't start: %s", f.Pool.Name, tidy(failing.Message)),
		Evidence: []string{evidence},
	}
	c.Remedy, c.Commands = f.podRemedy(c.Reason, "pool/"+f.Pool.Name, pod)
	return one(c)
}

// failureReason is our word for a reason of PodsFailing, which is the kubelet's or the scheduler's. Others stay as they are.
func failureReason(reason string) string {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		return ReasonImagePullFailed
	case corev1.PodReasonUnschedulable:
		return ReasonPodUnschedulable
	case "CrashLoopBackOff", v1alpha1.ReasonPodsEnded:
		return ReasonContainerCrashing
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return ReasonContainerConfigInvalid
	default:
		return reason
	}
}

// poolBounds tells which bound keeps the pool from what its demand asks for.
func poolBounds(f *Facts) ([]Cause, bool) {
	status, spec := f.Pool.Status, f.Pool.Spec.CapacitySpec
	c := condition(status.Conditions, v1alpha1.ConditionScalingLimited)
	if c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonPoolMaxReached {
		return nil, false
	}
	return one(Cause{
		Reason: ReasonPoolExhausted,
		Sentence: fmt.Sprintf("Pool %s may have no more than %d pods (poolMax) and needs more: it has %d, batches hold %d, %d are available, and %s%s",
			f.Name, spec.PoolMax, status.Total, status.Allocated, status.Available, f.demand(), f.holders()),
		Remedy:   "raise poolMax, or wait until batches give sandboxes back",
		Commands: []string{f.kubectl("edit", "pool/"+f.Name), "kubectl sandbox -n " + f.Namespace + " queue " + f.Name},
		Evidence: []string{from("pool", c)},
	}), false
}

// demand says what a pool that has reached poolMax needs pods for: those who wait, or else its buffer.
func (f *Facts) demand() string {
	if waiting := int(f.Pool.Status.Waiting); waiting > 0 {
		return fmt.Sprintf("%s %s waited for", count(waiting, "sandbox"), is(waiting))
	}
	return fmt.Sprintf("bufferMin is %d", f.Pool.Spec.CapacitySpec.BufferMin)
}

// poolRest tells of a pool that is not Ready though nothing is known to be wrong.
//
//	| Ready | old pods are left | pods are starting | cause        |
//	| True  | -                 | -                 | none         |
//	| False | yes               | -                 | PoolUpdating |
//	| False | no                | yes               | PodsStarting |
//	| False | no                | no                | the condition |
func poolRest(f *Facts) []Cause {
	status := f.Pool.Status
	ready := condition(status.Conditions, v1alpha1.ConditionReady)
	limited := condition(status.Conditions, v1alpha1.ConditionScalingLimited)
	switch {
	case ready.Status == metav1.ConditionTrue:
		return nil
	case len(status.Conditions) == 0:
		return one(Cause{
			Reason: ReasonControllerBehind, Sentence: fmt.Sprintf("%s was made %s ago, and the controller has not answered yet", f.Name, ago(f.Now, f.Pool.CreationTimestamp.Time)),
			Remedy: "ask again in a few seconds", Evidence: []string{"status has no conditions"},
		})
	case status.Updated < status.Total && status.Starting > 0:
		return one(Cause{
			Reason: ReasonPoolUpdating,
			Sentence: fmt.Sprintf("Pool %s is being updated to revision %s: %d of %d pods have it, %d are starting, and %d are available",
				f.Name, status.Revision, status.Updated, status.Total, status.Starting, status.Available),
			Remedy:   "wait; a higher updateStrategy.maxUnavailable replaces more at once, and pods that batches hold are replaced when they are given back",
			Commands: []string{f.kubectl("get", "pods", "-l", v1alpha1.PoolNameLabel+"="+f.Name, "-L", v1alpha1.PoolRevisionLabel)},
			Evidence: []string{"status.updated, status.total and status.starting", from("pool", ready)},
		})
	case status.Starting > 0:
		return one(f.startingCause(limited, ""))
	default:
		c := f.notGrowing("")
		c.Reason = ready.Reason
		c.Sentence = fmt.Sprintf("Pool %s: %s", f.Name, tidy(ready.Message))
		if status.LastScaleReason != "" {
			c.Sentence += fmt.Sprintf("; its last decision was %q", status.LastScaleReason)
		}
		c.Remedy, c.Commands = "wait, or look at its events", []string{f.kubectl("describe", "pool/"+f.Name)}
		return one(c)
	}
}
