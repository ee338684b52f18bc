// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Kind is a promise that was broken.
type Kind string

const (
	// DoublyHeld: two live batches name one pod at the same moment, or one batch names it twice.
	DoublyHeld Kind = "DoublyHeld"

	// Leaked: in the end there is a pod that nobody counts, or whose batch or pool is gone.
	Leaked Kind = "Leaked"

	// Stuck: in the end something doesn't go on, though nothing keeps it.
	Stuck Kind = "Stuck"

	// RunTooOften: a try ran twice, or a task had more tries than it may have.
	RunTooOften Kind = "RunTooOften"

	// EndMisreported: a status tells another end of a task than its executor saw, takes one back, or doesn't tell it.
	EndMisreported Kind = "EndMisreported"

	// AbovePoolMax: a create took a pool above poolMax.
	AbovePoolMax Kind = "AbovePoolMax"

	// DirtyHandedOut: a pod was given to a batch with the traces of another one in it.
	DirtyHandedOut Kind = "DirtyHandedOut"

	// UnfitHandedOut: a pod was given to a batch that had ended, was to go, or was on a cordoned node.
	UnfitHandedOut Kind = "UnfitHandedOut"

	// GangSplit: a batch was given fewer pods than its minAvailable says that it takes together.
	GangSplit Kind = "GangSplit"

	// Overtaken: a batch was served while one that comes first waited.
	Overtaken Kind = "Overtaken"
)

// Finding is one broken promise.
type Finding struct {
	Kind Kind `json:"kind"`

	// Objects are those concerned, as "Pod default/p-1": the one that suffers first.
	Objects []string `json:"objects"`

	// Revisions are the changes that show it, in ascending order; none where the executors alone show it.
	Revisions []int64 `json:"revisions,omitempty"`

	// Sentence says what happened.
	Sentence string `json:"sentence"`
}

// compareFindings orders by the last revision, and then by what the finding says.
func compareFindings(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.last(), b.last()),
		cmp.Compare(a.Kind, b.Kind),
		slices.Compare(a.Objects, b.Objects),
		cmp.Compare(a.Sentence, b.Sentence),
	)
}

func (f Finding) last() int64 {
	if len(f.Revisions) == 0 {
		return 0
	}
	return slices.Max(f.Revisions)
}

// identity is what stays the same of a finding about a world at rest when one looks again.
func (f Finding) identity() string { return string(f.Kind) + " " + strings.Join(f.Objects, " ") }

// Mark is one run of a task, as its executor saw it.
type Mark struct {
	Batch types.UID `json:"batch"`
	Index int       `json:"index"`
	// Try counts from 1.
	Try int       `json:"try"`
	Pod types.UID `json:"pod"`

	Begin time.Time `json:"begin"`
	// End is zero while the task runs, and for ever where the pod went with it.
	End time.Time `json:"end,omitzero"`
	// How it ended: one of the reasons of pkg/task-executor; "" for not at all.
	How string `json:"how,omitempty"`
}

// Settings are the times by which the rules go. The clock is the recorder's and the executors'. Every default is used where
// zero is given.
type Settings struct {
	// End is when the run was over, some time after the last fault and the last edit. Defaults to the time of the last change.
	End time.Time

	// Settle is how long before End nothing was done to the world any more, and it should have been at rest: what is wrong both
	// then and at End is a finding. The time to come to rest is to be given before that: up to 30 s for executors that can't
	// be reached, and 60 s for recyclings and lost nodes, if there were any. Defaults to 15 s.
	Settle time.Duration

	// Stale is how old what a controller acts on may be: a cache behind a delayed watch, and a write that is slow. Defaults to 5 s.
	Stale time.Duration

	// Waited is how long a batch must have told its place in the queue before another one counts as overtaking it, and
	// during which neither was edited. Above Stale; defaults to 6 s.
	Waited time.Duration

	// Flight is how long after that the pods may show that were meant for the one that waited: its own write was on its way, or
	// was lost with its leader. So long may pass, too, before the end of a task is heard of. Longer than a failover; defaults to 15 s.
	Flight time.Duration

	// NodeLoss is how long a node must not have been Ready for its sandboxes to be lost. Defaults to 60 s.
	NodeLoss time.Duration

	// Recycling is how long the recycling of a pod may take. Defaults to 60 s.
	Recycling time.Duration
}

func (s Settings) withDefaults(h History) Settings {
	if s.End.IsZero() && len(h) > 0 {
		s.End = h[len(h)-1].Time
	}
	s.Settle = cmp.Or(s.Settle, 15*time.Second)
	s.Stale = cmp.Or(s.Stale, 5*time.Second)
	s.Waited = cmp.Or(s.Waited, 6*time.Second)
	s.Flight = cmp.Or(s.Flight, 15*time.Second)
	s.NodeLoss = cmp.Or(s.NodeLoss, time.Minute)
	s.Recycling = cmp.Or(s.Recycling, time.Minute)
	return s
}

// Audit judges a run. The findings are in the order of the changes that show them, the same for the same run.
func Audit(h History, marks []Mark, s Settings) []Finding {
	h = h.sorted()
	a := newAudit(marks, s.withDefaults(h))
	settled := a.settings.End.Add(-a.settings.Settle)
	first := slices.IndexFunc(h, func(c Change) bool { return c.Time.After(settled) })
	if first < 0 {
		first = len(h)
	}
	early := map[string]bool{}
	for _, f := range a.restAt(h[:first], settled) {
		early[f.identity()] = true
	}
	for _, f := range a.restAt(h[first:], a.settings.End) {
		if early[f.identity()] {
			a.findings = append(a.findings, f)
		}
	}
	a.finishOrder()
	a.checkMarks()
	slices.SortStableFunc(a.findings, compareFindings)
	return a.findings
}

// audit is the state of one judgement.
type audit struct {
	settings Settings
	world    *world
	findings []Finding

	traces map[types.UID]*traces // by pod
	fit    fitness
	queued map[types.UID]*waiting // by batch
	passed []*overtaking          // that may still prove innocent
	ends   map[types.UID]*told    // by batch
	runs   runs
}

func newAudit(marks []Mark, s Settings) *audit {
	return &audit{
		settings: s, world: newWorld(s.NodeLoss), traces: map[types.UID]*traces{}, fit: newFitness(), queued: map[types.UID]*waiting{},
		ends: map[types.UID]*told{}, runs: sortRuns(marks),
	}
}

func (a *audit) find(f Finding) {
	slices.Sort(f.Revisions)
	f.Revisions = slices.Compact(f.Revisions)
	a.findings = append(a.findings, f)
}

// take takes a change over and judges it.
func (a *audit) take(c Change) {
	s := a.world.take(c)
	a.checkHolds(s)
	a.checkBound(s)
	a.checkClean(s)
	a.checkFit(s)
	a.checkGang(s)
	a.checkOrder(s)
	a.checkEnds(s)
}

// restAt takes changes over and finds what may not be in a world at rest at some time after them.
func (a *audit) restAt(h History, at time.Time) []Finding {
	for _, c := range h {
		a.take(c)
	}
	a.world.now = at
	return slices.Concat(a.leaks(), a.stuckDeletions(), a.stuckBatches(), a.stuckPools(), a.stuckTasks())
}
