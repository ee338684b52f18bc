// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"container/heap"
	"container/list"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Failing tells of the pods of a pool that nobody holds and that are not becoming Ready. Pods that are being recycled are
// not among them.
type Failing struct {
	// Stuck is the pod whose containers have been unable to start for longest; nil if there is none.
	Stuck *Pod

	// Unschedulable is the pod that has had no node for longest; nil if there is none.
	Unschedulable *Pod

	// Quiet is the pod that has been starting for longest of those whose status tells of no trouble; nil if there is none.
	Quiet *Pod

	// Crashing is the number of pods of the current revision that end again and again.
	Crashing int
}

// startIndex finds the starting pods of a pool that have trouble, at a cost that doesn't grow with their number.
type startIndex struct {
	stuck, unschedulable list.List // of *entry, the one that came first in front
	quiet                quietHeap
	crashing             int
}

// startPlace is where an entry stands in the index.
type startPlace struct {
	elem     *list.Element
	in       *list.List
	quietAt  int // index in the heap, from 1; 0 for not in it
	crashing bool
}

// noteStarting gives a pod its place among those that have trouble.
func (p *pool) noteStarting(e *entry) {
	counts := e.class == classStarting && !e.pod.Recycling
	p.starts.list(e, counts)
	p.starts.keepQuiet(e, counts && e.pod.Failure.Reason == "" && !e.pod.Since.IsZero())
	p.starts.countCrash(e, counts && e.pod.Failure.Reason == crashLoop && p.isUpdated(e.pod))
}

// forgetStarting takes a pod that is gone out of the index.
func (p *pool) forgetStarting(e *entry) {
	p.starts.list(e, false)
	p.starts.keepQuiet(e, false)
	p.starts.countCrash(e, false)
}

func (s *startIndex) list(e *entry, counts bool) {
	var want *list.List
	switch {
	case !counts || e.pod.Failure.Reason == "":
	case e.pod.Failure.Unschedulable():
		want = &s.unschedulable
	default:
		want = &s.stuck
	}
	if e.start.in == want {
		return
	}
	if e.start.in != nil {
		e.start.in.Remove(e.start.elem)
		e.start.elem = nil
	}
	if e.start.in = want; want != nil {
		e.start.elem = want.PushBack(e)
	}
}

func (s *startIndex) keepQuiet(e *entry, quiet bool) {
	switch there := e.start.quietAt > 0; {
	case there && quiet:
		heap.Fix(&s.quiet, e.start.quietAt-1)
	case there:
		heap.Remove(&s.quiet, e.start.quietAt-1)
	case quiet:
		heap.Push(&s.quiet, e)
	}
}

func (s *startIndex) countCrash(e *entry, crashing bool) {
	switch {
	case crashing && !e.start.crashing:
		s.crashing++
	case !crashing && e.start.crashing:
		s.crashing--
	}
	e.start.crashing = crashing
}

// quietHeap has the pod that has been starting for longest on top.
type quietHeap []*entry

func (h quietHeap) Len() int { return len(h) }

func (h quietHeap) Less(i, j int) bool {
	a, b := h[i].pod, h[j].pod
	if order := a.Since.Compare(b.Since); order != 0 {
		return order < 0
	}
	return a.Name < b.Name
}

func (h quietHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].start.quietAt, h[j].start.quietAt = i+1, j+1
}

// Push is heap.Interface's.
func (h *quietHeap) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // only entries are put into the heap
	*h = append(*h, e)
	e.start.quietAt = len(*h)
}

// Pop is heap.Interface's.
func (h *quietHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.start.quietAt = 0
	return e
}

// Failing tells of the pods of a pool that are not becoming Ready.
func (l *Ledger) Failing(name types.NamespacedName) Failing {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return Failing{}
	}
	f := Failing{
		Stuck: frontPod(&p.starts.stuck), Unschedulable: frontPod(&p.starts.unschedulable), Crashing: p.starts.crashing,
	}
	if len(p.starts.quiet) > 0 {
		pod := p.starts.quiet[0].pod
		f.Quiet = &pod
	}
	return f
}

func frontPod(l *list.List) *Pod {
	front := l.Front()
	if front == nil {
		return nil
	}
	pod := front.Value.(*entry).pod //nolint:forcetypeassert // only entries are put into these lists
	return &pod
}

// Starting returns a pod by its name, if nobody holds it and it is starting.
func (l *Ledger) Starting(name types.NamespacedName, pod string) (Pod, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return Pod{}, false
	}
	e, ok := p.pods[pod]
	if !ok || e.class != classStarting {
		return Pod{}, false
	}
	return e.pod, true
}

// RetireStarting is Retire for one pod, if it is of this UID, nobody holds it and it is starting still.
func (l *Ledger) RetireStarting(name types.NamespacedName, pod string, uid types.UID) []Pod {
	return l.retire(name, 1, func(p *pool) []*entry {
		if e, ok := p.pods[pod]; ok && e.class == classStarting && e.pod.UID == uid && uid != "" {
			return []*entry{e}
		}
		return nil
	})
}

// overdueAfter bounds from below how long a pod whose status tells of no trouble may start before it is told of.
const overdueAfter = 30 * time.Second

// overdueFactor is how many times the measured start time such a pod may take.
const overdueFactor = 5

// OverdueAfter is how long a pod whose status tells of no trouble may be starting before that is told:
//
//	max(30 s, 5 x measured start time)
func OverdueAfter(startTime time.Duration) time.Duration {
	return max(overdueAfter, overdueFactor*startTime)
}

// classSet has the entries of a class that the pool picks from, by name.
type classSet map[string]*entry

// keep adds an entry to the set, or takes it out.
func (s *classSet) keep(e *entry, in bool) {
	switch {
	case !in:
		delete(*s, e.pod.Name)
	case *s == nil:
		*s = classSet{e.pod.Name: e}
	default:
		(*s)[e.pod.Name] = e
	}
}

// byName are the entries of a set in order of names.
func (s classSet) byName() []*entry {
	entries := make([]*entry, 0, len(s))
	for _, e := range s {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return strings.Compare(a.pod.Name, b.pod.Name) })
	return entries
}
