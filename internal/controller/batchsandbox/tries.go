// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"maps"
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
	failed, lost, withdrawn int32 // at least 0
	// lostWith is the trace of the sandbox that the last lost try was lost with, until the next one is begun there.
	lostWith string
}

// number is that of the try which follows, from 1.
func (t tries) number() int { return 1 + int(t.failed) + int(t.lost) + int(t.withdrawn) }

// covers says that these are at least those, in every count.
func (t tries) covers(o tries) bool {
	return t.failed >= o.failed && t.lost >= o.lost && t.withdrawn >= o.withdrawn
}

// allTries are what the status has, by index. Counts below 0 were not written by a controller and are none.
func allTries(status *v1alpha1.BatchSandboxStatus) map[int]tries {
	all := make(map[int]tries, len(status.TaskTries))
	for i := range status.TaskTries {
		t := &status.TaskTries[i]
		all[int(t.Index)] = tries{failed: max(0, t.Failed), lost: max(0, t.Lost), withdrawn: max(0, t.Withdrawn), lostWith: t.LostWith}
	}
	return all
}

// addTries writes what changed of some indexes into a status, which lists all in order.
func addTries(status *v1alpha1.BatchSandboxStatus, changed map[int]tries) {
	if len(changed) == 0 {
		return
	}
	all := allTries(status)
	maps.Copy(all, changed)
	status.TaskTries = make([]v1alpha1.TaskTries, 0, len(all))
	for _, index := range sortedIndexes(all) {
		t := all[index]
		status.TaskTries = append(status.TaskTries, v1alpha1.TaskTries{
			Index: int32(index), Failed: t.failed, Lost: t.lost, Withdrawn: t.withdrawn, LostWith: t.lostWith, //nolint:gosec // an index is below replicas, an int32
		})
	}
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
			after.failed, after.lostWith = before.failed+1, ""
			return after, retryWait(before.failed), true
		}
	case v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		if before.lost < v1alpha1.MaxLostTries {
			after.lost, after.lostWith = before.lost+1, ""
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
//	| the current try                           | its sandbox | the try is                              |
//	| stands in the status as ended             | -           | past: nothing is decided                |
//	| decided on, not dispatched                | -           | not begun: it goes where the sandbox is |
//	| ended, its executor says                  | -           | over, as the executor says              |
//	| dispatched, or may have been by another   | lost        | over: SandboxLost                       |
//	| controller: something durable tells of    |             |                                         |
//	| the sandbox                               |             |                                         |
//	| follows one that was lost with this very  | lost        | not begun                               |
//	| sandbox                                   | usable      | not begun: it begins there when the     |
//	|                                           |             | status doesn't say so any more          |
//	| any other                                 | -           | not over                                |
//
// Into obs.withdrawn go the tries of indexes that are not asked for any more.
func judgeTries(obs *observed, pending retryMemory) {
	obs.retries = pending
	if !obs.hasTasks() {
		return
	}
	all := allTries(&obs.sb.Status)
	for i := range obs.replicas() {
		if _, ended := obs.ends[i]; ended {
			delete(pending, i)
			continue
		}
		before := all[i]
		next, waits := pending[i]
		if waits = waits && next.before.covers(before); !waits {
			delete(pending, i)
			obs.judgeTry(i, before)
		}
		if next, waits = pending[i]; waits && obs.isBack(i, next.before) {
			next.before.lostWith = ""
			pending[i] = next
		}
	}
	withdrawTries(obs, all)
}

// judgeTry decides what becomes of a try that is not known to have to be begun.
func (o *observed) judgeTry(index int, before tries) {
	state := o.tasks[index]
	switch {
	case state.phase == taskEnded && state.try == before.number():
		o.decide(index, before, state.end)
	case o.losesTry(index, before):
		o.decide(index, before, lostWith(o.sandboxes[index].why))
	case o.isBack(index, before):
		o.retries[index] = retry{before: before, notBefore: o.now}
	}
}

// losesTry says that the current try of an index without a usable sandbox may have been begun: something durable tells of
// the sandbox, and not that the try before was lost with it, or somebody still follows the try there.
func (o *observed) losesTry(index int, before tries) bool {
	s, task := o.sandboxes[index], o.tasks[index]
	if s.usable() || s.givenBack {
		return false
	}
	trace := o.trace(index)
	return (trace != "" && trace != before.lostWith) || (task.follows() && task.try == before.number())
}

// isBack says that the sandbox with which the last lost try was lost is usable again, as when its node is back.
func (o *observed) isBack(index int, before tries) bool {
	s := o.sandboxes[index]
	is := s.podName
	if !o.pooled() {
		is = s.ip
	}
	return is != "" && is == before.lostWith && s.usable()
}

// trace is what tells, whatever becomes of the controller, that a sandbox was told to run the task of an index: the pod that
// the batch names, or the address that it tells. No task is dispatched before that is written. "" for none.
func (o *observed) trace(index int) string {
	switch {
	case o.pooled() && index < len(o.sandboxes):
		return o.sandboxes[index].podName
	case !o.pooled() && index < len(o.endpoints):
		return o.endpoints[index]
	default:
		return ""
	}
}

// decide notes what follows a try that is over.
func (o *observed) decide(index int, before tries, how *taskexecutor.Terminated) {
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
	if !o.sandboxes[index].usable() {
		after.lostWith = o.trace(index)
	}
	o.retries[index] = retry{
		before: after, notBefore: o.now.Add(wait), why: whyAgain(end.failed, after, wait, limit),
	}
}

// withdrawTries counts a try of every index beyond replicas whose task has ended, or may have been begun and is not being
// stopped yet: should the index be asked for again, it runs another try. Counted twice, as when the controller is
// restarted, it skips a number and nothing else.
func withdrawTries(obs *observed, all map[int]tries) {
	withdraw := func(index int) {
		before := all[index]
		if next, waits := obs.retries[index]; waits && next.before.covers(before) {
			before = next.before // maybe not begun, but it may have landed
		}
		before.withdrawn, before.lostWith = before.withdrawn+1, ""
		obs.withdrawn[index] = before
		delete(obs.retries, index)
	}
	obs.withdrawn = map[int]tries{}
	for index, end := range obs.ends {
		if index >= obs.replicas() && end.recorded {
			withdraw(index)
		}
	}
	for index := obs.replicas(); index < len(obs.sandboxes); index++ {
		task, known := obs.tasks[index]
		_, counted := obs.withdrawn[index]
		if stopping := known && task.try == 0; !counted && !stopping && obs.trace(index) != "" {
			withdraw(index)
		}
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
	changed := maps.Clone(o.withdrawn)
	for index, next := range o.retries {
		if changed == nil {
			changed = make(map[int]tries, len(o.retries))
		}
		if index < o.replicas() {
			changed[index] = next.before
		}
	}
	addTries(status, changed)
}

// recordTries writes what became of the tries of lost sandboxes, before another sandbox gets the next one, or what tells of the
// try is gone, and of those that are taken back, before they are stopped. Other tries and ends are written with the rest
// of the status. It says whether there were ends among them.
func (r *Reconciler) recordTries(ctx context.Context, obs *observed, unserved []int, m *memory) (ends bool, err error) {
	news := len(obs.withdrawn) > 0
	all := allTries(&obs.sb.Status)
	for _, index := range unserved {
		end, ended := obs.ends[index]
		next, again := obs.retries[index]
		news = news || (ended && !end.recorded) || (again && next.before != all[index])
	}
	if !news {
		return false, nil
	}
	status := obs.sb.Status.DeepCopy()
	taskStatus(obs, status)
	silent := obs.lostSilently(unserved, all)
	if err := r.patchStatus(ctx, obs, status, m); err != nil {
		return false, err
	}
	r.metrics.countTries(v1alpha1.TaskReasonSandboxLost, silent)
	clear(obs.withdrawn)
	for index, end := range obs.ends {
		ends = ends || !end.recorded
		end.recorded = true
		obs.ends[index] = end
	}
	for _, index := range unserved {
		if _, again := obs.retries[index]; again {
			r.runner.Forget(obs.sb.UID, index)
			delete(obs.tasks, index)
		}
	}
	return ends, nil
}

// lostSilently is how many tries of these indexes are lost that the status doesn't have yet, and of which no executor told.
func (o *observed) lostSilently(indexes []int, all map[int]tries) (n int) {
	for _, index := range indexes {
		end, ended := o.ends[index]
		next, again := o.retries[index]
		switch {
		case o.tasks[index].phase == taskEnded:
		case ended && !end.recorded, again && next.before.lost > all[index].lost:
			n++
		}
	}
	return n
}
