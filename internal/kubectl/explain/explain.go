// SPDX-License-Identifier: Apache-2.0

// Package explain says in plain words why a batch or a pool is not as its user wants it, and what to do about it.
//
// The word cause is used for what has to change before the object can be Ready, or before its tasks can succeed. Causes are
// found by a table of checks, each a pure function of Facts, in the order in which they are told: what makes all else
// beside the point comes first (the object is gone, nobody is there to work on it), then what is most specific.
package explain

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// Kinds of objects that can be explained.
const (
	KindBatch = "BatchSandbox"
	KindPool  = "Pool"
)

// Facts are what was observed of one object and of what it depends on. What could not be read is missing, and Hidden says so.
type Facts struct {
	Now time.Time

	// Kind, Namespace and Name are what is asked about.
	Kind, Namespace, Name string

	// Batch is the batch asked about; nil if there is none of that name, or a pool is asked about.
	Batch *v1alpha1.BatchSandbox

	// Pool is the pool asked about, or the one that the batch refers to; nil if there is none.
	Pool *v1alpha1.Pool

	// Pods are those of the batch, its own or held ones.
	Pods []corev1.Pod

	// PoolPods are all pods of the pool.
	PoolPods []corev1.Pod

	// Batches are those that refer to the pool, the one asked about included.
	Batches []v1alpha1.BatchSandbox

	// Events are those of the batch, the pool and the pods, in any order.
	Events []corev1.Event

	// Nodes are those of the pods, as far as the user may read them.
	Nodes []corev1.Node

	// Quotas are those of the namespace.
	Quotas []corev1.ResourceQuota

	// Lease is what the controllers elect their leader with; nil if there is none, or the user may not read it.
	Lease *coordinationv1.Lease

	// Hidden are the kinds of objects that the user may not read.
	Hidden []string
}

// Cause is one thing that is wrong.
type Cause struct {
	// Reason is one of the Reason constants, or that of a condition.
	Reason string `json:"reason"`

	// Sentence says what is wrong, with names and numbers.
	Sentence string `json:"sentence"`

	// Remedy says what to do.
	Remedy string `json:"remedy,omitempty"`

	// Commands are to be run for it, or to find out more.
	Commands []string `json:"commands,omitempty"`

	// Evidence is where this was read: a field, a condition, an event.
	Evidence []string `json:"evidence,omitempty"`
}

// Explanation is the answer.
type Explanation struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`

	// Summary says in one line how the object is.
	Summary string `json:"summary"`

	// Causes are what is wrong, what to look at first before the others. Without one nothing is wrong.
	Causes []Cause `json:"causes"`

	// Notes are what is good to know, though nothing is wrong with it.
	Notes []string `json:"notes,omitempty"`
}

// Reasons of causes. Where a condition names what is wrong in one word, that word is the reason.
const (
	// ReasonNotFound surfaces when there is no object of that name.
	ReasonNotFound = "NotFound"

	// ReasonExpired surfaces when the batch was, or is being, deleted since its time was over.
	ReasonExpired = "Expired"

	// ReasonTerminating surfaces while the object is being deleted by somebody.
	ReasonTerminating = "Terminating"

	// ReasonControllerNotRunning surfaces when no controller renews the lease.
	ReasonControllerNotRunning = "ControllerNotRunning"

	// ReasonControllerBehind surfaces when the status answers an older spec.
	ReasonControllerBehind = "ControllerBehind"

	// ReasonQuotaExceeded surfaces when a quota of the namespace forbids pods.
	ReasonQuotaExceeded = "QuotaExceeded"

	// ReasonPoolExhausted surfaces when the pool is as large as it may be and batches hold what it has.
	ReasonPoolExhausted = "PoolExhausted"

	// ReasonPoolNotGrowing surfaces when the pool could be larger and makes no pods.
	ReasonPoolNotGrowing = "PoolNotGrowing"

	// ReasonGangWaiting surfaces when the pool has not as many pods as minAvailable asks for together.
	ReasonGangWaiting = "GangWaiting"

	// ReasonWaitingInQueue surfaces when other batches come first.
	ReasonWaitingInQueue = "WaitingInQueue"

	// ReasonPodsStarting surfaces while pods are starting without trouble.
	ReasonPodsStarting = "PodsStarting"

	// ReasonPoolUpdating surfaces while pods of an old template are replaced and too few are left.
	ReasonPoolUpdating = "PoolUpdating"

	// ReasonImagePullFailed surfaces when an image can't be pulled.
	ReasonImagePullFailed = "ImagePullFailed"

	// ReasonPodUnschedulable surfaces when no node takes a pod.
	ReasonPodUnschedulable = "PodUnschedulable"

	// ReasonContainerCrashing surfaces when a container ends again and again, or ended for good.
	ReasonContainerCrashing = "ContainerCrashing"

	// ReasonContainerConfigInvalid surfaces when a container can't be made from its spec.
	ReasonContainerConfigInvalid = "ContainerConfigInvalid"

	// ReasonPodBlocked surfaces when an event tells what a pod waits for: a volume, a network.
	ReasonPodBlocked = "PodBlocked"

	// ReasonPodFailed surfaces when a pod ended as Failed, as one that is evicted.
	ReasonPodFailed = "PodFailed"

	// ReasonPodNotReady surfaces when containers run and are not ready.
	ReasonPodNotReady = "PodNotReady"

	// ReasonNodeNotReady surfaces when the node of a pod is not Ready, or is gone.
	ReasonNodeNotReady = "NodeNotReady"

	// ReasonExecutorUnreachable surfaces when a task-executor can't be reached.
	ReasonExecutorUnreachable = "ExecutorUnreachable"

	// ReasonExecutorRefuses surfaces when a task-executor doesn't know the controller's root key.
	ReasonExecutorRefuses = "ExecutorRefuses"

	// ReasonTaskFailed surfaces when tasks ended with another exit code than 0, or by a signal.
	ReasonTaskFailed = "TaskFailed"

	// ReasonTaskTimedOut surfaces when tasks were stopped after timeoutSeconds.
	ReasonTaskTimedOut = "TaskTimedOut"

	// ReasonTaskCancelled surfaces when tasks were stopped before they ended.
	ReasonTaskCancelled = "TaskCancelled"

	// ReasonTaskNotStarted surfaces when tasks could not be started.
	ReasonTaskNotStarted = "TaskNotStarted"

	// ReasonTaskLost surfaces when tasks were lost with their sandbox or task-executor, too often to be run again.
	ReasonTaskLost = "TaskLost"
)

// check finds causes of one sort. done says that nothing else is worth telling.
type check func(f *Facts) (causes []Cause, done bool)

// Explain says what is wrong.
//
//	| kind  | checks, in the order in which they are told                                                          |
//	| batch | gone*, ending*, controller, mistakes, executors, pods that don't start, waiting, failed tasks          |
//	| pool  | gone*, ending*, controller, mistakes, pods that don't start, bounds, starting                          |
//	  * ends the list
//
// A batch or pool that is not Ready and that no check says anything about gets its condition as the cause.
func Explain(f Facts) Explanation {
	e := Explanation{Kind: f.Kind, Namespace: f.Namespace, Name: f.Name, Causes: []Cause{}}
	checks, rest := batchChecks(), batchRest
	if f.Kind == KindPool {
		checks, rest = poolChecks(), poolRest
	}
	for _, check := range checks {
		causes, done := check(&f)
		e.Causes = append(e.Causes, causes...)
		if done {
			e.Summary = summary(&f)
			return e
		}
	}
	if len(e.Causes) == 0 {
		e.Causes = append(e.Causes, rest(&f)...)
	}
	e.Summary = summary(&f)
	if len(e.Causes) == 0 {
		e.Summary = "nothing is wrong: " + e.Summary
	}
	e.Notes = notes(&f)
	return e
}

func one(c Cause) []Cause { return []Cause{c} }
