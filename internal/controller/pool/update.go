// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
)

// defaultUpdateBudget is updateStrategy.maxUnavailable where it is unset.
const defaultUpdateBudget = "25%"

// update deletes unheld pods of an old revision, or whose executors believe another root, within the budget. The pool owes as many of the current one, which the plan
// of its capacity makes as soon as there is room.
func (r *Reconciler) update(ctx context.Context, pool *v1alpha1.Pool, mem *memory, obs *observed) error {
	plan := planUpdate(pool, *obs)
	if plan.Replace == 0 {
		return nil
	}
	key := client.ObjectKeyFromObject(pool)
	replaced, err := r.deletePods(ctx, key, r.ledger.RetireStale(key, plan.Replace))
	mem.owe(replaced, "pods of an old revision or another root", obs)
	obs.counts = r.ledger.Counts(key)
	if replaced > 0 {
		mem.scaleReason = plan.Reason
		logf.FromContext(ctx).Info("deleted pods to be replaced", "pool", klog.KObj(pool), "count", replaced,
			"revision", obs.revision, "reason", plan.Reason)
		r.send(pool, updating(replaced, plan.Reason))
	}
	return err
}

// planUpdate decides how many pods of an old revision are replaced now. It replaces none while anything says that pods of
// the current revision can't be made or don't last.
//
//	| spec, name or template | creates, deletes or young pods | pods of the current revision | result               |
//	| invalid                | -                              | -                            | nothing              |
//	| valid                  | failing                        | -                            | nothing              |
//	| valid                  | -                              | crashed in the last minute   | nothing              |
//	| valid                  | fine                           | fine                         | as the budget leaves |
func planUpdate(pool *v1alpha1.Pool, obs observed) scheduler.UpdatePlan {
	failing := obs.creates.failing || obs.endings.failing || obs.deletes.wait > 0 || obs.crashes > 0
	if obs.invalid != nil || obs.template == nil || failing {
		return scheduler.UpdatePlan{}
	}
	return scheduler.PlanUpdate(pool.Spec.CapacitySpec, obs.counts, limitsOf(pool, obs))
}

// updateBudget is the greatest number of unheld pods that an update may have out of service at once. A percentage is one of
// the unheld pods, those that are owed included, rounded up.
func updateBudget(pool *v1alpha1.Pool, n scheduler.Counts, owed int) int {
	most := intstr.FromString(defaultUpdateBudget)
	if s := pool.Spec.UpdateStrategy; s != nil && s.MaxUnavailable != nil {
		most = *s.MaxUnavailable
	}
	budget, err := intstr.GetScaledValueFromIntOrPercent(&most, n.Idle+n.Starting+owed, true)
	if err != nil {
		return 0 // validate told about it
	}
	return budget
}

// revisionOf is the revision of the pool's template. It is its hash, but for a pool that a controller settled that hashes
// otherwise, an older one: there the revision that controller wrote stays the name of this template, so that its idle pods
// are not replaced. That ends when the template changes, or when the spec changes while no controller runs.
func revisionOf(pool *v1alpha1.Pool, mem *memory) string {
	hash, written := podtemplate.Revision(pool.Spec.Template), pool.Status.Revision
	if written != "" && pool.Status.ObservedGeneration == pool.Generation && len(validation.IsValidLabelValue(written)) == 0 {
		mem.adopted, mem.adoptedAs = hash, written
	}
	if mem.adopted == hash {
		return mem.adoptedAs
	}
	return hash
}
