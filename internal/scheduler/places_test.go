// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told are statuses of batches, of which a test counts the writes.
type told struct {
	demands map[string]Demand // what each batch asks for; Told is its status
	writes  int
}

// ask is a reconcile of a batch that waits: it asks, and writes what it is to tell if its status tells something else.
func (s *told) ask(l *Ledger, name string) {
	d, ok := s.demands[name]
	if !ok {
		return
	}
	if place := l.Assume(d).Place; place != d.Told {
		d.Told = place
		s.demands[name] = d
		s.writes++
	}
}

// turn is one call of TellPlaces and the reconciles of those it woke, if a queue has moved.
func (s *told) turn(l *Ledger, rec *recorder, n int) {
	select {
	case <-l.QueueMoves():
	default:
		return
	}
	rec.batches = nil
	l.TellPlaces(n)
	for _, name := range rec.batches {
		s.ask(l, name)
	}
}

// newQueueOf returns a ledger with n batches b-0, b-1, ... in that order in the queue of a pool without pods, each of
// which has told its place, and nothing to do.
func newQueueOf(t *testing.T, n int) (*Ledger, *recorder, *told) {
	t.Helper()
	l, rec := newPool(0)
	s := &told{demands: map[string]Demand{}}
	for i := range n {
		name := batchName(i)
		s.demands[name] = demand(name, 100_000-i, 0)
		s.ask(l, name)
	}
	s.writes = 0
	for range 2 * n { // what the queue waits for is known when all have come
		s.turn(l, rec, n)
	}
	s.writes = 0
	mustBeQuiet(t, l)
	return l, rec, s
}

func batchName(i int) string { return fmt.Sprintf("b-%05d", i) }

func mustBeQuiet(t *testing.T, l *Ledger) {
	t.Helper()
	if len(l.QueueMoves()) != 0 || len(l.moved) != 0 {
		t.Errorf("a queue at rest moves: %v", l.moved)
	}
}

// wrong counts the statuses that tell another place than the batch has.
func (s *told) wrong(l *Ledger) int {
	n := 0
	p := l.pools[poolP]
	for name, d := range s.demands {
		entry := p.queue.byBatch[key(name)]
		if entry == nil || p.queue.place(entry) != d.Told {
			n++
		}
	}
	return n
}

func TestFirstPlaceIsToldAtOnce(t *testing.T) {
	l, _ := newPool(0)
	for i := range 30 {
		if got := l.Assume(demand(batchName(i), 100-i, 0, 1)); got.Place != (Place{i + 1, 2*i + 2}) {
			t.Fatalf("batch %d is told %+v", i, got.Place)
		}
	}
}

func TestAPlaceThatIsToldIsNotToldAgainBeforeItsTurn(t *testing.T) {
	l, _, s := newQueueOf(t, 10)
	l.LeaveQueue(key(batchName(0)))
	delete(s.demands, batchName(0))
	for i := range 9 {
		s.ask(l, batchName(1+i)) // looked at for another reason
	}
	if s.writes != 0 {
		t.Errorf("%d places written before their turn", s.writes)
	}
}

func TestEveryPlaceOfAShortQueueIsToldInOneTurn(t *testing.T) {
	cases := map[string]struct {
		change func(l *Ledger, s *told)
		writes int // of batches whose place or total changed
	}{
		"the head is served": {func(l *Ledger, s *told) {
			l.ObservePod(poolP, readyPod("p-0"))
			if got := l.Assume(s.demands[batchName(0)]); len(got.Grants) != 1 {
				panic("not served")
			}
			delete(s.demands, batchName(0))
		}, 9},
		"one in the middle is deleted": {func(l *Ledger, s *told) {
			l.BatchGone(key(batchName(5)))
			delete(s.demands, batchName(5))
		}, 9},
		"a newcomer at the end tells its own place, and the others what is waited for": {func(l *Ledger, s *told) {
			s.demands["new"] = demand("new", 0, 0)
			s.ask(l, "new")
		}, 11},
		"the last gets the highest priority": {func(l *Ledger, s *told) {
			s.demands[batchName(9)] = urgent(s.demands[batchName(9)], 5)
			s.ask(l, batchName(9))
		}, 10},
		"two in the middle change places": {func(l *Ledger, s *told) {
			d := s.demands[batchName(5)]
			d.Created = s.demands[batchName(4)].Created.Add(-1)
			s.demands[batchName(5)] = d
			s.ask(l, batchName(5))
		}, 2},
		"the head asks for more": {func(l *Ledger, s *told) {
			d := s.demands[batchName(0)]
			d.Missing = []int{0, 1}
			s.demands[batchName(0)] = d
			s.ask(l, batchName(0))
		}, 10},
		"nothing": {func(*Ledger, *told) {}, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, rec, s := newQueueOf(t, 10)
			c.change(l, s)
			s.turn(l, rec, 25)
			if s.writes != c.writes || s.wrong(l) != 0 {
				t.Errorf("%d writes and %d wrong places, want %d and none", s.writes, s.wrong(l), c.writes)
			}
			s.turn(l, rec, 25)
			if s.writes != c.writes {
				t.Errorf("%d writes more at rest", s.writes-c.writes)
			}
			mustBeQuiet(t, l)
		})
	}
}

// With 2,000 batches that wait, 45 of which are served each second, a turn writes no more than its share, and those at the
// head are never off by much.
func TestALongQueueThatMovesCostsABoundedNumberOfWrites(t *testing.T) {
	const waiting, perTurn, servedPerTurn = 2000, 50, 22 // two turns a second
	l, rec, s := newQueueOf(t, waiting)
	served := 0
	for turn := range 40 {
		before := s.writes
		for range servedPerTurn {
			l.LeaveQueue(key(batchName(served)))
			delete(s.demands, batchName(served))
			served++
		}
		s.turn(l, rec, perTurn)
		if got := s.writes - before; got != perTurn {
			t.Fatalf("turn %d: %d writes, want %d", turn, got, perTurn)
		}
	}
	// Nobody is forgotten: in the part of the queue that is not served within the next turn, no place is off by more than
	// some times itself.
	worst := 0.0
	for position := servedPerTurn + 1; position <= waiting-served; position++ {
		off := s.demands[batchName(served+position-1)].Told.Position - position
		worst = max(worst, float64(off)/float64(position))
	}
	if worst > 5 {
		t.Errorf("a batch tells a place that is off by %.1f times its own", worst)
	}
	t.Logf("%d batches told their places %d times while %d were served; the worst was off by %.1f times its place", waiting, s.writes, served, worst)
	// At rest every place becomes right, and then nothing is written any more.
	left := waiting - served
	turns := (left + perTurn - 1) / perTurn
	for range turns {
		s.turn(l, rec, perTurn)
	}
	if wrong := s.wrong(l); wrong != 0 {
		t.Errorf("%d places of %d are wrong %d turns after the queue came to rest", wrong, left, turns)
	}
	writes := s.writes
	s.turn(l, rec, perTurn)
	if s.writes != writes {
		t.Errorf("%d writes at rest", s.writes-writes)
	}
	mustBeQuiet(t, l)
}

func TestThePlacesThatAreMostWrongInProportionGoFirst(t *testing.T) {
	l, rec, s := newQueueOf(t, 100)
	for i := range 2 {
		l.LeaveQueue(key(batchName(i)))
		delete(s.demands, batchName(i))
	}
	rec.batches = nil
	l.TellPlaces(3)
	if diff := cmp.Diff([]string{batchName(2), batchName(3), batchName(4)}, rec.batches); diff != "" {
		t.Errorf("first turn (-want +got):\n%s", diff)
	}
	rec.batches = nil
	l.TellPlaces(3) // those woken before are on their way
	if diff := cmp.Diff([]string{batchName(5), batchName(6), batchName(7)}, rec.batches); diff != "" {
		t.Errorf("second turn (-want +got):\n%s", diff)
	}
}

func TestTheQueuesShareATurn(t *testing.T) {
	l, rec := newPool(0)
	for pool := range 3 {
		for i := range 4 {
			d := demand(fmt.Sprintf("%d-%d", pool, i), 100-i, 0)
			d.Pool = fmt.Sprintf("pool-%d", pool)
			d.Told = Place{100, 100} // as the last controller left it
			l.Assume(d)
		}
	}
	for turn, want := range [][]string{
		{"0-0", "1-0"}, {"2-0", "0-1"}, {"1-1", "2-1"}, // two queues a turn, each for its turn
	} {
		rec.batches = nil
		l.TellPlaces(2)
		if diff := cmp.Diff(want, rec.batches); diff != "" {
			t.Errorf("turn %d (-want +got):\n%s", turn, diff)
		}
	}
}

func TestAPlaceWhoseWriteFailedIsToldLater(t *testing.T) {
	l, rec, s := newQueueOf(t, 3)
	l.LeaveQueue(key(batchName(0)))
	<-l.QueueMoves()
	rec.batches = nil
	l.TellPlaces(25)
	if diff := cmp.Diff([]string{batchName(1), batchName(2)}, rec.batches); diff != "" {
		t.Fatalf("woken (-want +got):\n%s", diff)
	}
	for _, name := range rec.batches {
		l.Assume(s.demands[name]) // the write of the answer fails
	}
	for _, name := range rec.batches {
		l.Assume(s.demands[name]) // the reconcile is tried again, and its status is the old one
	}
	delete(s.demands, batchName(0))
	s.turn(l, rec, 25)
	if s.wrong(l) != 0 || s.writes != 2 {
		t.Errorf("%d wrong places after %d writes", s.wrong(l), s.writes)
	}
}

// What a batch told before a restart stands until its turn: a thousand batches that are looked at after a start write nothing.
func TestARestartTellsOnlyThePlacesThatAreWrong(t *testing.T) {
	l, rec := newPool(0)
	s := &told{demands: map[string]Demand{}}
	for i := range 1000 {
		name := batchName(i)
		s.demands[name] = demand(name, 100_000-i, 0)
	}
	for i := range 1000 {
		d := s.demands[batchName(i)]
		d.Told = Place{i + 1, 1000}
		if i == 700 {
			d.Told.Position = 3
		}
		s.demands[batchName(i)] = d
		l.Enqueue(d)
	}
	for _, name := range slices.Clone(rec.batches) {
		s.ask(l, name)
	}
	if s.writes != 0 {
		t.Errorf("%d writes right after the start", s.writes)
	}
	for range 3 {
		s.turn(l, rec, 25)
	}
	if s.writes != 1 || s.wrong(l) != 0 {
		t.Errorf("%d writes and %d wrong places, want 1 and none", s.writes, s.wrong(l))
	}
}
