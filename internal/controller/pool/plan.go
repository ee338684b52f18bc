// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/intstr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

// maxBurst is the greatest number of pods that one reconcile creates or deletes; the next one goes on.
const maxBurst = 256

// validate says what is wrong with the numbers of a spec and with the pool's name; nil if nothing is. The API
// server checks the same where it can.
func validate(pool *v1alpha1.Pool) *problem {
	if n := len(pool.Name); n > v1alpha1.MaxNameLength {
		return &problem{v1alpha1.ReasonNameTooLong, fmt.Sprintf("metadata.name has %d characters and must have at most %d, "+
			"for it becomes a label value: create the pool under a shorter name", n, v1alpha1.MaxNameLength)}
	}
	c := pool.Spec.CapacitySpec
	for _, f := range []struct {
		name  string
		value int32
	}{{"bufferMin", c.BufferMin}, {"bufferMax", c.BufferMax}, {"poolMin", c.PoolMin}, {"poolMax", c.PoolMax}} {
		if f.value < 0 {
			return invalidSpec("capacitySpec.%s is %d and must not be negative", f.name, f.value)
		}
	}
	if c.BufferMin > c.BufferMax {
		return invalidSpec("capacitySpec.bufferMin is %d and must not exceed bufferMax, which is %d", c.BufferMin, c.BufferMax)
	}
	if c.PoolMin > c.PoolMax {
		return invalidSpec("capacitySpec.poolMin is %d and must not exceed poolMax, which is %d", c.PoolMin, c.PoolMax)
	}
	if s := pool.Spec.ScaleStrategy; s != nil {
		if p := validateAmount("scaleStrategy.maxUnavailable", s.MaxUnavailable); p != nil {
			return p
		}
	}
	if s := pool.Spec.UpdateStrategy; s != nil {
		return validateAmount("updateStrategy.maxUnavailable", s.MaxUnavailable)
	}
	return nil
}

func validateAmount(field string, v *intstr.IntOrString) *problem {
	if v == nil {
		return nil
	}
	if n, err := intstr.GetScaledValueFromIntOrPercent(v, 100, true); err != nil || n < 0 {
		return invalidSpec("%s is %q and must be a percentage or a number from 0", field, v.String())
	}
	return nil
}

func invalidSpec(format string, args ...any) *problem {
	return &problem{v1alpha1.ReasonInvalidSpec, fmt.Sprintf(format, args...)}
}

// planPool decides about the size of a pool that is not being deleted:
//
//	| spec or name | template | failing                     | result                                     |
//	| invalid      | -        | -                           | nothing                                    |
//	| valid        | invalid  | -                           | deletes what is too much, creates nothing  |
//	| valid        | valid    | creates or pods, waiting    | deletes what is too much, creates nothing  |
//	| valid        | valid    | pods, wait is over          | one pod at a time                          |
//	| valid        | valid    | creates, wait is over       | as needed: slow start tries one first      |
//	| valid        | valid    | no                          | as needed                                  |
//
// Nothing is deleted while deletes are waiting after a failure, and no stranded pod in favour of another one while anything
// is known to fail.
func planPool(pool *v1alpha1.Pool, obs observed) scheduler.CapacityPlan {
	if obs.invalid != nil && obs.invalid.reason != v1alpha1.ReasonInvalidTemplate {
		return scheduler.CapacityPlan{Limited: scheduler.LimitNone, Reason: "create and delete no pods: the spec is invalid"}
	}
	limits := limitsOf(pool, obs)
	switch {
	case obs.template == nil:
		limits.MaxCreate, limits.CreatePause = 0, "the template is invalid"
	case obs.creates.wait > 0:
		limits.MaxCreate, limits.CreatePause = 0, "the last could not be created: the pool waits before it tries again"
	case obs.endings.wait > 0:
		limits.MaxCreate, limits.CreatePause = 0, "the last ended soon after their start: the pool waits before it tries again"
	case obs.endings.failing:
		limits.MaxCreate, limits.CreatePause = min(limits.MaxCreate, max(0, 1-obs.counts.Starting)), "the last ended soon after their start: the pool tries one at a time"
	}
	if obs.failing != nil || obs.endings.failing || obs.creates.failing {
		limits.MaxMove = 0 // others in their place would serve nobody
	}
	if obs.deletes.wait > 0 {
		limits.MaxDelete, limits.DeletePause = 0, "the last could not be deleted: the pool waits before it tries again"
	}
	return scheduler.PlanCapacity(pool.Spec.CapacitySpec, obs.counts, limits)
}

// limitsOf are the bounds of a pool where nothing fails.
func limitsOf(pool *v1alpha1.Pool, obs observed) scheduler.Limits {
	return scheduler.Limits{
		Forecast:    obs.forecast,
		MaxStarting: maxStarting(pool, obs.counts, obs.owed),
		MaxCreate:   obs.yield.maxCreate(),
		CreatePause: "batches take pods: the pool makes one at a time and rests in between",
		MaxDelete:   maxBurst,
		MaxReplace:  updateBudget(pool, obs.counts, obs.owed),
		MaxMove:     max(1, updateBudget(pool, obs.counts, obs.counts.Cordoned)), // at least one, or batches might wait for ever
		Owed:        obs.owed,
		OwedFor:     obs.owedFor,
	}
}

// maxStarting is the greatest number of pods that may start at once; negative for no limit. A percentage is one
// of the pods the pool has once it has what it needs, so that an empty pool can grow.
func maxStarting(pool *v1alpha1.Pool, n scheduler.Counts, owed int) int {
	if pool.Spec.ScaleStrategy == nil || pool.Spec.ScaleStrategy.MaxUnavailable == nil {
		return -1
	}
	unlimited := scheduler.PlanCapacity(pool.Spec.CapacitySpec, n, scheduler.Limits{
		MaxStarting: -1, MaxCreate: -1, MaxDelete: -1, Owed: owed,
	})
	size := n.Total() + unlimited.Create
	limit, err := intstr.GetScaledValueFromIntOrPercent(pool.Spec.ScaleStrategy.MaxUnavailable, size, true)
	if err != nil {
		return 0 // validate told about it
	}
	return limit
}

// planDeletion deletes every pod that nobody holds.
func planDeletion(obs observed) scheduler.CapacityPlan {
	plan := scheduler.CapacityPlan{Limited: scheduler.LimitNone}
	if obs.deletes.wait > 0 {
		plan.Partial = true
		return plan
	}
	plan.Delete, plan.DeleteStranded = obs.counts.Idle+obs.counts.Starting, obs.counts.Stranded()
	if n := plan.Delete + plan.DeleteStranded; n > 0 {
		plan.Reason = fmt.Sprintf("delete %d idle and starting pods: the pool is being deleted", n)
	}
	return plan
}
