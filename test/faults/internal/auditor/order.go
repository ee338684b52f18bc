// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
)

// waiting is since when a batch has told its place in the queue, without an edit in between.
type waiting struct {
	since    time.Time
	revision int64
}

// overtaking is a batch that was served while another one waited that comes first.
type overtaking struct {
	first, served *batch
	at            time.Time
	revisions     []int64
	pods          int
	// idle are the pods that nobody held at that moment and that could be handed out: they may have been on their way to the
	// first.
	idle map[name]bool
	// again: the first was passed once more, Settings.Waited later at the least.
	again bool
}

// checkOrder finds batches that are served out of turn: higher priority first, then the older, then by name. An earlier batch
// of the same pool was overtaken if, when a later one was given pods,
//
//	| told its place  | edited in       | misses  | afterwards, within Settings.Flight              | overtaken                 |
//	| since Waited    | Settings.Waited | a pod   |                                                 |                           |
//	| no              | -               | -       | -                                               | no: nobody knew           |
//	| yes             | it or the later | -       | -                                               | no: their ranks are not settled |
//	| yes             | no              | no      | -                                               | no: it has been served    |
//	| yes             | no              | yes     | it gets a pod that was idle when it happened    | no: its write was on its way |
//	| yes             | no              | yes     | it goes, is edited, fenced, or doesn't wait any | yes: no write is on its way for so long |
//	|                 |                 |         | more, after it was passed again Settings.Waited |                           |
//	|                 |                 |         | later                                           |                           |
//	| yes             | no              | yes     | the same, and it was not                        | no: its write was lost with its leader, or it was set aside |
//	| yes             | no              | yes     | the history ends                                | no: nobody can tell       |
//	| yes             | no              | yes     | anything else                                   | yes                       |
//
// A gang counts like any other: while it is first, pods are kept for it. Demand that can't be met tells no place.
func (a *audit) checkOrder(s step) {
	a.settleOvertakings(s)
	if s.batch == nil {
		return
	}
	a.noteQueue(s)
	if len(s.given) > 0 && s.batch.obj.Spec.PoolRef != "" && !s.Initial {
		a.noteOvertakings(s)
	}
}

func (a *audit) noteQueue(s step) {
	sb := s.batch.obj
	before, _ := s.before.(*v1alpha1.BatchSandbox)
	edited := before != nil && before.Generation != sb.Generation
	switch {
	case s.batch.gone, sb.DeletionTimestamp != nil, sb.Status.Queue == nil, edited, sb.Status.ObservedGeneration != sb.Generation:
		delete(a.queued, sb.UID)
	case a.queued[sb.UID] == nil:
		a.queued[sb.UID] = &waiting{since: s.Time, revision: s.Revision}
	}
}

func (a *audit) noteOvertakings(s step) {
	var idle map[name]bool
	old := a.world.now.Add(-a.settings.Waited)
	for _, uid := range slices.Sorted(maps.Keys(a.queued)) {
		w, first := a.queued[uid], a.world.known[uid]
		switch {
		case w.since.After(old), s.batch.editedAt.After(old):
			continue
		case first == s.batch, first.obj.Spec.PoolRef != s.batch.obj.Spec.PoolRef, first.obj.Namespace != s.batch.obj.Namespace:
			continue
		case !precedes(first.obj, s.batch.obj), a.world.missing(first) == 0:
			continue
		}
		if idle == nil {
			idle = a.world.idlePods(name{Namespace: s.batch.obj.Namespace, Name: s.batch.obj.Spec.PoolRef})
		}
		for _, o := range a.passed {
			o.again = o.again || (o.first == first && s.Time.Sub(o.at) >= a.settings.Waited)
		}
		a.passed = append(a.passed, &overtaking{
			first: first, served: s.batch, at: s.Time, revisions: []int64{w.revision, s.Revision}, pods: len(s.given), idle: idle,
		})
	}
}

// settleOvertakings drops what proves innocent, and reports what has not for long enough.
func (a *audit) settleOvertakings(s step) {
	a.passed = slices.DeleteFunc(a.passed, func(o *overtaking) bool {
		if s.Time.Sub(o.at) > a.settings.Flight {
			a.reportOvertaking(o)
			return true
		}
		if s.batch != o.first || !o.excusedBy(s) {
			return false
		}
		if o.again && !o.isServedBy(s) {
			a.reportOvertaking(o)
		}
		return true
	})
}

// excusedBy says whether what becomes of the first explains why it was passed.
func (o *overtaking) excusedBy(s step) bool {
	before, _ := s.before.(*v1alpha1.BatchSandbox)
	sb := s.batch.obj
	if s.batch.gone || sb.DeletionTimestamp != nil || (before != nil && before.Generation != sb.Generation) {
		return true
	}
	if before != nil && before.Annotations[v1alpha1.LeaderEpochAnnotation] != sb.Annotations[v1alpha1.LeaderEpochAnnotation] {
		return true
	}
	return o.isServedBy(s) || (len(s.given) == 0 && sb.Status.Queue == nil)
}

// isServedBy says whether the first gets a pod that may have been on its way.
func (o *overtaking) isServedBy(s step) bool {
	return slices.ContainsFunc(s.given, func(index int) bool { return o.idle[s.podAt(index)] })
}

// finishOrder reports what had long enough to prove innocent until the end.
func (a *audit) finishOrder() {
	for _, o := range a.passed {
		if a.settings.End.Sub(o.at) > a.settings.Flight {
			a.reportOvertaking(o)
		}
	}
}

func (a *audit) reportOvertaking(o *overtaking) {
	a.find(Finding{
		Kind: Overtaken, Objects: []string{o.first.title(), o.served.title()}, Revisions: o.revisions,
		Sentence: fmt.Sprintf("%s is given %d pods while %s waits, which comes first in the queue of %s", o.served.title(), o.pods,
			o.first.title(), titled("Pool", name{Namespace: o.first.obj.Namespace, Name: o.first.obj.Spec.PoolRef})),
	})
}

// precedes says that a batch is to be served before another one of its pool.
func precedes(a, b *v1alpha1.BatchSandbox) bool {
	return cmp.Or(
		cmp.Compare(priority(b), priority(a)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	) < 0
}

func priority(sb *v1alpha1.BatchSandbox) int32 {
	if sb.Spec.Priority == nil {
		return 0
	}
	return *sb.Spec.Priority
}
