// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// poolView is a pool as a page shows it.
type poolView struct {
	Namespace, Name string
	Counts          poolCounts
	Capacity        v1alpha1.CapacitySpec
	Bar             barView
	Chart           chartView
	// Text sums the bar up in a sentence.
	Text string
	// LastScaleReason is the controller's last decision about the size.
	LastScaleReason string
	// Troubles are what is wrong, each a sentence.
	Troubles []string
	State    state
	// Full shows what only the pool's own page has room for.
	Full *poolFacts
}

type poolCounts struct {
	Held, Idle, Starting, Unusable, Waiting, Total int32
}

// poolFacts are what is told about a pool on its own page.
type poolFacts struct {
	Revision           string
	Updated            int32
	Recycled, Replaced int64
	RecycleObstacle    string
	Created            string
}

func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// newPoolView is a pool with its history drawn.
func newPoolView(pool *v1alpha1.Pool, chart chartView) poolView {
	s, c := pool.Status, pool.Spec.CapacitySpec
	return poolView{
		Namespace: pool.Namespace, Name: pool.Name,
		Counts: poolCounts{
			Held: s.Allocated, Idle: s.Available, Starting: s.Starting, Unusable: unusable(s), Waiting: s.Waiting, Total: s.Total,
		},
		Capacity: c, Bar: newBar(s, c), Chart: chart, Text: poolText(s, c),
		LastScaleReason: s.LastScaleReason, Troubles: poolTroubles(pool), State: poolState(pool),
	}
}

func poolText(s v1alpha1.PoolStatus, c v1alpha1.CapacitySpec) string {
	return fmt.Sprintf("%d held, %d idle, %d starting, %d unusable, of %d to %d pods; between %d and %d that nobody holds are wanted; batches wait for %s",
		s.Allocated, s.Available, s.Starting, unusable(s), c.PoolMin, c.PoolMax, c.BufferMin, c.BufferMax, count(int(s.Waiting), "sandbox", "sandboxes"))
}

// poolState is a pool in one word. The first row that matches:
//
//	| pool                                       | state    |
//	| is being deleted                           | Deleting |
//	| its pods can't start                       | Failing  |
//	| not Ready, and not for want of pods alone  | Failing  |
//	| a bound keeps it from what it needs        | Limited  |
//	| fewer pods are idle than bufferMin         | Filling  |
//	| no status yet                              | New      |
//	| else                                       | Ready    |
func poolState(pool *v1alpha1.Pool) state {
	conditions := pool.Status.Conditions
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	switch {
	case pool.DeletionTimestamp != nil:
		return state{"Deleting", "muted"}
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionPodsFailing):
		return state{"Failing", "bad"}
	case ready != nil && ready.Status == metav1.ConditionFalse && ready.Reason != v1alpha1.ReasonBufferLow:
		return state{"Failing", "bad"}
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionScalingLimited):
		return state{"Limited", "warn"}
	case ready == nil:
		return state{"New", "muted"}
	case ready.Status != metav1.ConditionTrue:
		return state{"Filling", "busy"}
	default:
		return state{"Ready", "good"}
	}
}

// poolTroubles are the messages of conditions that somebody should look at.
func poolTroubles(pool *v1alpha1.Pool) []string {
	var troubles []string
	for _, c := range pool.Status.Conditions {
		bad := c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse && c.Reason != v1alpha1.ReasonBufferLow ||
			c.Type != v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
		if bad {
			troubles = append(troubles, c.Reason+": "+c.Message)
		}
	}
	return troubles
}

// poolTitle names an object the way kubectl takes it.
func poolTitle(key types.NamespacedName) string { return key.Namespace + "/" + key.Name }

// poolInput is what the page of a pool is made from.
type poolInput struct {
	key     types.NamespacedName
	pool    *v1alpha1.Pool // nil if there is none
	chart   chartView
	batches []*v1alpha1.BatchSandbox
	events  []eventRow
	notices []notice
}

// poolPage is the page of one pool.
func poolPage(in poolInput) view {
	v := view{Title: "Pool " + in.key.Name, Skeleton: "pool", Head: in.key}
	v.notices(in.notices)
	if in.pool == nil {
		v.Missing = true
		v.notices([]notice{{ID: "missing", Text: fmt.Sprintf("There is no pool %s, or it can't be read.", poolTitle(in.key))}})
		return v
	}
	pool := newPoolView(in.pool, in.chart)
	s := in.pool.Status
	pool.Full = &poolFacts{
		Revision: s.Revision, Updated: s.Updated, Recycled: s.Recycled, Replaced: s.Replaced,
		RecycleObstacle: s.RecycleObstacle, Created: instant(in.pool.CreationTimestamp.Time),
	}
	v.add("pools", "pool-"+string(in.pool.UID), "poolcard", pool)
	conditionParts(&v, in.pool.Status.Conditions)
	for _, b := range sortBatches(in.batches) {
		if b.Spec.PoolRef == in.key.Name && b.Namespace == in.key.Namespace {
			v.add("batches", "batch-"+string(b.UID), "batchrow", newBatchRow(b))
		}
	}
	eventParts(&v, in.events)
	v.Spoken = map[string]string{"pool": fmt.Sprintf("Pool %s: %s.", in.pool.Name, pool.State.Word)}
	return v
}

// conditionRow is a condition as a page shows it.
type conditionRow struct {
	Type, Status, Reason, Message, Since string
}

func conditionParts(v *view, conditions []metav1.Condition) {
	for _, c := range conditions {
		v.add("conditions", "condition-"+c.Type, "conditionrow", conditionRow{
			Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message, Since: instant(c.LastTransitionTime.Time),
		})
	}
}

// instant writes a time for a time element. The page's script turns it into an age.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// count writes a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// joinParts joins what is not empty.
func joinParts(separator string, parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, separator)
}
