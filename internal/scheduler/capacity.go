// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"fmt"

	"opensandbox.io/controller/api/v1alpha1"
)

// Limit names the bound that keeps a pool from the size it needs; it is the reason of the condition that says so.
type Limit string

const (
	// LimitNone: nothing limits the pool, or it has the size it needs.
	LimitNone Limit = v1alpha1.ReasonUnlimited

	// LimitPoolMax: no more pods fit under poolMax.
	LimitPoolMax Limit = v1alpha1.ReasonPoolMaxReached

	// LimitStarting: as many pods start as may start at once.
	LimitStarting Limit = v1alpha1.ReasonStartingLimit
)

// Limits are the bounds of one decision beside the capacity spec.
type Limits struct {
	// Forecast gives the buffer that the claims of the near future need. It is clamped to the band of the spec.
	Forecast Forecast

	// MaxStarting is the greatest number of pods that may start at once. Negative: no limit.
	MaxStarting int

	// MaxCreate is the greatest number of pods created by this decision. Negative: no limit.
	MaxCreate int

	// MaxDelete is the greatest number of pods deleted by this decision. Negative: no limit.
	MaxDelete int

	// CreatePause and DeletePause say why MaxCreate or MaxDelete is 0, where it is.
	CreatePause, DeletePause string

	// MaxReplace is the greatest number of pods that may be out of service because of an update (PlanUpdate). 0: none is
	// replaced.
	MaxReplace int

	// MaxMove is the greatest number of pods that may be on their way, starting or going, for stranded ones to be deleted in
	// favour of others. 0: none is.
	MaxMove int

	// Owed is the number of pods that were deleted to be replaced and that are not made again yet, as Counts.Owed cuts it.
	Owed int

	// OwedFor says which pods these were.
	OwedFor string
}

// CapacityPlan is what to do about the size of a pool. Nothing is created and deleted at once.
type CapacityPlan struct {
	// Create is the number of pods to make now.
	Create int

	// Delete is the number of unheld pods to delete now.
	Delete int

	// DeleteStranded is the number of stranded pods to delete now.
	DeleteStranded int

	// Partial says that MaxCreate or MaxDelete cut the decision, and that there is more to do.
	Partial bool

	// Limited is the bound that leaves the buffer below bufferMin or the pool below poolMin.
	Limited Limit

	// Reason says in one line why pods are created or deleted, or why none are though the pool has too few or too many; ""
	// if it has what it needs. Where nothing is done it names no number that drifts with time.
	Reason string
}

// Buffer is what would be left unheld once the queue is served. It is negative while more is waited for than is
// idle or starting.
func (c Counts) Buffer() int { return c.Idle + c.Starting - c.Waiting }

// PlanCapacity decides how many pods a pool makes or deletes.
//
//	target = clamp(max(midpoint(bufferMin, bufferMax), claim rate x start time), bufferMin, bufferMax)
//	buffer = idle + starting - waiting
//	total  = idle + starting + held + unusable
//	room   = poolMax - total - terminating
//
// The first row that matches decides:
//
//	| buffer      | total     | result                                                                   |
//	| -           | > poolMax | delete total - poolMax, stranded ones first, or buffer - bufferMax if that is more |
//	| -           | < poolMin | create poolMin - total, or target - buffer if that is more and buffer low |
//	| < bufferMin | -         | create target - buffer                                                   |
//	| > bufferMax | -         | delete buffer - bufferMax, but not below poolMin                         |
//	| in the band | -         | create what is owed, up to bufferMax                                     |
//
// Stranded pods are unusable: they take room, serve nobody, and are kept, for their node may be fit again soon. Where
// something is to be created and there is no room, those on cordoned nodes make some:
//
//	| creates | room | coming room     | result                                                        |
//	| some    | > 0  | -               | none is deleted: what fits is created first                   |
//	| some    | 0    | >= what to make | none: what is going makes the room                            |
//	| some    | 0    | less            | delete what is missing of it, while starting + coming < MaxMove |
//
// where the coming room is poolMax - total without the terminating pods that are stuck. Those on nodes that are not Ready
// are not deleted for that: they would not go, and make no room.
//
// Pods that are owed count as there when the pool is compared with bufferMin and poolMin, and are made with what is missing.
//
// Only unheld pods are deleted. No create takes total + terminating above poolMax, nor starting above
// MaxStarting. Pods that start count as supply, so the same demand never creates twice; what one decision leaves
// undone for a bound the next one does. A spec whose minimum exceeds its maximum is bounded by the maximum.
func PlanCapacity(spec v1alpha1.CapacitySpec, n Counts, l Limits) CapacityPlan {
	surplus, why := surplusOf(spec, n)
	if stranded := strandedSurplus(spec, n); surplus+stranded > 0 {
		return shrinkage(surplus, stranded, why, l)
	}
	missing := needOf(spec, n, l)
	plan := growth(spec, n, l, missing)
	if move := movable(spec, n, l, missing.pods); plan.Create == 0 && move > 0 {
		plan.DeleteStranded = move
		plan.Reason = fmt.Sprintf("delete %s on cordoned nodes: %s%s, and poolMax %d leaves no room",
			pods(move), missing.why, missing.target, spec.PoolMax)
	}
	return plan
}

// shrinkage cuts a surplus to what the bounds permit.
func shrinkage(surplus, stranded int, why string, l Limits) CapacityPlan {
	plan := CapacityPlan{Delete: surplus, DeleteStranded: stranded, Limited: LimitNone}
	if l.MaxDelete >= 0 {
		plan.DeleteStranded = min(stranded, l.MaxDelete)
		plan.Delete = min(surplus, l.MaxDelete-plan.DeleteStranded)
		plan.Partial = plan.Delete+plan.DeleteStranded < surplus+stranded
	}
	deleted := plan.Delete + plan.DeleteStranded
	plan.Reason = fmt.Sprintf("delete %s: %s", pods(deleted), why)
	if deleted == 0 {
		plan.Reason += paused(l.DeletePause)
	}
	return plan
}

// strandedSurplus is the number of stranded pods that are too many.
func strandedSurplus(spec v1alpha1.CapacitySpec, n Counts) int {
	return max(0, min(n.Total()-int(spec.PoolMax), n.Stranded()))
}

// surplusOf is the number of idle and starting pods that are too many, and why anything is.
func surplusOf(spec v1alpha1.CapacitySpec, n Counts) (int, string) {
	buffer, bufferMax := n.Buffer(), int(spec.BufferMax)
	stranded := strandedSurplus(spec, n)
	total, poolMin, poolMax := n.Total()-stranded, int(spec.PoolMin), int(spec.PoolMax)
	surplus, why := 0, ""
	if over := min(buffer-bufferMax, total-poolMin); over > 0 {
		surplus, why = over, fmt.Sprintf("buffer %d is above bufferMax %d", buffer, bufferMax)
	}
	if over := total - poolMax; over > surplus || stranded > 0 {
		surplus, why = max(over, surplus), fmt.Sprintf("total %d is above poolMax %d", n.Total(), poolMax)
	}
	return min(surplus, n.Idle+n.Starting), why
}

// movable is the number of stranded pods to delete so that others can be made in their place.
func movable(spec v1alpha1.CapacitySpec, n Counts, l Limits, need int) int {
	want := need
	if l.MaxStarting >= 0 {
		want = min(want, l.MaxStarting-n.Starting)
	}
	if l.MaxCreate >= 0 {
		want = min(want, l.MaxCreate)
	}
	coming := max(0, int(spec.PoolMax)-n.Total()-n.Stuck)
	move := min(want-coming, l.MaxMove-n.Starting-coming, n.Cordoned)
	if l.MaxDelete >= 0 {
		move = min(move, l.MaxDelete)
	}
	return max(0, move)
}

// need is the number of pods that are missing, whatever the bounds, why, and how the number came about.
type need struct {
	pods        int
	why, target string
}

// needOf says how many pods are missing.
func needOf(spec v1alpha1.CapacitySpec, n Counts, l Limits) need {
	bufferMin, bufferMax := int(spec.BufferMin), int(spec.BufferMax)
	owed := n.Owed(spec, l.Owed)
	missing := need{pods: owed, why: "in place of " + cmp.Or(l.OwedFor, "pods that were deleted to be replaced")}
	if buffer := n.Buffer(); buffer+owed < bufferMin {
		middle, predicted := (bufferMin+bufferMax)/2, l.Forecast.Target()
		target := max(bufferMin, min(max(middle, predicted), bufferMax))
		missing = need{
			pods: target - buffer, why: fmt.Sprintf("buffer %d is below bufferMin %d", buffer, bufferMin),
			target: fmt.Sprintf(", target is %d", target),
		}
		if predicted > max(middle, bufferMin) {
			missing.target += fmt.Sprintf(" (%s)", l.Forecast)
		}
	}
	if short := int(spec.PoolMin) - n.Total(); short > missing.pods {
		missing = need{pods: short, why: fmt.Sprintf("total %d is below poolMin %d", n.Total(), spec.PoolMin)}
	}
	return missing
}

// growth cuts what is needed to what the bounds permit.
func growth(spec v1alpha1.CapacitySpec, n Counts, l Limits, missing need) CapacityPlan {
	plan := CapacityPlan{Limited: LimitNone}
	if missing.pods <= 0 {
		return plan
	}
	room := max(0, int(spec.PoolMax)-n.Total()-n.Terminating)
	bound, limit := room, LimitPoolMax
	if l.MaxStarting >= 0 {
		if starting := max(0, l.MaxStarting-n.Starting); starting < bound {
			bound, limit = starting, LimitStarting
		}
	}
	fits := min(missing.pods, bound)
	if n.Buffer()+fits < int(spec.BufferMin) || n.Total()+fits < int(spec.PoolMin) {
		plan.Limited = limit
	}
	plan.Create = fits
	if l.MaxCreate >= 0 && fits > l.MaxCreate {
		plan.Create, plan.Partial = l.MaxCreate, true
	}
	limited := limitedBy(plan.Limited, spec, l)
	switch {
	case plan.Create > 0:
		plan.Reason = fmt.Sprintf("create %s: %s%s%s", pods(plan.Create), missing.why, missing.target, limited)
	case plan.Partial:
		plan.Reason = fmt.Sprintf("create no pods: %s%s", missing.why, paused(l.CreatePause))
	case limited != "":
		plan.Reason = fmt.Sprintf("create no pods: %s%s", missing.why, limited)
	}
	return plan
}

func paused(why string) string {
	if why == "" {
		return ""
	}
	return ", but " + why
}

func limitedBy(limit Limit, spec v1alpha1.CapacitySpec, l Limits) string {
	switch limit {
	case LimitPoolMax:
		return fmt.Sprintf(", limited by poolMax %d", spec.PoolMax)
	case LimitStarting:
		return fmt.Sprintf(", limited to %d starting at once", l.MaxStarting)
	default:
		return ""
	}
}

func pods(n int) string {
	switch n {
	case 0:
		return "no pods"
	case 1:
		return "1 pod"
	default:
		return fmt.Sprintf("%d pods", n)
	}
}
