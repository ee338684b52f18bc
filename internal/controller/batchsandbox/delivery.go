// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"opensandbox.io/controller/api/v1alpha1"
)

// deliveryPhase is how far the first delivery of a batch has come.
type deliveryPhase int

const (
	// deliveryUnknown: nobody has looked yet whether there is one to measure.
	deliveryUnknown deliveryPhase = iota

	// deliveryPending: something that the batch asks for is missing.
	deliveryPending

	// deliveryWritten: the addresses of all that it asks for are written, and the status doesn't say so yet.
	deliveryWritten

	// deliveryOver: it is counted, or not to be counted.
	deliveryOver
)

// start is what a delivery starts from.
type start int

const (
	// startWarm: the first time that the batch asked, its pool had a pod for every index.
	startWarm start = iota

	// startWaited: the batch waited for its pool.
	startWaited

	// startCold: the batch has no pool, and makes its pods.
	startCold

	numStarts
)

func (s start) String() string {
	switch s {
	case startWarm:
		return "warm"
	case startWaited:
		return "waited"
	case startCold:
		return "cold"
	default:
		return "unknown"
	}
}

// stage is a part of a delivery from a pool, by what it ends with.
type stage int

const (
	// stageQueued ends with the look at the batch that brought the last of its pods: until then it waited for a worker, and for
	// its turn in the queue of its pool.
	stageQueued stage = iota

	// stageChosen ends with the choice of these pods.
	stageChosen

	// stageWritten ends with the answer to the write that tells their addresses.
	stageWritten

	// stageReported ends with the answer to the write of the status that follows.
	stageReported

	numStages
)

func (s stage) String() string {
	switch s {
	case stageQueued:
		return "queued"
	case stageChosen:
		return "chosen"
	case stageWritten:
		return "written"
	case stageReported:
		return "reported"
	default:
		return "unknown"
	}
}

// delivery times the first delivery of a batch: from the first sight of it to the addresses of all that it asks for. What it
// loses and asks for later is none. It is measured once, by the process that carries it out; one whose last write landed
// without that process hearing of it, for it ended, is not measured.
type delivery struct {
	phase deliveryPhase
	start start

	// seen is when the watch first showed the batch. A batch that was there before this process is measured from its creation,
	// a whole second: what it waited for a controller is part of what its user felt.
	seen time.Time

	// turn, chosen and written are the ends of the stages; chosen is zero while this process has chosen nothing.
	turn, chosen, written time.Time

	// writes are the writes of the batch and of its status that were sent.
	writes int

	// span is the trace's first; nil where there is no trace.
	span trace.Span
}

// begin decides whether there is a delivery to measure. seen is the first sight by the watch, zero for none.
//
//	| asks for | has had all of it | first sight | measured from   |
//	| nothing  | -                 | -           | -               |
//	| some     | yes               | -           | -               |
//	| some     | no                | yes         | the first sight |
//	| some     | no                | none        | its creation    |
func (d *delivery) begin(obs *observed, seen time.Time) {
	created := obs.sb.CreationTimestamp.Time
	if obs.replicas() == 0 || !obs.waitingSince().Equal(created) {
		d.phase = deliveryOver
		return
	}
	d.phase = deliveryPending
	if d.seen = seen; seen.IsZero() {
		d.seen = created
	}
	if !obs.pooled() {
		d.start = startCold
	}
}

// waits notes that the pool did not have all that is asked for.
func (d *delivery) waits() {
	if d.start == startWarm {
		d.start = startWaited
	}
}

// isWarm says whether the batch got all that it asked for the first time it asked, a moment ago.
func (d *delivery) isWarm() bool { return d.start == startWarm && d.phase == deliveryWritten }

// choose notes that pods were chosen now, in a look at the batch that began at turn.
func (d *delivery) choose(turn, now time.Time) { d.turn, d.chosen = turn, now }

// sights knows when the watch first showed the batches that nobody has looked at yet. It is safe for concurrent use.
type sights struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	byName map[types.NamespacedName]sight
}

type sight struct {
	uid types.UID
	at  time.Time
}

func newSights(c clock.PassiveClock) *sights {
	return &sights{clock: c, byName: map[types.NamespacedName]sight{}}
}

// predicate lets everything through, and notes batches that are new. Those of the first list are not: they were there before.
func (s *sights) predicate() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool {
			if !e.IsInInitialList {
				s.note(e.Object)
			}
			return true
		},
		UpdateFunc: func(e event.UpdateEvent) bool {
			if e.ObjectOld.GetUID() != e.ObjectNew.GetUID() {
				s.note(e.ObjectNew) // made anew while the watch was broken
			}
			return true
		},
	}
}

func (s *sights) note(obj client.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[client.ObjectKeyFromObject(obj)] = sight{uid: obj.GetUID(), at: s.clock.Now()}
}

// take returns and forgets when a batch was first seen; zero if the watch did not show it as new.
func (s *sights) take(sb *v1alpha1.BatchSandbox) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := client.ObjectKeyFromObject(sb)
	found, ok := s.byName[key]
	if !ok || found.uid != sb.UID {
		return time.Time{} // that of another batch of its name is taken when the cache shows that one
	}
	delete(s.byName, key)
	return found.at
}

// any says whether there are batches that nobody has looked at yet.
func (s *sights) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byName) > 0
}

func (s *sights) forget(batch types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byName, batch)
}

// beginDelivery decides whether there is a delivery to measure, at the first look at a batch.
func (r *Reconciler) beginDelivery(ctx context.Context, obs *observed, m *memory) {
	if m.delivery.phase == deliveryUnknown {
		m.delivery.begin(obs, r.sights.take(obs.sb))
		r.beginTrace(ctx, obs, &m.delivery)
	}
}

// reportsLater puts the report of a delivery off, once, behind the first look at batches that came meanwhile: they wait for their
// sandboxes, and this one has its own. Tasks are not kept waiting.
func (r *Reconciler) reportsLater(obs *observed, m *memory) bool {
	if m.reportsLater || m.delivery.phase != deliveryWritten || obs.hasTasks() || !r.sights.any() {
		return false
	}
	m.reportsLater = true
	return true
}

// noteChoice notes what a batch got from its pool when it asked: whether that is all, and when it was chosen.
func (r *Reconciler) noteChoice(obs *observed, m *memory, grants int, served bool) {
	if m.delivery.phase != deliveryPending {
		return
	}
	if !served {
		m.delivery.waits()
	}
	if grants > 0 {
		m.delivery.choose(obs.now, r.clock.Now())
	}
}

// deliveredCold notes that the addresses of all pods of a batch without pool are known. before is the batch before they were
// written: where it is the same, they were written without this process knowing of it.
func (r *Reconciler) deliveredCold(ctx context.Context, obs *observed, m *memory, before *v1alpha1.BatchSandbox) {
	if obs.sb != before {
		m.delivery.choose(obs.now, obs.now)
	}
	r.delivered(ctx, m)
}

// delivered notes that the addresses of all that a batch asks for are written.
func (r *Reconciler) delivered(ctx context.Context, m *memory) {
	r.metrics.delivered(&m.delivery, r.clock.Now())
	r.traceDelivered(ctx, &m.delivery)
}

// told notes that the status tells all that was observed.
func (r *Reconciler) told(m *memory) {
	if m.delivery.phase != deliveryWritten && len(m.heard) == 0 {
		return
	}
	now := r.clock.Now()
	r.metrics.reported(&m.delivery, now)
	for _, end := range m.heard {
		r.metrics.taskEnded(end, now)
	}
	m.heard = nil
}
