// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Place is where a batch stands in its pool's queue.
type Place struct {
	// Position counts from 1, the batch that is served next; 0 for a batch that doesn't wait.
	Position int

	// Waiting is the number of sandboxes that the whole queue waits for.
	Waiting int
}

// QueueMoves has a value after a queue changed: it is time for TellPlaces.
func (l *Ledger) QueueMoves() <-chan struct{} { return l.queueMoves }

// queueMoved notes that the places in a pool's queue may have changed.
func (l *Ledger) queueMoved(p *pool) {
	if !p.moved && p.queue.head() != nil {
		p.moved = true
		l.moved = append(l.moved, p.name)
	}
	l.signalMoves()
}

func (l *Ledger) signalMoves() {
	if len(l.moved) == 0 {
		return
	}
	select {
	case l.queueMoves <- struct{}{}:
	default: // the last one was not taken yet
	}
}

// Enqueue puts a demand into its pool's queue and wakes its batch, which is to ask for its pods with Assume. No pod is
// handed out. It is how the queues are rebuilt: a batch that asks early must not overtake those that waited before.
func (l *Ledger) Enqueue(d Demand) {
	l.locked(func(w *wakes) {
		p := l.pool(types.NamespacedName{Namespace: d.Batch.Namespace, Name: d.Pool})
		defer l.forgetEmpty(p)
		if len(d.Missing) == 0 {
			l.leaveQueue(p, d.Batch, w)
			return
		}
		l.batch(d.Batch, d.UID, p, w)
		l.enqueue(p, d)
		w.pool(p.name)
		w.batch(d.Batch)
	})
}

// enqueue puts a copy of the demand into the queue and returns it with the one whose place it took, nil if there was none.
func (l *Ledger) enqueue(p *pool, d Demand) (demand, old *Demand) {
	d.Missing = slices.Clone(d.Missing)
	d.due = false
	old = p.queue.put(&d)
	if old != nil {
		d.due = old.due
	}
	if old == nil || d.differs(old) {
		l.queueMoved(p)
	}
	return &d, old
}

// differs says whether a demand changes the queue when it takes the place of another of its batch.
func (d *Demand) differs(old *Demand) bool {
	return len(d.Missing) != len(old.Missing) || compareDemands(d, old) != 0
}

// isNews says whether the batch has to tell its place now, whatever its status tells: it was woken to do so, tells nothing
// yet, or asks for something else than before.
func (d *Demand) isNews(old *Demand) bool {
	return d.Told == Place{} || d.due || (old != nil && d.differs(old))
}

// tell returns the place that the status of a batch is to tell: its place now if there is news, else what it tells already.
// Where that is wrong, TellPlaces sees to it later.
func (l *Ledger) tell(p *pool, d *Demand, news bool) Place {
	if len(d.Missing) == 0 {
		return Place{}
	}
	place := p.queue.place(d)
	if news {
		d.Told, d.due = place, false
	}
	if d.Told != place {
		l.queueMoved(p)
	}
	return d.Told
}

// leaveQueue takes a batch out of the queue, if it is in it.
func (l *Ledger) leaveQueue(p *pool, batch types.NamespacedName, w *wakes) {
	led := p.queue.headedBy(batch)
	if !p.queue.remove(batch) {
		return
	}
	l.queueMoved(p)
	w.pool(p.name)
	if led {
		p.wakeHead(w)
	}
}

// TellPlaces wakes batches whose status tells a place in the queue that they don't have any more, n of them at most, so that
// they tell it anew. Of a queue that has more of them than its share of n, those go first whose position is most wrong in
// proportion: to be 100th instead of 120th is news, to be 1000th instead of 1020th is not. What is left is told by the next
// call; QueueMoves says so. A place that stands still is therefore right in the end, and where every place is right nothing
// happens.
//
// It looks at every batch of the queues that changed since the last call, at no other queue, and is to be called some
// time after QueueMoves, not with every change.
func (l *Ledger) TellPlaces(n int) {
	l.locked(func(w *wakes) {
		looked := min(n, len(l.moved))
		if looked == 0 {
			return
		}
		names := l.moved[:looked]
		l.moved = slices.Clone(l.moved[looked:])
		for _, name := range names {
			p, ok := l.pools[name]
			if !ok {
				continue
			}
			p.moved = false
			wrong, more := p.queue.mostWrong(n / looked)
			for _, d := range wrong {
				d.due = true
				w.batch(d.Batch)
			}
			if more {
				l.queueMoved(p)
			}
		}
		l.signalMoves()
	})
}

// nearHead is the position up to which a place counts as near the head: there, errors are not weighed by position. A queue
// that moves fast would else tell nobody but those who are served in a moment.
const nearHead = 50

// wrongness is how far the place that a batch tells is from the one it has.
type wrongness struct {
	demand   *Demand
	position float64 // the error of its position in proportion to its position, but at least to nearHead
	waiting  int     // the error of what the queue waits for
}

func compareWrongness(a, b wrongness) int {
	return cmp.Or(cmp.Compare(b.position, a.position), cmp.Compare(b.waiting, a.waiting))
}

// mostWrong are the n demands whose place is told most wrongly, the worst first, and of equal ones those further ahead. more
// says that there are others. Those that were woken before are not counted.
func (q *queue) mostWrong(n int) (worst []*Demand, more bool) {
	found := make([]wrongness, 0, n+1)
	for i, d := range q.demands {
		place := Place{Position: i + 1, Waiting: q.waiting}
		if d.due || d.Told == place {
			continue
		}
		found = append(found, wrongness{
			demand:   d,
			position: float64(distance(d.Told.Position, place.Position)) / float64(max(nearHead, place.Position)),
			waiting:  distance(d.Told.Waiting, place.Waiting),
		})
		for at := len(found) - 1; at > 0 && compareWrongness(found[at], found[at-1]) < 0; at-- {
			found[at], found[at-1] = found[at-1], found[at]
		}
		if len(found) > n {
			found, more = found[:n], true
		}
	}
	for _, w := range found {
		worst = append(worst, w.demand)
	}
	return worst, more
}

func distance(a, b int) int { return max(a-b, b-a) }
