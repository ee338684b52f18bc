// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestPlanUpdate(t *testing.T) {
	budget := func(n int, change ...func(*Limits)) Limits {
		l := noLimits
		l.MaxReplace = n
		for _, c := range change {
			c(&l)
		}
		return l
	}
	tests := map[string]struct {
		spec   v1alpha1.CapacitySpec
		counts Counts
		limits Limits
		want   int
	}{
		"as many idle pods as the budget has": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 6, StaleIdle: 6}, limits: budget(2), want: 2,
		},
		"no budget": {spec: spec(2, 6, 0, 10), counts: Counts{Idle: 6, StaleIdle: 6}, limits: budget(0), want: 0},
		"no more than there are": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 6, StaleIdle: 1}, limits: budget(4), want: 1,
		},
		"pods of the current revision that start use the budget": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 5, Starting: 1, StaleIdle: 5}, limits: budget(2), want: 1,
		},
		"so do pods that are owed": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 4, StaleIdle: 4, Terminating: 2},
			limits: budget(2, func(l *Limits) { l.Owed = 2 }), want: 0,
		},
		"and those the pool is short of, whoever owes them": {
			spec: spec(6, 6, 0, 6), counts: Counts{Idle: 5, StaleIdle: 5, Terminating: 1}, limits: budget(1), want: 0,
		},
		"what poolMax has no room for is not short": {
			spec: spec(10, 10, 0, 6), counts: Counts{Idle: 6, StaleIdle: 6}, limits: budget(1), want: 1,
		},
		"starting pods of an old revision go first and take no budget before": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 3, Starting: 3, StaleIdle: 3, StaleStarting: 3}, limits: budget(2), want: 2,
		},
		"pods that batches wait for are left to them": {
			spec: spec(0, 6, 0, 6), counts: Counts{Idle: 4, Held: 2, StaleIdle: 4, Waiting: 6}, limits: budget(2), want: 0,
		},
		"a surplus is deleted in their place": {
			spec: spec(1, 3, 0, 10), counts: Counts{Idle: 5, StaleIdle: 5}, limits: budget(2), want: 0,
		},
		"no more than may start": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 6, StaleIdle: 6},
			limits: budget(4, func(l *Limits) { l.MaxStarting = 1 }), want: 1,
		},
		"no more than one burst": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 6, StaleIdle: 6},
			limits: budget(4, func(l *Limits) { l.MaxDelete = 3 }), want: 3,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := PlanUpdate(tt.spec, tt.counts, tt.limits)
			if got.Replace != tt.want || (got.Replace > 0) != (got.Reason != "") {
				t.Errorf("plan %+v, want to replace %d", got, tt.want)
			}
		})
	}
}

func TestWhatIsOwedIsMadeAgain(t *testing.T) {
	tests := map[string]struct {
		spec   v1alpha1.CapacitySpec
		counts Counts
		owed   int
		want   int
	}{
		"inside the band":                     {spec(2, 6, 0, 10), Counts{Idle: 4}, 2, 2},
		"up to bufferMax":                     {spec(2, 6, 0, 10), Counts{Idle: 5}, 3, 1},
		"or to poolMin":                       {spec(0, 1, 6, 10), Counts{Idle: 5}, 3, 1},
		"not above it":                        {spec(2, 6, 0, 10), Counts{Idle: 6}, 3, 0},
		"as far as poolMax has room":          {spec(2, 6, 0, 6), Counts{Idle: 4, Terminating: 1}, 2, 1},
		"without filling up to the target":    {spec(4, 8, 0, 10), Counts{Idle: 3}, 1, 1},
		"with what is missing below the band": {spec(4, 8, 0, 10), Counts{Idle: 1}, 1, 5},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := noLimits
			l.Owed = tt.owed
			if got := PlanCapacity(tt.spec, tt.counts, l); got.Create != tt.want || got.Delete != 0 {
				t.Errorf("plan %+v, want to create %d", got, tt.want)
			}
		})
	}
}

// poolSim is a pool as its controller and the cluster treat it: pods become Ready, deleted ones go, batches come and go.
type poolSim struct {
	t         *rapid.T
	l         *Ledger
	spec      v1alpha1.CapacitySpec
	limits    Limits
	revision  int
	owed      int
	pods      map[string]Pod // as the cluster has them
	going     map[string]bool
	held      map[string]string // pod by batch
	names     int
	creates   int
	deletes   int
	leastIdle int
}

func newPoolSim(t *rapid.T, c v1alpha1.CapacitySpec, l Limits, idle int) *poolSim {
	s := &poolSim{
		t: t, l: NewLedger(&recorder{}), spec: c, limits: l, revision: 1,
		pods: map[string]Pod{}, going: map[string]bool{}, held: map[string]string{}, leastIdle: idle,
	}
	s.l.ObservePool(poolP, s.hash())
	for range idle {
		s.create()
	}
	s.allReady()
	s.creates = 0
	return s
}

func (s *poolSim) hash() string { return fmt.Sprintf("r%d", s.revision) }

func (s *poolSim) create() {
	s.names++
	s.creates++
	pod := readyPod(fmt.Sprintf("p-%04d", s.names))
	pod.State, pod.Revision = PodStarting, s.hash()
	s.pods[pod.Name] = pod
	s.l.ObservePod(poolP, pod)
}

func (s *poolSim) ready(name string) {
	pod := s.pods[name]
	pod.State = PodReady
	s.pods[name] = pod
	s.l.ObservePod(poolP, pod)
}

func (s *poolSim) allReady() {
	for _, name := range s.starting() {
		s.ready(name)
	}
}

func (s *poolSim) starting() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.pods)) {
		if s.pods[name].State == PodStarting && !s.going[name] {
			names = append(names, name)
		}
	}
	return names
}

func (s *poolSim) gone(name string) {
	delete(s.pods, name)
	delete(s.going, name)
	s.l.RemovePod(poolP, name, types.UID("uid-"+name))
}

func (s *poolSim) delete(pods []Pod) {
	for _, pod := range pods {
		if slices.Contains(slices.Collect(maps.Values(s.held)), pod.Name) {
			s.t.Fatalf("held pod %s is deleted", pod.Name)
		}
		s.going[pod.Name] = true
		s.deletes++
	}
}

// reconcile does what the pool's controller does with the two plans.
func (s *poolSim) reconcile() {
	s.l.ObservePool(poolP, s.hash())
	n := s.l.Counts(poolP)
	s.owed = n.Owed(s.spec, s.owed)
	l := s.limits
	l.Owed = s.owed
	replaced := s.l.RetireStale(poolP, PlanUpdate(s.spec, n, l).Replace)
	s.delete(replaced)
	s.owed += len(replaced)
	l.Owed, n = s.owed, s.l.Counts(poolP)
	s.leastIdle = min(s.leastIdle, n.Idle)
	plan := PlanCapacity(s.spec, n, l)
	s.delete(s.l.Retire(poolP, plan.Delete))
	for range plan.Create {
		s.create()
	}
	s.owed = max(0, s.owed-plan.Create)
	if plan.Create > 0 && len(s.pods) > int(s.spec.PoolMax) {
		s.t.Fatalf("%d pods with poolMax %d: %+v", len(s.pods), s.spec.PoolMax, s.l.Counts(poolP))
	}
}

// converge lets everything happen that is under way until nothing is.
func (s *poolSim) converge() {
	for range 1000 {
		before := s.creates + s.deletes
		s.reconcile()
		for _, name := range slices.Sorted(maps.Keys(s.going)) {
			s.gone(name)
		}
		s.allReady()
		if s.creates+s.deletes == before && len(s.going) == 0 {
			s.reconcile()
			if s.creates+s.deletes == before {
				return
			}
		}
	}
	s.t.Fatalf("still creates or deletes: %+v in %+v", s.l.Counts(poolP), s.spec)
}

func TestUpdateTakesOneDeleteAndOneCreatePerPod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := noLimits
		l.MaxReplace = rapid.IntRange(1, 4).Draw(t, "budget")
		bufferMin := rapid.Int32Range(0, 6).Draw(t, "bufferMin")
		poolMax := rapid.Int32Range(6, 9).Draw(t, "poolMax") // 6: a replacement waits until its pod is gone
		const idle = 6
		s := newPoolSim(t, spec(bufferMin, idle, 0, poolMax), l, idle)
		s.revision++
		s.l.ObservePool(poolP, s.hash())
		if broken := rapid.Bool().Draw(t, "the new template is broken"); broken {
			for range 50 {
				s.reconcile()
				for _, name := range slices.Sorted(maps.Keys(s.going)) {
					s.gone(name)
				}
			}
			if s.creates > l.MaxReplace || s.deletes > l.MaxReplace || s.leastIdle < idle-l.MaxReplace {
				t.Fatalf("%d creates, %d deletes and %d idle for a broken template, budget %d", s.creates, s.deletes, s.leastIdle,
					l.MaxReplace)
			}
			return
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			s.reconcile()
			s.clusterStep()
		}
		s.converge()
		if s.creates != idle || s.deletes != idle {
			t.Fatalf("%d creates and %d deletes, want %d of each", s.creates, s.deletes, idle)
		}
		if s.leastIdle < idle-l.MaxReplace {
			t.Fatalf("only %d idle at some time, budget %d of %d", s.leastIdle, l.MaxReplace, idle)
		}
		if diff := cmp.Diff(Counts{Idle: idle, Updated: idle}, s.l.Counts(poolP)); diff != "" {
			t.Fatalf("counts at the end (-want +got):\n%s", diff)
		}
	})
}

// clusterStep makes one pod Ready or lets one go.
func (s *poolSim) clusterStep() {
	if names := s.starting(); len(names) > 0 && rapid.Bool().Draw(s.t, "ready") {
		s.ready(rapid.SampledFrom(names).Draw(s.t, "pod that becomes ready"))
		return
	}
	if names := slices.Sorted(maps.Keys(s.going)); len(names) > 0 {
		s.gone(rapid.SampledFrom(names).Draw(s.t, "pod that goes"))
	}
}

// batchStep gives a batch a pod, or takes one away from a batch as Noop does.
func (s *poolSim) batchStep() {
	if names := slices.Sorted(maps.Keys(s.held)); len(names) > 0 && rapid.Bool().Draw(s.t, "release") {
		name := rapid.SampledFrom(names).Draw(s.t, "batch that ends")
		delete(s.held, name)
		s.l.ReleaseAll(key(name))
		return
	}
	s.names++
	name := fmt.Sprintf("b-%04d", s.names)
	fresh := s.l.Counts(poolP).Idle - s.l.Counts(poolP).StaleIdle
	res := s.l.Assume(demand(name, s.names, 0))
	if len(res.Grants) == 0 {
		s.l.ReleaseAll(key(name)) // it doesn't wait
		return
	}
	if fresh > 0 && res.Grants[0].Pod.Revision != s.hash() {
		s.t.Fatalf("batch got %+v though %d pods of %s are idle", res.Grants[0].Pod, fresh, s.hash())
	}
	s.l.Confirm(key(name))
	s.held[name] = res.Grants[0].Pod.Name
}

func TestUpdateConvergesWhileBatchesComeAndGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := noLimits
		l.MaxReplace = rapid.IntRange(1, 4).Draw(t, "budget")
		if rapid.Bool().Draw(t, "few may start at once") {
			l.MaxStarting = rapid.IntRange(1, 3).Draw(t, "maxStarting")
		}
		c := drawSpec(t)
		s := newPoolSim(t, c, l, min(8, int(c.PoolMax)))
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what happens") {
			case 0:
				s.revision++
				s.l.ObservePool(poolP, s.hash())
			case 1:
				s.owed = 0 // the controller starts anew
			case 2, 3:
				s.batchStep()
			case 4, 5, 6:
				s.clusterStep()
			default:
				s.reconcile()
			}
		}
		s.converge()
		n := s.l.Counts(poolP)
		if n.StaleIdle+n.StaleStarting > 0 {
			t.Fatalf("old pods are left: %+v in %+v", n, c)
		}
		if n.Buffer() < int(c.BufferMin) && n.Total() < int(c.PoolMax) {
			t.Fatalf("the buffer is too small: %+v in %+v", n, c)
		}
	})
}

func TestRetireStale(t *testing.T) {
	l, _ := newPool(3) // p-0, p-1, p-2 of r1
	pod := func(name, revision string, state PodState) Pod {
		p := readyPod(name)
		p.Revision, p.State = revision, state
		return p
	}
	l.ObservePod(poolP, pod("old-starting", "r1", PodStarting))
	l.ObservePod(poolP, pod("new-starting", "r2", PodStarting))
	l.ObservePod(poolP, pod("new", "r2", PodReady))
	l.ExpectPod(poolP, "unseen", "r1")
	l.Assume(demand("b", 0, 0)) // holds p-0
	l.ObservePool(poolP, "r2")

	want := Counts{Idle: 3, Starting: 3, Held: 1, Updated: 2, StaleIdle: 2, StaleStarting: 2}
	if diff := cmp.Diff(want, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	names := func(pods []Pod) (names []string) {
		for _, p := range pods {
			names = append(names, p.Name)
		}
		return names
	}
	if diff := cmp.Diff([]string{"old-starting", "p-2"}, names(l.RetireStale(poolP, 2))); diff != "" {
		t.Errorf("first two (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"p-1"}, names(l.RetireStale(poolP, 5))); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	want = Counts{Idle: 1, Starting: 2, Held: 1, Terminating: 3, Updated: 2, StaleStarting: 1}
	if diff := cmp.Diff(want, l.Counts(poolP)); diff != "" {
		t.Errorf("counts at the end (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"unseen", "new-starting", "new"}, names(l.Retire(poolP, 5))); diff != "" {
		t.Errorf("Retire (-want +got):\n%s", diff)
	}
}
