// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// nameOfTry is what a try of a task is called.
func nameOfTry(uid types.UID, index, try int) string { return fmt.Sprintf("%s-%d-%d", uid, index, try) }

// triesOf is what the status has of an index: the number of the current try is one more than their sum.
func triesOf(sb *v1alpha1.BatchSandbox, index int) v1alpha1.TaskTries {
	for _, t := range sb.Status.TaskTries {
		if int(t.Index) == index {
			return t
		}
	}
	return v1alpha1.TaskTries{}
}

func currentTry(t v1alpha1.TaskTries) int { return 1 + int(t.Failed+t.Lost+t.Withdrawn) }

// batchOf finds the batch of a try, nil where it is gone, with the index and the number of the try.
func (a *audit) batchOf(name string) (sb *v1alpha1.BatchSandbox, index, try int) {
	for _, obj := range a.w.server.list(kindBatch) {
		rest, ok := strings.CutPrefix(name, string(obj.GetUID())+"-")
		if !ok {
			continue
		}
		i, n, _ := strings.Cut(rest, "-")
		var err error
		if index, err = strconv.Atoi(i); err == nil {
			try, err = strconv.Atoi(n)
		}
		if err == nil {
			return obj.(*v1alpha1.BatchSandbox), index, try
		}
	}
	return nil, 0, 0
}

// started checks that no try of a task runs twice, nor one that the status doesn't have yet, nor one of a task that has ended,
// nor beside what another one left in its sandbox. Executors' calls that are late may start a try that is past.
func (a *audit) started(name string, at *containers) {
	if before, again := a.tries[name]; again {
		a.w.fail("try %s runs in pod %s, and has run in pod %s", name, at.pod, before)
	}
	a.tries[name] = at.pod
	if len(at.left) > 0 {
		a.w.fail("try %s runs in pod %s beside what %s left", name, at.pod, at.left[0].Name)
	}
	sb, index, try := a.batchOf(name)
	if sb == nil {
		return
	}
	t := triesOf(sb, index)
	switch {
	case try > currentTry(t):
		a.w.fail("try %s runs, and the status has %+v", name, t)
	case try == currentTry(t) && slices.Contains(ended(sb), index):
		a.w.fail("try %s runs, and the status has the end of the task", name)
	}
}

// checkTries checks what a status tells of the tries of tasks: no more than are allowed, none that did not happen, and ends that
// agree with how the tries ended.
func (a *audit) checkTries(before, after *v1alpha1.BatchSandbox) {
	if after == nil || after.Spec.TaskTemplate == nil {
		return
	}
	limit := int32(0)
	if l := after.Spec.TaskTemplate.Spec.BackoffLimit; l != nil {
		limit = *l
	}
	for _, t := range after.Status.TaskTries {
		was := v1alpha1.TaskTries{}
		if before != nil {
			was = triesOf(before, int(t.Index))
		}
		switch {
		case t.Failed > limit || t.Lost > v1alpha1.MaxLostTries:
			a.w.fail("index %d of batch %s has the tries %+v, and a backoffLimit of %d", t.Index, after.Name, t, limit)
		case t.Failed < was.Failed || t.Lost < was.Lost || t.Withdrawn < was.Withdrawn:
			a.w.fail("the tries of index %d of batch %s go from %+v to %+v", t.Index, after.Name, was, t)
		case t.Failed > was.Failed:
			a.checkFailed(after, int(t.Index), was)
		}
	}
	completed, err := indexset.Parse(after.Status.CompletedIndexes)
	if err != nil {
		a.w.fail("batch %s: %v", after.Name, err)
	}
	for _, index := range completed {
		name := nameOfTry(after.UID, index, currentTry(triesOf(after, index)))
		if how := a.ends[name]; how != taskexecutor.ReasonCompleted {
			a.w.fail("index %d of batch %s is told to have succeeded, and try %s ended as %q", index, after.Name, name, how)
		}
	}
	for _, f := range after.Status.FailedTasks {
		name := nameOfTry(after.UID, int(f.Index), int(f.Tries))
		how, seen := a.ends[name]
		if f.Reason != how && f.Reason != v1alpha1.TaskReasonSandboxLost && (seen || f.Reason != v1alpha1.TaskReasonStartError) {
			a.w.fail("index %d of batch %s is told to have failed as %s, and try %s ended as %q", f.Index, after.Name, f.Reason, name, how)
		}
	}
}

// checkFailed checks that the try that was the current one failed by itself. The one after it may have been withdrawn since.
func (a *audit) checkFailed(sb *v1alpha1.BatchSandbox, index int, was v1alpha1.TaskTries) {
	now := triesOf(sb, index)
	name := nameOfTry(sb.UID, index, currentTry(was))
	if how := a.ends[name]; now.Failed != was.Failed+1 || now.Lost != was.Lost || (how != taskexecutor.ReasonNonZeroExit && how != taskexecutor.ReasonTimedOut) {
		a.w.fail("index %d of batch %s goes from %+v to %+v, and try %s ended as %q", index, sb.Name, was, now, name, how)
	}
}
