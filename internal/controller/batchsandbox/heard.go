// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// heardEnd is a try of a task whose executor says that it is over.
type heardEnd struct {
	reason string // in the words of status.failedTasks, or Completed; whatever else the executor says
	at     time.Time
}

// hear notes the end of a try for the metrics. It is called with the lock held.
func (r *Runner) hear(s *session) {
	if s.state.phase == taskEnded {
		uid := s.target.uid
		r.heard[uid] = append(r.heard[uid], heardEndOf(s.state.end, s.since, r.clock.Now()))
	}
}

// takeHeard returns the ends of tries of a batch that were heard of since it was last asked.
func (r *Runner) takeHeard(uid types.UID) []heardEnd {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard := r.heard[uid]
	delete(r.heard, uid)
	return heard
}

// heardEndOf says when a try ended and why. The executor is believed no more than can be: a try ends while it is followed, or
// before, when nobody could have told of it.
//
//	| the executor's time             | taken for the end           |
//	| none                            | when it was heard of        |
//	| before the try was followed     | when it began to be         |
//	| between                         | that                        |
//	| after its end was heard of      | when it was heard of        |
func heardEndOf(t *taskexecutor.Terminated, since, now time.Time) heardEnd {
	e := heardEnd{reason: t.Reason, at: t.FinishedAt}
	switch {
	case e.at.IsZero() || e.at.After(now):
		e.at = now
	case e.at.Before(since):
		e.at = since
	}
	switch {
	case e.reason == "" && t.ExitCode == 0:
		e.reason = taskexecutor.ReasonCompleted
	case e.reason == "":
		e.reason = v1alpha1.TaskReasonNonZeroExit
	}
	return e
}
