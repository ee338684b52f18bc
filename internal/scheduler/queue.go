// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Demand is what a batch asks of its pool.
type Demand struct {
	// Batch and UID identify the batch; a new batch of an old name has another UID.
	Batch types.NamespacedName
	UID   types.UID

	// Pool is the name of the pool, in the namespace of the batch.
	Pool string

	// Missing are the indexes that want a pod, in ascending order.
	Missing []int

	// Held is the number of usable sandboxes the batch has already.
	Held int

	// MinAvailable is the least number of pods that are handed over together, those already held included.
	// 0 and 1 mean one by one.
	MinAvailable int

	// Priority and Created give the place in the queue: higher priority first, then oldest, then by name.
	Priority int32
	Created  time.Time

	// Told is the place that the batch's status tells; zero if it tells none.
	Told Place

	// due: the batch was woken to tell its place anew, and has not asked for it yet.
	due bool
}

func (d *Demand) key() types.NamespacedName { return d.Batch }

func compareDemands(a, b *Demand) int {
	return cmp.Or(
		cmp.Compare(b.Priority, a.Priority),
		a.Created.Compare(b.Created),
		cmp.Compare(a.Batch.Name, b.Batch.Name),
	)
}

// queue keeps the unmet demands of one pool in the order they are served.
type queue struct {
	demands []*Demand
	byBatch map[types.NamespacedName]*Demand
	waiting int
}

func newQueue() *queue { return &queue{byBatch: map[types.NamespacedName]*Demand{}} }

// put adds the demand, in place of an older one of the same batch, which it returns; nil if there was none.
func (q *queue) put(d *Demand) (old *Demand) {
	old = q.byBatch[d.key()]
	if old != nil && compareDemands(old, d) == 0 {
		q.demands[q.position(old)] = d
		q.byBatch[d.key()] = d
		q.waiting += len(d.Missing) - len(old.Missing)
		return old
	}
	q.remove(d.key())
	at, _ := slices.BinarySearchFunc(q.demands, d, compareDemands)
	q.demands = slices.Insert(q.demands, at, d)
	q.byBatch[d.key()] = d
	q.waiting += len(d.Missing)
	return old
}

// remove takes the demand of a batch out and says whether there was one.
func (q *queue) remove(batch types.NamespacedName) bool {
	d, ok := q.byBatch[batch]
	if !ok {
		return false
	}
	delete(q.byBatch, batch)
	q.waiting -= len(d.Missing)
	if at := q.position(d); at >= 0 {
		q.demands = slices.Delete(q.demands, at, at+1)
	}
	return true
}

// take removes n indexes from the front of what the demand misses.
func (q *queue) take(d *Demand, n int) []int {
	taken := d.Missing[:n]
	d.Missing = d.Missing[n:]
	q.waiting -= n
	if len(d.Missing) == 0 {
		q.remove(d.key())
	}
	return taken
}

func (q *queue) head() *Demand {
	if len(q.demands) == 0 {
		return nil
	}
	return q.demands[0]
}

// QueueLength is the number of batches in the queue of a pool.
func (l *Ledger) QueueLength(pool types.NamespacedName) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[pool]
	if !ok {
		return 0
	}
	return len(p.queue.demands)
}

// headedBy says whether this batch is the one that is served next.
func (q *queue) headedBy(batch types.NamespacedName) bool {
	head := q.head()
	return head != nil && head.Batch == batch
}

// position is the index of the demand in the queue, -1 if it isn't there.
func (q *queue) position(d *Demand) int {
	at, found := slices.BinarySearchFunc(q.demands, d, compareDemands)
	if !found {
		return -1
	}
	return at
}

// place is where a demand of the queue stands.
func (q *queue) place(d *Demand) Place {
	return Place{Position: q.position(d) + 1, Waiting: q.waiting}
}
