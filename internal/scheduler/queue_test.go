// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// idleAgain makes a new pod of this name ready, as after a replacement.
func idleAgain(l *Ledger, name string) { l.ObservePod(poolP, readyPod(name)) }

func urgent(d Demand, priority int32) Demand {
	d.Priority = priority
	return d
}

func gangOf(d Demand, minAvailable int) Demand {
	d.MinAvailable = minAvailable
	return d
}

// order are the batches of the queue from its head.
func order(l *Ledger) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	if p, ok := l.pools[poolP]; ok {
		for _, d := range p.queue.demands {
			names = append(names, d.Batch.Name)
		}
	}
	return names
}

func TestPlaceIsByPriorityThenAgeThenName(t *testing.T) {
	l, _ := newPool(0)
	for _, d := range []Demand{
		demand("young", 1, 0), demand("b-twin", 5, 0), urgent(demand("urgent", 0, 0), 7), demand("a-twin", 5, 0),
		demand("old", 10, 0), urgent(demand("last", 99, 0), -1),
	} {
		l.Assume(d)
	}
	want := []string{"urgent", "old", "a-twin", "b-twin", "young", "last"}
	if diff := cmp.Diff(want, order(l)); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
}

// Who is woken by what: a pod that may be handed out is news for the head alone, and nobody else is woken.
func TestNewsForTheHeadOfTheQueue(t *testing.T) {
	// Batch "holder" holds p-0; "head" and "next" wait, in that order.
	cases := map[string]struct {
		head Demand
		news func(l *Ledger)
		want []string
	}{
		"a pod becomes idle": {
			demand("head", 10, 0), func(l *Ledger) { idleAgain(l, "new") }, []string{"head"},
		},
		"a pod that starts is no news": {
			demand("head", 10, 0), func(l *Ledger) { l.ExpectPod(poolP, "new", "r1") }, nil,
		},
		"a pod is released under Noop": {
			demand("head", 10, 0), func(l *Ledger) { l.Release(key("holder"), []int{0}) }, []string{"head"},
		},
		"a batch gives all back and goes": {
			demand("head", 10, 0), func(l *Ledger) { l.ReleaseAll(key("holder")) }, []string{"head"},
		},
		"a pod is deleted at its release": {
			demand("head", 10, 0), func(l *Ledger) { l.Discard(poolP, "p-0"); l.ReleaseAll(key("holder")) }, nil,
		},
		"a batch vanishes: its pod is dirty": {
			demand("head", 10, 0), func(l *Ledger) { l.BatchGone(key("holder")) }, nil,
		},
		"a recycled pod is ready again": {
			demand("head", 10, 0), func(l *Ledger) {
				pod := readyPod("p-0")
				pod.ResourceVersion, pod.State, pod.Recycling = "2", PodStarting, true
				l.ObservePod(poolP, pod)
				l.ReleaseAll(key("holder"))
				pod.ResourceVersion, pod.State, pod.Recycling = "3", PodReady, false
				l.ObservePod(poolP, pod)
			}, []string{"holder", "head"},
		},
		"the pool could not delete an idle pod": {
			demand("head", 10, 0), func(l *Ledger) {
				l.ExpectPod(poolP, "new", "r1")
				l.Retire(poolP, 1)
				l.Unretire(poolP, "new")
				idleAgain(l, "new")
			}, []string{"head"},
		},
		"the head leaves, and an idle pod it waited with suits the next": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) { idleAgain(l, "new"); l.LeaveQueue(key("head")) }, []string{"head", "next"},
		},
		"the head is deleted, and an idle pod it waited with suits the next": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) { idleAgain(l, "new"); l.BatchGone(key("head")) }, []string{"head", "next"},
		},
		"the head's priority is lowered, and an idle pod it waited with suits the next": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) {
				idleAgain(l, "new")
				l.Assume(urgent(gangOf(demand("head", 10, 0, 1), 2), -1))
			}, []string{"head", "next"},
		},
		"the head needs nothing any more, and an idle pod it waited with suits the next": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) { idleAgain(l, "new"); l.Assume(demand("head", 10)) }, []string{"head", "next"},
		},
		"the head leaves, and nothing is idle": {
			demand("head", 10, 0), func(l *Ledger) { l.LeaveQueue(key("head")) }, nil,
		},
		"somebody further back leaves, while the head waits with an idle pod": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) { idleAgain(l, "new"); l.LeaveQueue(key("next")) }, []string{"head"},
		},
		"a newcomer with a higher priority takes the idle pod: nobody else is woken": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) { idleAgain(l, "new"); l.Assume(urgent(demand("first", 0, 0), 1)) }, []string{"head"},
		},
		"the head takes two of three idle pods": {
			gangOf(demand("head", 10, 0, 1), 2), func(l *Ledger) {
				for _, name := range []string{"new-1", "new-2", "new-3"} {
					idleAgain(l, name)
				}
				l.Assume(gangOf(demand("head", 10, 0, 1), 2))
			}, []string{"head", "head", "head", "next"},
		},
		"the news of an allocation that did not land frees its pod for the head": {
			urgent(demand("head", 10, 0), -1), func(l *Ledger) {
				l.Assume(urgent(demand("first", 0, 0), 9))
				idleAgain(l, "new")
				l.Assume(urgent(demand("first", 0, 0), 9))
				l.Settle(Settlement{Batch: key("first"), UID: "uid-first", Pool: "p"})
			}, []string{"first", "next"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, rec := newPool(1)
			l.Assume(demand("holder", 99, 0))
			l.Confirm(key("holder"))
			l.Assume(c.head)
			l.Assume(demand("next", 5, 0))
			*rec = recorder{}
			c.news(l)
			if diff := cmp.Diff(c.want, rec.batches); diff != "" {
				t.Errorf("woken (-want +got):\n%s", diff)
			}
		})
	}
}

// serve asks in the order of the queue, as the wake-ups do, until nobody gets anything, and returns who got how many.
func serve(l *Ledger, demands map[string]Demand) map[string]int {
	got := map[string]int{}
	for again := true; again; {
		again = false
		for _, name := range order(l) {
			d := demands[name]
			res := l.Assume(d)
			l.Confirm(d.Batch)
			for _, g := range res.Grants {
				d.Missing = slices.DeleteFunc(slices.Clone(d.Missing), func(i int) bool { return i == g.Index })
				d.Held++
				got[name]++
				again = true
			}
			demands[name] = d
		}
	}
	return got
}

func TestWhoGetsThePodsThatAreThere(t *testing.T) {
	cases := map[string]struct {
		demands []Demand
		idle    int
		want    map[string]int
	}{
		"the oldest first, and the next what is left": {
			[]Demand{demand("a", 3, 0, 1), demand("b", 2, 0, 1), demand("c", 1, 0)}, 3, map[string]int{"a": 2, "b": 1},
		},
		"nobody takes what the gang at the head waits for": {
			[]Demand{gangOf(demand("gang", 3, 0, 1, 2), 3), demand("b", 2, 0), demand("c", 1, 0)}, 2, map[string]int{},
		},
		"a gang that isn't at the head holds nothing back": {
			[]Demand{demand("a", 3, 0), gangOf(demand("gang", 2, 0, 1, 2), 3), demand("c", 1, 0)}, 3, map[string]int{"a": 1},
		},
		"of two gangs that fit one at a time the first is served": {
			[]Demand{gangOf(demand("one", 3, 0, 1, 2), 3), gangOf(demand("two", 2, 0, 1, 2), 3)}, 4, map[string]int{"one": 3},
		},
		"two gangs are served once there is enough for both": {
			[]Demand{gangOf(demand("one", 3, 0, 1, 2), 3), gangOf(demand("two", 2, 0, 1, 2), 3)}, 6, map[string]int{"one": 3, "two": 3},
		},
		"a gang smaller than its replicas starts when it is whole, and gets the rest one by one": {
			[]Demand{gangOf(demand("gang", 3, 0, 1, 2, 3), 2), demand("b", 2, 0)}, 3, map[string]int{"gang": 3},
		},
		"a gang gets all that is there once it has enough": {
			[]Demand{gangOf(demand("gang", 3, 0, 1, 2, 3), 2), demand("b", 2, 0)}, 5, map[string]int{"gang": 4, "b": 1},
		},
		"a newcomer of a higher priority goes before the gang, and the gang is not broken up": {
			[]Demand{gangOf(demand("gang", 3, 0, 1), 2), urgent(demand("b", 1, 0), 1)}, 2, map[string]int{"b": 1},
		},
		"a gang that lost one sandbox takes the first there is": {
			[]Demand{{Batch: key("gang"), UID: "uid-gang", Pool: "p", Missing: []int{1}, Held: 2, MinAvailable: 3}}, 1, map[string]int{"gang": 1},
		},
		"a gang that lost two waits for both together": {
			[]Demand{
				{Batch: key("gang"), UID: "uid-gang", Pool: "p", Missing: []int{1, 2}, Held: 1, MinAvailable: 3},
				demand("b", -2000, 0), // younger
			}, 1, map[string]int{},
		},
		"a gang of more than it can ever miss waits for all it misses": {
			[]Demand{gangOf(demand("gang", 3, 0, 1), 9)}, 2, map[string]int{"gang": 2},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, _ := newPool(0)
			demands := map[string]Demand{}
			for _, d := range c.demands {
				demands[d.Batch.Name] = d
				l.Assume(d)
			}
			for i := range c.idle {
				idleAgain(l, readyPod("n-"+string(rune('a'+i))).Name)
			}
			if diff := cmp.Diff(c.want, serve(l, demands)); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
		})
	}
}

func TestABatchThatWasSetAsideComesBackInItsOldPlace(t *testing.T) {
	l, _ := newPool(0)
	for _, d := range []Demand{demand("a", 3, 0), demand("b", 2, 0), demand("c", 1, 0)} {
		l.Assume(d)
	}
	l.LeaveQueue(key("a"))
	if got := l.Counts(poolP).Waiting; got != 2 {
		t.Errorf("waiting %d without a, want 2", got)
	}
	if got := l.Assume(demand("a", 3, 0)); got.Place != (Place{1, 3}) {
		t.Errorf("a: %+v, want position 1 of 3 waiting", got)
	}
}

// A batch whose allocation conflicted asks again in a moment. The next in the queue must not use that moment.
func TestAConflictCostsABatchNotItsPlace(t *testing.T) {
	l, rec := newPool(2)
	if got := l.Assume(demand("first", 9, 0, 1, 2)); len(got.Grants) != 2 {
		t.Fatalf("first: %+v, want 2 pods", got)
	}
	l.Assume(demand("second", 5, 0))
	*rec = recorder{}
	l.Settle(Settlement{Batch: key("first"), UID: "uid-first", Pool: "p", Pods: []string{"", "p-1"}, Conflicted: true})
	if len(rec.batches) != 0 {
		t.Errorf("woken %v: the batch comes by itself, and nobody else is at the head", rec.batches)
	}
	if diff := cmp.Diff(Counts{Idle: 1, Held: 1, Updated: 2, Waiting: 3}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if got := l.Assume(demand("second", 5, 0)); len(got.Grants) != 0 {
		t.Errorf("second overtook: %v", granted(got))
	}
	if diff := cmp.Diff([]string{"0:p-0"}, granted(l.Assume(demand("first", 9, 0, 2)))); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
}

func TestAQueueIsRebuiltBeforeAnyoneAsks(t *testing.T) {
	l, rec := newPool(1)
	l.Enqueue(demand("young", 1, 0))
	l.Enqueue(demand("old", 9, 0))
	l.Enqueue(demand("none", 99))
	if diff := cmp.Diff([]string{"young", "old"}, rec.batches); diff != "" {
		t.Errorf("woken (-want +got):\n%s", diff)
	}
	if got := l.Assume(demand("young", 1, 0)); len(got.Grants) != 0 || got.Position != 2 {
		t.Errorf("young: %+v, want nothing at position 2", got)
	}
	if got := l.Assume(demand("old", 9, 0)); len(got.Grants) != 1 {
		t.Errorf("old: %+v, want a pod", got)
	}
}
