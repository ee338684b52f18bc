// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

// A pod that can't start is repaired: deleted and made anew, for the next one may land on another node, or read what was
// mended meanwhile. One that no node takes is not: the scheduler keeps trying it, and would fare no better with another.

const (
	// repairFirst and repairLongest bound the exponential back-off between repairs of one pool.
	repairFirst   = time.Minute
	repairLongest = 10 * time.Minute

	// quietRepairFactor is how many times the time after which a pod without a word of trouble is told of passes before it
	// is repaired: it may be pulling a large image, and would begin anew.
	quietRepairFactor = 10
)

// repairs is what is remembered of the pods of a pool that were repaired.
type repairs struct {
	// failures are the repairs since pods of the current revision last became Ready and stayed.
	failures int

	// last is when the last pod was deleted; zero for never.
	last time.Time

	// stuckSince is since when there has always been a pod whose containers can't start; zero if there is none.
	stuckSince time.Time

	// owed says that the pod in place of the last one isn't made yet; pod is its name once it is, until it is Ready, has
	// trouble of its own or is gone.
	owed bool
	pod  string

	// started is scheduler.Activity.Started when the last pod was deleted.
	started int
}

func (m *repairs) inFlight() bool { return m.owed || m.pod != "" }

// due is when the next pod may be deleted that counts as failing from this time on.
func (m *repairs) due(from time.Time) time.Time {
	if m.last.IsZero() {
		return from
	}
	wait := repairLongest
	if m.failures < 8 { // 1 min doubled 8 times is far beyond the longest wait
		wait = min(repairLongest, repairFirst<<m.failures)
	}
	if next := m.last.Add(wait); next.After(from) {
		return next
	}
	return from
}

// noteStuck takes over whether there is a pod whose containers can't start.
func (m *repairs) noteStuck(stuck bool, now time.Time) {
	switch {
	case !stuck:
		m.stuckSince = time.Time{}
	case m.stuckSince.IsZero():
		m.stuckSince = now
	}
}

// deleted notes a repair.
func (m *repairs) deleted(now time.Time, started int) {
	m.failures++
	m.last, m.owed, m.pod, m.started = now, true, "", started
}

// made notes the names of new pods: the first takes the place of the pod that was deleted.
func (m *repairs) made(names []string) {
	if m.owed && len(names) > 0 {
		m.owed, m.pod = false, names[0]
	}
}

// candidate is a pod to be repaired, why and when.
type candidate struct {
	name   string // "" for none
	uid    types.UID
	reason string
	due    time.Time
}

// candidateOf is the pod to repair next: one whose containers can't start, the one with the longest trouble first, 1 min
// after there first was one; else one that has been starting on its node for very long, for whatever reason.
//
//	| containers can't start | starting for long on a node | candidate              |
//	| yes                    | -                           | the first of these     |
//	| no                     | yes                         | the longest of these   |
//	| no                     | no                          | none                   |
func candidateOf(f scheduler.Failing, m repairs, startTime time.Duration) candidate {
	switch {
	case f.Stuck != nil:
		return candidate{f.Stuck.Name, f.Stuck.UID, f.Stuck.Failure.Reason, m.due(m.stuckSince.Add(repairFirst))}
	case f.Quiet != nil && f.Quiet.Node != "":
		from := f.Quiet.Since.Add(quietRepairFactor * scheduler.OverdueAfter(startTime))
		return candidate{f.Quiet.Name, f.Quiet.UID, v1alpha1.ReasonProgressDeadlineExceeded, m.due(from)}
	default:
		return candidate{}
	}
}

// repairPlan is what to do about pods that can't start.
type repairPlan struct {
	pod    string // to be deleted and made anew; "" for none
	uid    types.UID
	wait   time.Duration // until the next may be; 0 if only news can tell
	reason string
}

// planRepair decides whether a pod that can't start is deleted and made anew. At most one is under way at a time, and none
// beside another mechanism that deletes or makes pods after failures. The first row that matches:
//
//	| candidate | spec, name or template | creates | deletes or young pods | too many pods, or some owed | last repair under way | due | result           |
//	| no        | -                      | -       | -                     | -                           | -                     | -   | nothing          |
//	| yes       | invalid                | -       | -                     | -                           | -                     | -   | nothing          |
//	| yes       | valid                  | failing | -                     | -                           | -                     | -   | look in a minute |
//	| yes       | valid                  | fine    | failing               | -                           | -                     | -   | nothing          |
//	| yes       | valid                  | fine    | fine                  | yes                         | -                     | -   | nothing          |
//	| yes       | valid                  | fine    | fine                  | no                          | yes                   | -   | nothing          |
//	| yes       | valid                  | fine    | fine                  | no                          | no                    | no  | wait             |
//	| yes       | valid                  | fine    | fine                  | no                          | no                    | yes | repair the pod   |
//
// What ends the other rows with nothing brings the pool back here.
func planRepair(pool *v1alpha1.Pool, obs observed) repairPlan {
	switch wait := obs.candidate.due.Sub(obs.now); {
	case obs.candidate.name == "", obs.invalid != nil, obs.template == nil:
		return repairPlan{}
	case obs.creates.failing:
		return repairPlan{wait: repairFirst}
	case obs.endings.failing, obs.deletes.wait > 0, obs.owed > 0, obs.repairing, planPool(pool, obs).Delete > 0:
		return repairPlan{}
	case wait > 0:
		return repairPlan{wait: wait}
	default:
		return repairPlan{
			pod: obs.candidate.name, uid: obs.candidate.uid,
			reason: fmt.Sprintf("replace pod %s, which can't start: %s", obs.candidate.name, obs.candidate.reason),
		}
	}
}

// repair deletes a pod that can't start, if it is time. The pool owes another one, which the plan of its capacity makes.
func (r *Reconciler) repair(ctx context.Context, pool *v1alpha1.Pool, mem *memory, obs *observed) error {
	plan := planRepair(pool, *obs)
	obs.repairWait = soonest(obs.repairWait, plan.wait)
	if plan.pod == "" {
		return nil
	}
	key := client.ObjectKeyFromObject(pool)
	deleted, err := r.deletePods(ctx, key, r.ledger.RetireStarting(key, plan.pod, plan.uid))
	if deleted == 0 {
		return err
	}
	mem.repairs.deleted(obs.now, obs.activity.Started)
	mem.owe(deleted, fmt.Sprintf("pod %s, which can't start: %s", plan.pod, obs.candidate.reason), obs)
	mem.scaleReason = plan.reason
	obs.repairing = true
	obs.counts = r.ledger.Counts(key)
	logf.FromContext(ctx).Info("deleted a pod that can't start", "pool", klog.KObj(pool), "pod", plan.pod, "reason", obs.candidate.reason)
	r.send(pool, repairing(plan.pod, obs.candidate.reason))
	return err
}

// observeRepairs looks what became of the last repair, and forgets about earlier ones when pods of the current revision
// have become Ready since and none of them crashed. It returns how long the last one is under way at most.
func (r *Reconciler) observeRepairs(key client.ObjectKey, mem *memory, obs observed) time.Duration {
	m := &mem.repairs
	if m.owed && obs.owed == 0 {
		m.owed = false // the pool has no use for it any more
	}
	if m.failures > 0 && obs.activity.Started != m.started && mem.crashes(obs.now) == 0 {
		m.failures = 0
	}
	if m.pod == "" {
		return 0
	}
	pod, starting := r.ledger.Starting(key, m.pod)
	left := overdueIn(pod, obs)
	if !starting || pod.Failure.Reason != "" || left == 0 {
		m.pod = ""
		return 0
	}
	return left
}

// overdueIn is how long a starting pod may go on without a word of trouble until that is told; 0 if it is time. A pod that
// no watch has shown yet has all the time.
func overdueIn(pod scheduler.Pod, obs observed) time.Duration {
	limit := scheduler.OverdueAfter(obs.activity.StartTime)
	if pod.Since.IsZero() {
		return limit
	}
	return max(0, pod.Since.Add(limit).Sub(obs.now))
}

// observeFailing looks for what keeps starting pods from becoming Ready, for a pod to repair, and when one that is starting
// without a word will have done so for too long.
func (r *Reconciler) observeFailing(key client.ObjectKey, mem *memory, obs *observed) {
	failing := r.ledger.Failing(key)
	mem.noteCrashes(failing.Crashing, obs.now)
	obs.repairWait = r.observeRepairs(key, mem, *obs)
	obs.repairing = mem.repairs.inFlight()
	mem.repairs.noteStuck(failing.Stuck != nil, obs.now)
	if failing.Quiet != nil {
		obs.overdueWait = overdueIn(*failing.Quiet, *obs)
	}
	if f := failureOf(failing, *obs); f != nil || !obs.repairing {
		mem.failing = f // the pod in place of one that couldn't start gets its chance before that is forgotten
	}
	obs.failing = mem.failing
	obs.candidate = candidateOf(failing, mem.repairs, obs.activity.StartTime)
}

// failureOf is what to tell of pods that are not becoming Ready; nil if all may yet.
//
//	| containers can't start | no node takes one | one has been starting for too long | tell          |
//	| yes                    | -                 | -                                  | the first     |
//	| no                     | yes               | -                                  | the second    |
//	| no                     | no                | yes                                | the third     |
//	| no                     | no                | no                                 | nothing       |
func failureOf(f scheduler.Failing, obs observed) *problem {
	switch {
	case f.Stuck != nil:
		return failureOfPod(*f.Stuck)
	case f.Unschedulable != nil:
		return failureOfPod(*f.Unschedulable)
	case f.Quiet != nil && overdueIn(*f.Quiet, obs) == 0:
		return &problem{v1alpha1.ReasonProgressDeadlineExceeded, fmt.Sprintf(
			"pod %s has been starting for much longer than pods of this pool do, and its status doesn't tell why: "+
				"look at its events (kubectl describe pod)", f.Quiet.Name)}
	default:
		return nil
	}
}

func failureOfPod(pod scheduler.Pod) *problem {
	return &problem{pod.Failure.Reason, fmt.Sprintf("pod %s: %s", pod.Name, pod.Failure.Message)}
}
