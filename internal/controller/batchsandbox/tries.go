// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// retryBase and retryCap are the wait before the second try of a task that failed by itself, and the longest before any. The
	// cap is that of the kubelet for containers that crash; the base is shorter than its 10 s, for a try in a warm
	// sandbox costs a process and no container.
	retryBase = time.Second
	retryCap  = 5 * time.Minute
)

// tries are those of one index that are over and were not its last.
type tries struct {
	failed, lost int32 // at least 0
}

// number is that of the try which follows, from 1.
func (t tries) number() int { return 1 + int(t.failed) + int(t.lost) }

// covers says that these are at least those, in both counts.
func (t tries) covers(o tries) bool { return t.failed >= o.failed && t.lost >= o.lost }

// triesOf is what the status has of one index. Counts below 0 were not written by a controller and are none.
func triesOf(status *v1alpha1.BatchSandboxStatus, index int) tries {
	for i := range status.TaskTries {
		if t := &status.TaskTries[i]; int(t.Index) == index {
			return tries{failed: max(0, t.Failed), lost: max(0, t.Lost)}
		}
	}
	return tries{}
}

// setTries writes what the status has of one index, in order of the indexes.
func setTries(status *v1alpha1.BatchSandboxStatus, index int, t tries) {
	at, found := slices.BinarySearchFunc(status.TaskTries, int32(index), func(t v1alpha1.TaskTries, index int32) int { //nolint:gosec // an index is below replicas, an int32
		return cmp.Compare(t.Index, index)
	})
	if !found {
		status.TaskTries = slices.Insert(status.TaskTries, at, v1alpha1.TaskTries{Index: int32(index)}) //nolint:gosec // an index is below replicas, an int32
	}
	status.TaskTries[at].Failed, status.TaskTries[at].Lost = t.failed, t.lost
}

// tryOf is the number of the current try of an index, from 1.
func tryOf(status *v1alpha1.BatchSandboxStatus, index int) int {
	return triesOf(status, index).number()
}

// nextTry decides what follows a try that is over: the end of the task, or another try after a wait. before are the tries
// before it.
//
//	| how the try ended                   | before                | what follows                                 |
//	| Completed                           | -                     | the end                                      |
//	| NonZeroExit, TimedOut               | failed < backoffLimit | another after retryBase x 2^failed, at most  |
//	|                                     |                       | retryCap; failed + 1                         |
//	| NonZeroExit, TimedOut               | failed = backoffLimit | the end                                      |
//	| SandboxLost, ExecutorLost           | lost < MaxLostTries   | another at once; lost + 1                    |
//	| SandboxLost, ExecutorLost           | lost = MaxLostTries   | the end                                      |
//	| StartError, Cancelled, or any other | -                     | the end                                      |
//
// Each kind has its own bound, so a task has at most 1 + backoffLimit + MaxLostTries tries.
func nextTry(before tries, reason string, backoffLimit int32) (after tries, wait time.Duration, again bool) {
	after = before
	switch reason {
	case v1alpha1.TaskReasonNonZeroExit, v1alpha1.TaskReasonTimedOut:
		if before.failed < backoffLimit {
			after.failed++
			return after, retryWait(before.failed), true
		}
	case v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		if before.lost < v1alpha1.MaxLostTries {
			after.lost++
			return after, 0, true
		}
	}
	return before, 0, false
}

// retryWait is the wait after a failure, by the number of failures before it.
func retryWait(failed int32) time.Duration {
	wait := retryBase
	for ; failed > 0 && wait < retryCap; failed-- {
		wait *= 2
	}
	return min(wait, retryCap)
}

// backoffLimitOf is how often the task of an index is run again after it failed by itself.
func backoffLimitOf(sb *v1alpha1.BatchSandbox, index int) int32 {
	spec, problem := taskSpecOf(sb, index)
	if problem != nil || spec.BackoffLimit == nil {
		return 0
	}
	return *spec.BackoffLimit
}

// retry is a try that was decided on and has not been dispatched.
type retry struct {
	// before are the tries before it, which the status must have before it is dispatched.
	before tries
	// notBefore is when it may be dispatched.
	notBefore time.Time
	// why says how the one before it ended, and what follows. It doesn't change while the try waits.
	why string
}

// number is that of the try.
func (r retry) number() int { return r.before.number() }

// retryMemory are the tries that this controller decided on and has not dispatched, by index. It has absolute numbers, so that a
// write whose answer was lost changes nothing when it is repeated. A controller that starts has none: it asks the
// executor whether the try was begun, and else begins the wait anew.
type retryMemory map[int]retry

// lostWith is the end of a try that was lost with its sandbox.
func lostWith(why string) *taskexecutor.Terminated {
	end := &taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonSandboxLost, Message: "the sandbox was lost"}
	if why != "" {
		end.Message += ": " + why
	}
	return end
}

// judgeTries decides what becomes of the tasks whose current try is over: into obs.ends go those that have come to their end,
// into obs.retries those that are run again:
//
//	| the current try                          | its sandbox | the try is                              |
//	| stands in the status as ended            | -           | past: nothing is decided                |
//	| decided on, not dispatched               | -           | not begun: it goes where the sandbox is |
//	| ended, its executor says                 | -           | over, as the executor says              |
//	| dispatched, or may have been by another  | lost        | over: SandboxLost                       |
//	| controller                               |             |                                         |
//	| any other                                | -           | not over                                |
func judgeTries(obs *observed, pending retryMemory) {
	obs.retries = pending
	if !obs.hasTasks() {
		return
	}
	for i := range obs.replicas() {
		before := triesOf(&obs.sb.Status, i)
		if _, ended := obs.ends[i]; ended {
			delete(pending, i)
			continue
		}
		if p, waits := pending[i]; waits && p.before.covers(before) {
			continue
		}
		delete(pending, i)
		state := obs.tasks[i]
		end := state.end
		switch {
		case state.phase == taskEnded && state.try == before.number():
		case obs.losesTry(i):
			end = lostWith(obs.sandboxes[i].why)
		default:
			continue
		}
		obs.judge(i, before, end)
	}
}

// judge notes what follows a try that is over.
func (o *observed) judge(index int, before tries, how *taskexecutor.Terminated) {
	end := endOf(index, taskState{try: before.number(), end: how})
	if end.ok {
		o.ends[index] = end
		return
	}
	limit := backoffLimitOf(o.sb, index)
	after, wait, again := nextTry(before, end.failed.Reason, limit)
	if !again {
		o.ends[index] = end
		return
	}
	o.retries[index] = retry{
		before: after, notBefore: o.now.Add(wait), why: whyAgain(end.failed, after, wait, limit),
	}
}

// whyAgain tells a user of a try that follows. It has no time that passes: the status is not written because of that.
func whyAgain(f *v1alpha1.FailedTask, after tries, wait time.Duration, limit int32) string {
	switch f.Reason {
	case v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		lost := "sandbox"
		if f.Reason == v1alpha1.TaskReasonExecutorLost {
			lost = "task-executor"
		}
		return fmt.Sprintf("index %d lost its %s (%d of at most %d times), try %d follows", f.Index, lost, after.lost, v1alpha1.MaxLostTries, after.number())
	case v1alpha1.TaskReasonTimedOut:
		return fmt.Sprintf("index %d ran too long, try %d of %d follows after %s", f.Index, after.number(), 1+int(limit)+int(after.lost), wait)
	default:
		how := "failed"
		switch {
		case f.Signal != 0:
			how = fmt.Sprintf("was ended by signal %d", f.Signal)
		case f.ExitCode != nil:
			how = fmt.Sprintf("failed with exit code %d", *f.ExitCode)
		}
		return fmt.Sprintf("index %d %s, try %d of %d follows after %s", f.Index, how, after.number(), 1+int(limit)+int(after.lost), wait)
	}
}

// losesTry says that the task of an index without a usable sandbox may have been started: its pod is still named, or
// somebody still follows it there.
func (o *observed) losesTry(index int) bool {
	s, task := o.sandboxes[index], o.tasks[index]
	return !s.usable() && !s.givenBack && (s.podName != "" || task.follows())
}

// waiting is the first try that waits for its time or its sandbox, in words, and the number of the others; "" for none.
func (o *observed) waiting() (why string, others int) {
	for _, index := range sortedIndexes(o.retries) {
		switch {
		case index >= o.replicas():
		case why == "":
			why = o.retries[index].why
		default:
			others++
		}
	}
	return why, others
}

// noteTries writes into a status the tries that were decided on.
func (o *observed) noteTries(status *v1alpha1.BatchSandboxStatus) {
	for _, index := range sortedIndexes(o.retries) {
		setTries(status, index, o.retries[index].before)
	}
}

// recordTries writes what became of the tries of lost sandboxes, before another sandbox gets the next one, or the pod that tells
// of the try is not named any more. Other tries and ends are written with the rest of the status.
func (r *Reconciler) recordTries(ctx context.Context, obs *observed, unserved []int, m *memory) (recorded bool, err error) {
	if !obs.hasTasks() {
		return false, nil
	}
	news := false
	for _, index := range unserved {
		end, ended := obs.ends[index]
		again, waits := obs.retries[index]
		news = news || (ended && !end.recorded) || (waits && again.before != triesOf(&obs.sb.Status, index))
	}
	if !news {
		return false, nil
	}
	status := obs.sb.Status.DeepCopy()
	taskStatus(obs, status)
	if err := r.patchStatus(ctx, obs, status, m); err != nil {
		return false, err
	}
	for index, end := range obs.ends {
		recorded = recorded || !end.recorded
		end.recorded = true
		obs.ends[index] = end
	}
	for _, index := range unserved {
		if _, waits := obs.retries[index]; waits {
			r.runner.Forget(obs.sb.UID, index)
			delete(obs.tasks, index)
		}
	}
	return recorded, nil
}
