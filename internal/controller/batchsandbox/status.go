// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/indexset"
)

// maxFailedTasks bounds status.failedTasks.
const maxFailedTasks = 10

// batchStatus is the status of a batch by what was observed, planned and done.
func batchStatus(obs *observed, p plan, out outcome) *v1alpha1.BatchSandboxStatus {
	status := obs.sb.Status.DeepCopy()
	status.ObservedGeneration = obs.sb.Generation
	status.Selector = v1alpha1.BatchNameLabel + "=" + obs.sb.Name
	status.Queue = out.queue
	status.Restarts = max(status.Restarts, obs.restarts)
	count := countSandboxes(obs)
	status.Replicas = int32(count.held)       //nolint:gosec // counts of pods
	status.Allocated = int32(count.allocated) //nolint:gosec // counts of pods
	status.Ready = int32(count.ready)         //nolint:gosec // counts of pods
	if obs.hasTasks() {
		taskStatus(obs, status)
	}
	found := firstProblem(p.problem, out.problem)
	status.Conditions = conditions(obs, status, count, found, p.setAside)
	status.Phase = phase(count, found)
	return status
}

func firstProblem(problems ...*problem) *problem {
	for _, p := range problems {
		if p != nil {
			return p
		}
	}
	return nil
}

// sandboxCounts are numbers of sandboxes.
type sandboxCounts struct {
	wanted    int // indexes that should have one
	held      int // indexes that have one
	allocated int // of those, on a node or with an address
	ready     int // of those, Ready
	served    int // indexes that should have one and do
	usable    int // of those, Ready
}

func countSandboxes(obs *observed) sandboxCounts {
	var c sandboxCounts
	for i, s := range obs.sandboxes {
		wanted := obs.wanted(i)
		if wanted {
			c.wanted++
		}
		if !s.usable() {
			continue
		}
		c.held++
		if s.node != "" || s.ip != "" {
			c.allocated++
		}
		if s.ready {
			c.ready++
		}
		if wanted {
			c.served++
		}
		if wanted && s.ready {
			c.usable++
		}
	}
	return c
}

func phase(c sandboxCounts, found *problem) v1alpha1.BatchSandboxPhase {
	switch {
	case found != nil:
		return v1alpha1.PhaseFailed
	case c.usable == c.wanted:
		return v1alpha1.PhaseSucceed
	default:
		return v1alpha1.PhasePending
	}
}

// conditions are Allocated, Ready and, with tasks, TasksCompleted. Their messages change only when their meaning does. found
// is what keeps the batch from all it wants, setAside what keeps it from a part.
func conditions(obs *observed, status *v1alpha1.BatchSandboxStatus, c sandboxCounts, found, setAside *problem) []metav1.Condition {
	all := slices.Clone(obs.sb.Status.Conditions)
	set := func(kind string, ok bool, reason, message string) {
		value, since := metav1.ConditionFalse, obs.now
		switch {
		case ok:
			value = metav1.ConditionTrue
		case kind == v1alpha1.ConditionAllocated:
			since = obs.waitingSince() // where the next look finds it: what timed out stays so
		}
		meta.SetStatusCondition(&all, metav1.Condition{
			Type: kind, Status: value, Reason: reason, Message: message,
			ObservedGeneration: obs.sb.Generation, LastTransitionTime: metav1.NewTime(since),
		})
	}
	switch {
	case found != nil && found.condition == v1alpha1.ConditionAllocated:
		set(v1alpha1.ConditionAllocated, false, found.reason, found.message)
	case c.served == c.wanted:
		set(v1alpha1.ConditionAllocated, true, v1alpha1.ReasonAllocated, "every requested sandbox has a pod")
	case found != nil:
		set(v1alpha1.ConditionAllocated, false, found.reason, found.message)
	case setAside != nil:
		set(v1alpha1.ConditionAllocated, false, setAside.reason, setAside.message)
	case obs.pooled():
		set(v1alpha1.ConditionAllocated, false, v1alpha1.ReasonWaitingForPool, waitingMessage(obs))
	default:
		set(v1alpha1.ConditionAllocated, false, v1alpha1.ReasonCreatingPods, "pods are being created")
	}
	switch {
	case found != nil:
		set(v1alpha1.ConditionReady, false, found.reason, found.message)
	case c.usable == c.wanted:
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonPodsReady, "every requested sandbox is Ready")
	default:
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonPodsNotReady,
			fmt.Sprintf("%d of %d sandboxes are Ready", c.usable, c.wanted))
	}
	if obs.hasTasks() {
		ok, reason, message := tasksCompleted(obs, status)
		set(v1alpha1.ConditionTasksCompleted, ok, reason, message)
	}
	return all
}

func waitingMessage(obs *observed) string {
	message := fmt.Sprintf("waiting for pods of Pool %s", obs.sb.Spec.PoolRef)
	if obs.gang() > 1 && obs.usable() == 0 {
		message = fmt.Sprintf("waiting for Pool %s to have %d pods together", obs.sb.Spec.PoolRef, obs.gang())
	}
	return message + strandedNote(obs.counts) + failingNote(obs.pool)
}

// strandedNote completes a message where nodes keep pods of the pool from being handed out. It has no number, so that the
// message changes only when its meaning does.
func strandedNote(n scheduler.Counts) string {
	switch {
	case n.Stranded() == 0:
		return ""
	case n.Away == 0:
		return "; some that nobody holds are on cordoned nodes"
	default:
		return "; some that nobody holds are on nodes that are cordoned or not Ready"
	}
}

// failingNote completes a message where the pool says that its pods don't start.
func failingNote(pool *v1alpha1.Pool) string {
	if pool == nil {
		return ""
	}
	c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionPodsFailing)
	if c == nil || c.Status != metav1.ConditionTrue {
		return ""
	}
	return "; its pods don't start: " + c.Reason
}

func tasksCompleted(obs *observed, status *v1alpha1.BatchSandboxStatus) (ok bool, reason, message string) {
	ended := int(status.TaskSucceed + status.TaskFailed)
	switch {
	case ended < obs.replicas():
		message = "not every task has ended" + retryNote(obs)
		if first := firstUnknown(obs); first != "" {
			message += "; " + first
		}
		return false, v1alpha1.ReasonTasksRunning, message
	case status.TaskFailed > 0:
		return true, v1alpha1.ReasonTasksFailed, fmt.Sprintf("%d of %d tasks failed", status.TaskFailed, ended) + whyFailed(status)
	default:
		return true, v1alpha1.ReasonTasksSucceeded, "every task succeeded"
	}
}

// retryNote completes a message where tasks wait to be run again. It doesn't tick.
func retryNote(obs *observed) string {
	why, others := obs.waiting()
	switch {
	case why == "":
		return ""
	case others == 0:
		return "; " + why
	default:
		return fmt.Sprintf("; %s; and %d more", why, others)
	}
}

// firstUnknown says which task-executor can't be reached, for the lowest index.
func firstUnknown(obs *observed) string {
	lowest := obs.replicas()
	for index, task := range obs.tasks {
		if task.phase == taskUnknown && index < lowest {
			lowest = index
		}
	}
	if lowest == obs.replicas() {
		return ""
	}
	return fmt.Sprintf("the task-executor of index %d %s", lowest, obs.tasks[lowest].err)
}

// taskStatus counts the tasks by state, and lists those that ended.
func taskStatus(obs *observed, status *v1alpha1.BatchSandboxStatus) {
	status.TaskRunning, status.TaskSucceed, status.TaskFailed, status.TaskPending, status.TaskUnknown = 0, 0, 0, 0, 0
	var completed, failed []int
	var failures []v1alpha1.FailedTask
	reasons := map[string][]int{}
	for index := range obs.replicas() {
		end, ended := obs.ends[index]
		switch {
		case ended && end.ok:
			status.TaskSucceed++
			completed = append(completed, index)
		case ended:
			status.TaskFailed++
			failed = append(failed, index)
			reasons[end.why()] = append(reasons[end.why()], index)
			if end.failed != nil {
				failures = append(failures, *end.failed)
			}
		case obs.tasks[index].phase == taskRunning:
			status.TaskRunning++
		case obs.tasks[index].phase == taskUnknown:
			status.TaskUnknown++
		default:
			status.TaskPending++
		}
	}
	obs.noteTries(status)
	status.CompletedIndexes = indexset.Format(completed)
	status.FailedIndexes = indexset.Format(failed)
	status.FailedReasons = formatReasons(reasons)
	slices.SortFunc(failures, func(a, b v1alpha1.FailedTask) int { return cmp.Compare(a.Index, b.Index) })
	status.FailedTasks = failures[:min(len(failures), maxFailedTasks)]
}

// sameButNumbers says whether two statuses mean the same: the same conditions for the same reasons, and the same spec.
func sameButNumbers(a, b *v1alpha1.BatchSandboxStatus) bool {
	return a.Phase == b.Phase && a.ObservedGeneration == b.ObservedGeneration && (a.Queue == nil) == (b.Queue == nil) &&
		slices.EqualFunc(a.Conditions, b.Conditions, func(x, y metav1.Condition) bool {
			return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason
		})
}

// condition returns the condition of that type, nil if the batch has none.
func condition(sb *v1alpha1.BatchSandbox, kind string) *metav1.Condition {
	return meta.FindStatusCondition(sb.Status.Conditions, kind)
}
