// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
	"opensandbox.io/controller/internal/utils/recycling"
)

// PodState is what a pod of a pool is fit for, held or not.
type PodState int

const (
	// PodStarting: not Ready yet, or being recycled.
	PodStarting PodState = iota

	// PodReady: Ready and has an IP.
	PodReady

	// PodUnusable: must not be handed out: marked for eviction, ended, left dirty by a batch, or on no node for its rules.
	PodUnusable

	// PodTerminating: being deleted.
	PodTerminating
)

// Pod is what the ledger knows of one pod of a pool.
type Pod struct {
	Name            string
	UID             types.UID
	ResourceVersion string
	Revision        string
	IP              string
	Node            string
	State           PodState

	// Root is the root of the controller's tokens that the pod's executor believes, "" for none. It is the string of the
	// pod's own environment, and costs no memory beside it.
	Root string

	// Ready is the pod's Ready condition, whatever the state: a held pod that is to be evicted may well be Ready.
	Ready bool

	// BatchLabel is the value of the batch name label, "" for none. A pod that carries it and that no batch
	// holds was left behind, and is never idle.
	BatchLabel string

	// Dirty says that a batch lost the pod without recycling it. Only the ledger knows: it is set where the ledger hands
	// pods out.
	Dirty bool

	// OnLostNode says that the pod's node is lost. Only the ledger knows, as with Dirty.
	OnLostNode bool

	// Recycling says that the pod carries the mark of being recycled.
	Recycling bool

	// NoNodeForRules says that the scheduler knows no node for the pod's restart rules: it will do without them.
	NoNodeForRules bool

	// Loss says why the pod is no sandbox any more, in the words of podutil.Loss; "" if it may be one.
	Loss string

	// Restarts are those of the sandbox's containers since the pod was made.
	Restarts int32

	// Ended says that the pod's phase is Failed or Succeeded: it will never run again.
	Ended bool

	// Failure is why the pod is not becoming Ready, as far as its status tells.
	Failure StartFailure

	// Since is since when the pod has been starting; zero if it isn't, or if it was asked to wait.
	Since time.Time

	// StartTime is how long it took the pod to become Ready; 0 while it isn't.
	StartTime time.Duration
}

// PodOf reads the facts the ledger needs from a pod.
func PodOf(pod *corev1.Pod) Pod {
	return Pod{
		Name:            pod.Name,
		UID:             pod.UID,
		ResourceVersion: pod.ResourceVersion,
		Revision:        pod.Labels[v1alpha1.PoolRevisionLabel],
		IP:              pod.Status.PodIP,
		Node:            pod.Spec.NodeName,
		Root:            podtemplate.RootOf(&pod.Spec),
		State:           stateOf(pod),
		Ready:           podutil.IsReady(pod),
		BatchLabel:      pod.Labels[v1alpha1.BatchNameLabel],
		Recycling:       isRecycling(pod),
		NoNodeForRules:  recycling.NoNodeForRules(pod),
		Ended:           podutil.HasEnded(pod),
		Loss:            podutil.Loss(pod),
		Restarts:        podutil.SandboxRestarts(pod),
		Failure:         startFailureOf(pod),
		Since:           startingSince(pod),
		StartTime:       startTime(pod),
	}
}

func stateOf(pod *corev1.Pod) PodState {
	_, evict := pod.Labels[v1alpha1.EvictLabel]
	switch {
	case pod.DeletionTimestamp != nil:
		return PodTerminating
	case evict, podutil.HasEnded(pod), recycling.NoNodeForRules(pod):
		return PodUnusable
	case isRecycling(pod):
		return PodStarting
	case podutil.IsReady(pod) && pod.Status.PodIP != "":
		return PodReady
	default:
		return PodStarting
	}
}

func isRecycling(pod *corev1.Pod) bool {
	_, marked := pod.Annotations[v1alpha1.RecyclingAnnotation]
	return marked
}

// Lost says that a pod is no sandbox any more: it ended, is being deleted, or its node is lost.
func (p Pod) Lost() bool { return p.Ended || p.State == PodTerminating || p.OnLostNode }
