// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// simulation is a pool and the batches that wait for it, with what both controllers do and no API between: the pool plans
// and follows its plan, pods become ready a turn after they were made, and a batch asks when it is woken.
type simulation struct {
	t       *testing.T
	ledger  *Ledger
	spec    v1alpha1.CapacitySpec
	demands map[string]Demand
	woken   map[string]bool
	pods    int      // made so far
	deleted int      // by plan
	order   []string // of the batches, by when they had all they asked for
}

func (s *simulation) WakeBatch(b types.NamespacedName) { s.woken[b.Name] = true }
func (s *simulation) WakePool(types.NamespacedName)    {}

func newSimulation(t *testing.T, spec v1alpha1.CapacitySpec, demands ...Demand) *simulation {
	t.Helper()
	s := &simulation{t: t, spec: spec, demands: map[string]Demand{}, woken: map[string]bool{}}
	s.ledger = NewLedger(s)
	s.ledger.ObservePool(poolP, "r1")
	for _, d := range demands {
		s.demands[d.Batch.Name] = d
		s.ask(d.Batch.Name)
	}
	return s
}

// ask is a reconcile of a batch.
func (s *simulation) ask(name string) {
	s.t.Helper()
	delete(s.woken, name)
	d, ok := s.demands[name]
	if !ok {
		return
	}
	asked := len(d.Missing)
	grants := s.ledger.Assume(d).Grants
	if len(grants) > 0 && d.Held+len(grants) < min(d.MinAvailable, d.Held+asked) {
		s.t.Fatalf("%s got %d of %d", name, len(grants), d.MinAvailable)
	}
	s.ledger.Confirm(d.Batch)
	for _, g := range grants {
		d.Missing = slices.DeleteFunc(slices.Clone(d.Missing), func(i int) bool { return i == g.Index })
		d.Held++
	}
	s.demands[name] = d
	if asked > 0 && len(d.Missing) == 0 {
		s.order = append(s.order, name)
	}
}

// turn is a reconcile of the pool, then of whoever was woken, until nobody is; pods made before become ready first.
func (s *simulation) turn() {
	s.t.Helper()
	for _, name := range s.starting() {
		s.ledger.ObservePod(poolP, readyPod(name))
	}
	for len(s.woken) > 0 {
		s.ask(slices.Sorted(maps.Keys(s.woken))[0])
	}
	plan := PlanCapacity(s.spec, s.ledger.Counts(poolP), Limits{MaxStarting: -1, MaxCreate: -1, MaxDelete: -1})
	for _, pod := range s.ledger.Retire(poolP, plan.Delete) {
		s.deleted++
		s.ledger.RemovePod(poolP, pod.Name, pod.UID)
	}
	for range plan.Create {
		s.ledger.ExpectPod(poolP, fmt.Sprintf("n-%d", s.pods), "r1")
		s.pods++
	}
	if total := s.ledger.Counts(poolP).Total(); total > int(s.spec.PoolMax) {
		s.t.Fatalf("%d pods, poolMax is %d", total, s.spec.PoolMax)
	}
}

func (s *simulation) starting() []string {
	var names []string
	for name, e := range s.ledger.pools[poolP].pods {
		if e.class == classStarting {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// giveBack releases all that a batch holds; its pods are deleted.
func (s *simulation) giveBack(name string) {
	for _, h := range s.ledger.Holdings(key(name), types.UID("uid-"+name)) {
		if h.PodName != "" {
			s.ledger.Discard(poolP, h.PodName)
			s.ledger.RemovePod(poolP, h.PodName, h.Pod.UID)
		}
	}
	s.ledger.ReleaseAll(key(name))
	delete(s.demands, name)
}

func (s *simulation) turns(n int) {
	s.t.Helper()
	for range n {
		s.turn()
	}
}

// The buffer grows to what a gang waits for, however small its bounds, and the pods that are collected for it are not taken
// for too many.
func TestThePoolCollectsPodsForAGang(t *testing.T) {
	eight := []int{0, 1, 2, 3, 4, 5, 6, 7}
	cases := map[string]struct {
		spec    v1alpha1.CapacitySpec
		demands []Demand
		order   []string // of delivery, within 4 turns
		pods    int      // made in all
	}{
		"a gang of 8, and a buffer of at most 2": {
			v1alpha1.CapacitySpec{BufferMin: 0, BufferMax: 2, PoolMax: 20}, []Demand{gangOf(demand("gang", 9, eight...), 8)},
			[]string{"gang"}, 9, // the buffer's target is 1
		},
		"a gang of 8, and no buffer at all": {
			v1alpha1.CapacitySpec{PoolMax: 20}, []Demand{gangOf(demand("gang", 9, eight...), 8)}, []string{"gang"}, 8,
		},
		"a gang as large as the pool": {
			v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 2, PoolMax: 8}, []Demand{gangOf(demand("gang", 9, eight...), 8)}, []string{"gang"}, 8,
		},
		"two gangs that fit together": {
			v1alpha1.CapacitySpec{PoolMax: 16},
			[]Demand{gangOf(demand("one", 9, eight...), 8), gangOf(demand("two", 8, eight...), 8)}, []string{"one", "two"}, 16,
		},
		"two gangs that don't": {
			v1alpha1.CapacitySpec{PoolMax: 15},
			[]Demand{gangOf(demand("one", 9, eight...), 8), gangOf(demand("two", 8, eight...), 8)}, []string{"one"}, 15,
		},
		"a single before the gang, one behind it": {
			v1alpha1.CapacitySpec{PoolMax: 10},
			[]Demand{demand("before", 9, 0), gangOf(demand("gang", 8, eight...), 8), demand("behind", 7, 0)},
			[]string{"before", "gang", "behind"}, 10,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSimulation(t, c.spec, c.demands...)
			s.turns(4)
			if !slices.Equal(s.order, c.order) || s.pods != c.pods || s.deleted != 0 {
				t.Errorf("served %v with %d pods, of which %d were deleted; want %v, %d and 0", s.order, s.pods, s.deleted, c.order, c.pods)
			}
			pods := s.pods
			s.turns(5)
			if s.pods != pods || s.deleted != 0 {
				t.Errorf("%d pods made and %d deleted at rest", s.pods-pods, s.deleted)
			}
		})
	}
}

// A gang at the head gets the sandboxes that others give back one by one: they are kept for it, and nobody behind it takes one.
func TestAGangAtTheHeadCollectsWhatIsGivenBack(t *testing.T) {
	s := newSimulation(t, v1alpha1.CapacitySpec{BufferMax: 2, PoolMax: 8})
	for i := range 8 {
		name := fmt.Sprintf("single-%d", i)
		s.demands[name] = demand(name, 100-i, 0)
		s.ask(name)
	}
	s.turns(3)
	gang := gangOf(demand("gang", 9, 0, 1, 2, 3, 4, 5, 6, 7), 8)
	s.demands["gang"], s.demands["behind"] = gang, demand("behind", 1, 0)
	s.ask("gang")
	s.ask("behind")
	for i := range 8 {
		if got := s.ledger.Counts(poolP).Idle; got != i {
			t.Errorf("%d pods are kept for the gang after %d were given back", got, i)
		}
		s.giveBack(fmt.Sprintf("single-%d", i))
		s.turns(2)
	}
	if s.order[len(s.order)-1] != "gang" || s.deleted != 0 {
		t.Errorf("served %v, and %d pods were deleted; want the gang last and none deleted", s.order, s.deleted)
	}
	s.giveBack("gang")
	s.turns(3)
	if s.order[len(s.order)-1] != "behind" {
		t.Errorf("served %v, want the one behind the gang in the end", s.order)
	}
}

// A gang that leaves gives the pods that were collected for it to the next, and what nobody needs is deleted.
func TestPodsThatWereCollectedForAGangGoToTheNext(t *testing.T) {
	s := newSimulation(t, v1alpha1.CapacitySpec{BufferMax: 2, PoolMax: 8}, demand("single", 10, 0),
		gangOf(demand("gang", 9, 0, 1, 2, 3, 4, 5, 6, 7), 8), demand("behind", 1, 0, 1))
	s.turns(3)
	if !slices.Equal(s.order, []string{"single"}) {
		t.Fatalf("served %v, want the single alone", s.order)
	}
	s.ledger.LeaveQueue(key("gang"))
	delete(s.demands, "gang")
	s.turns(2)
	if !slices.Equal(s.order, []string{"single", "behind"}) {
		t.Errorf("served %v, want the one behind the gang too", s.order)
	}
	if got := s.ledger.Counts(poolP); got.Idle != 2 || got.Starting != 0 {
		t.Errorf("counts %+v, want bufferMax (2) idle", got)
	}
}
