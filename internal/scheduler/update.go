// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"

	"opensandbox.io/controller/api/v1alpha1"
)

// UpdatePlan is what to do about the unheld pods of an old revision, or whose executors believe another root.
type UpdatePlan struct {
	// Replace is the number of them to delete now: starting ones first, then idle ones. Each that is deleted is owed a
	// pod of the current revision.
	Replace int

	// Reason says in one line why; "" if none is replaced.
	Reason string
}

// Owed is how many of the pods that were deleted to be replaced the pool still has use for: no more than bring its buffer
// to bufferMax, or its total to poolMin.
func (c Counts) Owed(spec v1alpha1.CapacitySpec, owed int) int {
	return max(0, min(owed, max(int(spec.BufferMax)-c.Buffer(), int(spec.PoolMin)-c.Total())))
}

// PlanUpdate decides how many unheld pods of an old revision are replaced now: as many as the budget leaves. Pods whose
// executors believe another root than the controller's are like those of an old revision.
//
//	unavailable = starting pods of the current revision + pods the pool is short of and has room for, owed ones included
//	room        = MaxReplace - unavailable
//	candidates  = starting pods of an old revision + idle ones of an old revision that no batch waits for
//
// The first row that matches decides:
//
//	| the pool                                  | result                                                        |
//	| has more pods than it may (PlanCapacity)  | nothing: those deletes take old pods first                    |
//	| has fewer than MaxReplace unavailable     | replace min(candidates, room), starting ones first            |
//	| else                                      | nothing: what was begun comes first                           |
//
// So at most MaxReplace pods are out of service because of the update, and where pods of the current revision can't become
// ready, they fill the budget and no more of the old ones go. Starting pods of an old revision serve nobody: they take no
// budget before they are replaced. Where fewer than MaxReplace pods may start at once, that bounds the budget.
func PlanUpdate(spec v1alpha1.CapacitySpec, n Counts, l Limits) UpdatePlan {
	if surplus, _ := surplusOf(spec, n); surplus > 0 {
		return UpdatePlan{}
	}
	budget := l.MaxReplace
	if l.MaxStarting >= 0 {
		budget = min(budget, l.MaxStarting)
	}
	short := min(needOf(spec, n, l).pods, max(0, int(spec.PoolMax)-n.Total()))
	unavailable := n.Starting - n.StaleStarting + short
	candidates := n.StaleStarting + min(n.StaleIdle, max(0, n.Idle-n.Waiting))
	replace := min(candidates, budget-unavailable)
	if l.MaxDelete >= 0 {
		replace = min(replace, l.MaxDelete)
	}
	if replace <= 0 {
		return UpdatePlan{}
	}
	return UpdatePlan{Replace: replace, Reason: fmt.Sprintf("replace %s: %s, at most %d at once", pods(replace), staleness(n), budget)}
}

// staleness says how many unheld pods are to be replaced and what for.
//
//	| old revision | other root | result                |
//	| some         | none       | old revision          |
//	| none         | some       | other root            |
//	| some         | some       | both, with the number |
func staleness(n Counts) string {
	stale := n.StaleIdle + n.StaleStarting
	const otherRoot = "have executors that obey another root than the controller's present one"
	switch n.OtherRoot {
	case 0:
		return fmt.Sprintf("%d that no batch holds are of an old revision", stale)
	case stale:
		return fmt.Sprintf("%d that no batch holds %s", stale, otherRoot)
	default:
		return fmt.Sprintf("%d that no batch holds are of an old revision, and %d %s", stale-n.OtherRoot, n.OtherRoot, otherRoot)
	}
}
