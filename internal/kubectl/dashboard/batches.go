// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// state is a word and the look it has: good, bad, warn, busy or muted.
type state struct {
	Word, Look string
}

// The states of a batch.
var batchStates = [...]state{
	{"Waiting", "warn"}, {"Starting", "busy"}, {"Ready", "good"}, {"Running", "busy"},
	{"Succeeded", "good"}, {"Failed", "bad"}, {"Deleting", "muted"},
}

// batchState is a batch in one word. The first row that matches:
//
//	| batch                                       | state     |
//	| is being deleted                            | Deleting  |
//	| all tasks ended, one of them in failure     | Failed    |
//	| all tasks ended                             | Succeeded |
//	| can't get what it asks for (phase Failed)   | Failed    |
//	| has fewer pods than replicas                | Waiting   |
//	| some of its pods are not Ready              | Starting  |
//	| has tasks                                   | Running   |
//	| else                                        | Ready     |
func batchState(b *v1alpha1.BatchSandbox) state {
	s := &b.Status
	word := "Ready"
	switch done := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionTasksCompleted); {
	case b.DeletionTimestamp != nil:
		word = "Deleting"
	case done != nil && done.Status == metav1.ConditionTrue && s.TaskFailed > 0:
		word = "Failed"
	case done != nil && done.Status == metav1.ConditionTrue:
		word = "Succeeded"
	case s.Phase == v1alpha1.PhaseFailed:
		word = "Failed"
	case s.Replicas < replicasLeft(b):
		word = "Waiting"
	case s.Ready < s.Replicas:
		word = "Starting"
	case b.Spec.TaskTemplate != nil:
		word = "Running"
	}
	at := slices.IndexFunc(batchStates[:], func(s state) bool { return s.Word == word })
	return batchStates[at]
}

// replicasLeft is how many sandboxes a batch still has use for: under Release none where a task has ended.
func replicasLeft(b *v1alpha1.BatchSandbox) int32 {
	n := replicasOf(b)
	if p := b.Spec.TaskResourcePolicyWhenCompleted; p != nil && *p == v1alpha1.TaskResourcePolicyRelease {
		n -= b.Status.TaskSucceed + b.Status.TaskFailed
	}
	return max(0, n)
}

func replicasOf(b *v1alpha1.BatchSandbox) int32 {
	if b.Spec.Replicas == nil {
		return 1
	}
	return *b.Spec.Replicas
}

// batchRow is a batch in a list.
type batchRow struct {
	Namespace, Name, Pool string
	State                 state
	Ready, Replicas       int32
	Tasks                 string // counts in words, empty without tasks
	Note                  string // why it waits or failed
	Created, Expires      string
}

func newBatchRow(b *v1alpha1.BatchSandbox) batchRow {
	row := batchRow{
		Namespace: b.Namespace, Name: b.Name, Pool: b.Spec.PoolRef, State: batchState(b),
		Ready: b.Status.Ready, Replicas: replicasOf(b), Tasks: taskCounts(b), Note: batchNote(b),
		Created: instant(b.CreationTimestamp.Time),
	}
	if b.Spec.ExpireTime != nil {
		row.Expires = instant(b.Spec.ExpireTime.Time)
	}
	return row
}

// taskCounts are the tasks of a batch by how they are; what there is none of is left out.
func taskCounts(b *v1alpha1.BatchSandbox) string {
	if b.Spec.TaskTemplate == nil {
		return ""
	}
	s := &b.Status
	var words []string
	for _, c := range []struct {
		n    int32
		word string
	}{
		{s.TaskRunning, "running"}, {s.TaskPending, "pending"}, {s.TaskUnknown, "unknown"}, {s.TaskSucceed, "succeeded"}, {s.TaskFailed, "failed"},
	} {
		if c.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", c.n, c.word))
		}
	}
	return strings.Join(words, ", ")
}

// batchNote says why a batch is not what it should be; empty where it is.
func batchNote(b *v1alpha1.BatchSandbox) string {
	if q := b.Status.Queue; q != nil {
		return fmt.Sprintf("Number %d in the queue of the pool, where %s waited for", q.Position, isAre(int(q.Waiting)))
	}
	for _, kind := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionReady} {
		if c := meta.FindStatusCondition(b.Status.Conditions, kind); c != nil && c.Status == metav1.ConditionFalse && batchStateIsOpen(b) {
			return c.Reason + ": " + c.Message
		}
	}
	if done := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionTasksCompleted); done != nil && b.Status.TaskFailed > 0 {
		return failureNote(b.Status.FailedReasons)
	}
	return ""
}

// batchStateIsOpen says whether a batch is still on its way to what it asks for.
func batchStateIsOpen(b *v1alpha1.BatchSandbox) bool {
	return b.DeletionTimestamp == nil && !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionTasksCompleted)
}

func isAre(n int) string {
	if n == 1 {
		return "1 sandbox is"
	}
	return fmt.Sprintf("%d sandboxes are", n)
}

// failureNote tells which indexes failed, by reason.
func failureNote(reasons []v1alpha1.FailedReason) string {
	var words []string
	for _, r := range reasons {
		words = append(words, fmt.Sprintf("%s at index %s", r.Reason, r.Indexes))
	}
	return strings.Join(words, "; ")
}

// sortBatches returns batches newest first, so that no row ever moves.
func sortBatches(batches []*v1alpha1.BatchSandbox) []*v1alpha1.BatchSandbox {
	sorted := slices.Clone(batches)
	slices.SortFunc(sorted, func(a, b *v1alpha1.BatchSandbox) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return sorted
}

// filter chooses batches.
type filter struct {
	// Text is looked for in namespace/name and in the name of the pool, whatever its case.
	Text string
	// State is the word of a state, empty for all.
	State string
}

func (f filter) matches(row batchRow) bool {
	if f.State != "" && row.State.Word != f.State {
		return false
	}
	text := strings.ToLower(strings.TrimSpace(f.Text))
	return strings.Contains(strings.ToLower(row.Namespace+"/"+row.Name), text) || strings.Contains(strings.ToLower(row.Pool), text)
}

// maxRows bounds how many batches one page lists.
const maxRows = 2000

// overviewInput is what the overview is made from.
type overviewInput struct {
	scope   string // the namespace, empty for all
	filter  filter
	pools   []*v1alpha1.Pool
	batches []*v1alpha1.BatchSandbox
	chart   func(*v1alpha1.Pool) chartView
	notices []notice
}

// overviewHead is what doesn't change on the overview.
type overviewHead struct {
	Filter filter
	States []string
	Scope  string
}

// totals are the sums over what the overview shows.
type totals struct {
	Counts  poolCounts
	Pools   int
	Batches int
	// States has how many batches are in each state that there is.
	States []stateCount
}

type stateCount struct {
	State state
	N     int
}

// overviewPage is the page of all pools and batches.
func overviewPage(in overviewInput) view {
	head := overviewHead{Filter: in.filter, Scope: in.scope}
	for _, s := range batchStates {
		head.States = append(head.States, s.Word)
	}
	v := view{Title: "Sandboxes", Skeleton: "overview", Head: head, Spoken: make(map[string]string)}
	v.notices(in.notices)

	pools := slices.SortedFunc(slices.Values(in.pools), func(a, b *v1alpha1.Pool) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	sum := totals{Pools: len(pools), Batches: len(in.batches)}
	var cards []part
	for _, pool := range pools {
		p := newPoolView(pool, in.chart(pool))
		sum.Counts = sum.Counts.plus(p.Counts)
		cards = append(cards, part{ID: "pool-" + string(pool.UID), In: "pools", Template: "poolcard", Data: p})
		v.Spoken["pool "+poolTitle(keyOf(pool))] = spokenPool(p)
	}
	rows := v.batchRows(in.filter, in.batches, &sum)
	v.add("totals", "total", "totals", sum)
	v.Parts = append(v.Parts, cards...)
	if len(pools) == 0 {
		v.add("pools", "pools-none", "none", "There is no pool here.")
	}
	v.add("shown", "shown-count", "shown", shownText(len(rows), len(in.batches)))
	v.Parts = append(v.Parts, rows[:min(len(rows), maxRows)]...)
	return v
}

// batchRows returns the rows that a filter lets through, and counts all.
func (v *view) batchRows(f filter, batches []*v1alpha1.BatchSandbox, sum *totals) []part {
	states := make(map[state]int)
	var rows []part
	for _, b := range sortBatches(batches) {
		row := newBatchRow(b)
		states[row.State]++
		if f.matches(row) {
			rows = append(rows, part{ID: "batch-" + string(b.UID), In: "batches", Template: "batchrow", Data: row})
		}
		v.Spoken["batch "+string(b.UID)] = spokenBatch(row)
	}
	for _, s := range batchStates {
		if n := states[s]; n > 0 {
			sum.States = append(sum.States, stateCount{s, n})
		}
	}
	return rows
}

// spokenBatch is what is read out of a batch: how it ended.
func spokenBatch(row batchRow) string {
	switch row.State.Word {
	case "Succeeded", "Failed":
		return fmt.Sprintf("Batch %s: %s.", row.Name, joinParts(", ", row.State.Word, row.Tasks))
	default:
		return ""
	}
}

// spokenPool is what is read out of a pool: that something is wrong with it.
func spokenPool(p poolView) string {
	if p.State.Look == "bad" {
		return fmt.Sprintf("Pool %s: %s.", p.Name, p.State.Word)
	}
	return ""
}

func shownText(shown, all int) string {
	switch {
	case all == 0:
		return "There is no batch here."
	case shown > maxRows:
		return fmt.Sprintf("The newest %d of %d that match are listed: narrow the filter.", maxRows, shown)
	case shown == all:
		return count(all, "batch", "batches")
	default:
		return fmt.Sprintf("%d of %s", shown, count(all, "batch", "batches"))
	}
}

func (c poolCounts) plus(d poolCounts) poolCounts {
	return poolCounts{
		Held: c.Held + d.Held, Idle: c.Idle + d.Idle, Starting: c.Starting + d.Starting, Unusable: c.Unusable + d.Unusable,
		Waiting: c.Waiting + d.Waiting, Total: c.Total + d.Total,
	}
}
