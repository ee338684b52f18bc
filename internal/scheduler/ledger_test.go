// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

type recorder struct {
	batches, pools []string
}

func (r *recorder) WakeBatch(b types.NamespacedName) { r.batches = append(r.batches, b.Name) }
func (r *recorder) WakePool(p types.NamespacedName)  { r.pools = append(r.pools, p.Name) }

var poolP = key("p")

func key(name string) types.NamespacedName { return types.NamespacedName{Namespace: "ns", Name: name} }

func readyPod(name string) Pod {
	return Pod{Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1", IP: "10.0.0.1", State: PodReady, Revision: "r1"}
}

// newPool returns a ledger with n idle pods p-0, p-1, ... in pool p.
func newPool(n int) (*Ledger, *recorder) {
	rec := &recorder{}
	l := NewLedger(rec)
	l.ObservePool(poolP, "r1")
	for i := range n {
		l.ObservePod(poolP, readyPod(fmt.Sprintf("p-%d", i)))
	}
	*rec = recorder{}
	return l, rec
}

func demand(name string, age int, missing ...int) Demand {
	return Demand{
		Batch: key(name), UID: types.UID("uid-" + name), Pool: "p", Missing: missing,
		Created: time.Unix(1000-int64(age), 0),
	}
}

func granted(r Result) []string {
	var names []string
	for _, g := range r.Grants {
		names = append(names, fmt.Sprintf("%d:%s", g.Index, g.Pod.Name))
	}
	return names
}

func podNames(hs []Holding) []string {
	var names []string
	for _, h := range hs {
		names = append(names, h.PodName)
	}
	return names
}

func TestDemandTakesIdlePodsInTheOrderTheyBecameIdle(t *testing.T) {
	l, _ := newPool(3)
	got := l.Assume(demand("b", 0, 0, 1))
	if diff := cmp.Diff([]string{"0:p-0", "1:p-1"}, granted(got)); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	if got.Position != 0 || got.Waiting != 0 {
		t.Errorf("position %d, waiting %d, want 0, 0", got.Position, got.Waiting)
	}
	if diff := cmp.Diff(Counts{Idle: 1, Held: 2, Updated: 3}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestPodsOfTheCurrentRevisionGoFirst(t *testing.T) {
	l, _ := newPool(2)
	newer := readyPod("new")
	newer.Revision = "r2"
	l.ObservePod(poolP, newer)
	l.ObservePool(poolP, "r2")
	if diff := cmp.Diff([]string{"0:new", "1:p-0"}, granted(l.Assume(demand("b", 0, 0, 1)))); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	if got := l.Counts(poolP).Updated; got != 1 {
		t.Errorf("updated = %d, want 1", got)
	}
}

func TestNoNewcomerOvertakesTheQueue(t *testing.T) {
	l, rec := newPool(1)
	if got := l.Assume(demand("old", 10, 0, 1)); len(got.Grants) != 1 || got.Position != 1 {
		t.Fatalf("old: %+v, want 1 grant and position 1", got)
	}
	l.ObservePod(poolP, readyPod("p-9"))
	if got := l.Assume(demand("young", 5, 0)); len(got.Grants) != 0 || got.Position != 2 || got.Waiting != 2 {
		t.Fatalf("young: %+v, want nothing at position 2 of 2 waiting", got)
	}
	*rec = recorder{}
	got := l.Assume(demand("old", 10, 1))
	if diff := cmp.Diff([]string{"1:p-9"}, granted(got)); diff != "" {
		t.Errorf("old (-want +got):\n%s", diff)
	}
	l.ObservePod(poolP, readyPod("p-10"))
	if len(rec.batches) != 1 || rec.batches[0] != "young" {
		t.Errorf("woken %v, want young alone", rec.batches)
	}
}

func TestHigherPriorityIsServedFirst(t *testing.T) {
	l, _ := newPool(0)
	l.Assume(demand("old", 10, 0))
	urgent := demand("urgent", 1, 0)
	urgent.Priority = 5
	l.Assume(urgent)
	l.ObservePod(poolP, readyPod("p-0"))
	if got := l.Assume(demand("old", 10, 0)); len(got.Grants) != 0 || got.Position != 2 {
		t.Errorf("old: %+v, want nothing at position 2", got)
	}
	if got := l.Assume(urgent); len(got.Grants) != 1 {
		t.Errorf("urgent: %+v, want a pod", got)
	}
}

func TestGangWaitsUntilItIsWhole(t *testing.T) {
	l, _ := newPool(2)
	gang := demand("gang", 0, 0, 1, 2)
	gang.MinAvailable = 3
	if got := l.Assume(gang); len(got.Grants) != 0 || got.Position != 1 {
		t.Fatalf("gang: %+v, want nothing at position 1", got)
	}
	l.ObservePod(poolP, readyPod("p-2"))
	if got := l.Assume(gang); len(got.Grants) != 3 {
		t.Errorf("gang: %+v, want 3 pods", got)
	}
}

func TestSettleFreesWhatTheTruthDoesNotName(t *testing.T) {
	l, _ := newPool(3)
	l.Assume(demand("b", 0, 0, 1))
	l.Settle(Settlement{Batch: key("b"), UID: "uid-b", Pool: "p", Pods: []string{"p-0", ""}})
	if diff := cmp.Diff([]string{"p-0", ""}, podNames(l.Holdings(key("b"), "uid-b"))); diff != "" {
		t.Errorf("holdings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Counts{Idle: 2, Held: 1, Updated: 3}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestConfirmedPodThatTheTruthLostIsDirty(t *testing.T) {
	l, _ := newPool(2)
	l.Assume(demand("b", 0, 0, 1))
	l.Confirm(key("b"))
	l.Settle(Settlement{Batch: key("b"), UID: "uid-b", Pool: "p", Pods: []string{"p-0"}})
	if diff := cmp.Diff(Counts{Held: 1, Unusable: 1, Updated: 2}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if got := l.RetireUnusable(poolP); len(got) != 1 || got[0].Name != "p-1" {
		t.Errorf("retired %v, want p-1", got)
	}
}

func TestPodNamedByTwoBatchesStaysWithTheFirst(t *testing.T) {
	l, _ := newPool(1)
	l.Settle(Settlement{Batch: key("a"), UID: "uid-a", Pool: "p", Pods: []string{"p-0"}})
	doubled := l.Settle(Settlement{Batch: key("b"), UID: "uid-b", Pool: "p", Pods: []string{"p-0"}})
	if diff := cmp.Diff([]string{"p-0"}, doubled); diff != "" {
		t.Errorf("doubled (-want +got):\n%s", diff)
	}
	if got := l.Holdings(key("a"), "uid-a"); len(got) != 1 || got[0].PodName != "p-0" {
		t.Errorf("a holds %v, want p-0", got)
	}
}

func TestDiscardedPodIsNotIdleAfterRelease(t *testing.T) {
	l, _ := newPool(1)
	l.Assume(demand("b", 0, 0))
	l.Confirm(key("b"))
	l.Discard(poolP, "p-0")
	l.ReleaseAll(key("b"))
	if diff := cmp.Diff(Counts{Terminating: 1}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestReleasedPodWakesTheHead(t *testing.T) {
	l, rec := newPool(1)
	l.Assume(demand("a", 2, 0))
	l.Confirm(key("a"))
	l.Assume(demand("b", 1, 0))
	*rec = recorder{}
	l.ReleaseAll(key("a"))
	if len(rec.batches) != 1 || rec.batches[0] != "b" {
		t.Errorf("woken %v, want b", rec.batches)
	}
	if got := l.Assume(demand("b", 1, 0)); len(got.Grants) != 1 {
		t.Errorf("b: %+v, want the released pod", got)
	}
}

func TestPodWithALabelOfABatchThatDoesNotHoldItIsNeverIdle(t *testing.T) {
	l, _ := newPool(0)
	left := readyPod("left")
	left.BatchLabel = "b"
	l.ObservePod(poolP, left)
	if got := l.Counts(poolP); got.Idle != 0 || got.Unusable != 1 {
		t.Errorf("counts %+v, want 1 unusable", got)
	}
}

func TestTheLabelOfItsHolderIsNoNewsAndItsLossIs(t *testing.T) {
	l, rec := newPool(1)
	l.Assume(demand("b", 1, 0))
	l.Confirm(key("b"))
	pod := readyPod("p-0")
	for _, step := range []struct {
		label string
		want  []string
	}{{"b", nil}, {"", []string{"b"}}, {"b", nil}, {"another", []string{"b"}}} {
		*rec = recorder{}
		pod.BatchLabel = step.label
		l.ObservePod(poolP, pod)
		if diff := cmp.Diff(step.want, rec.batches); diff != "" {
			t.Errorf("woken by the label %q (-want +got):\n%s", step.label, diff)
		}
	}
}

func TestOldNewsIsIgnored(t *testing.T) {
	l, _ := newPool(0)
	pod := readyPod("p-0")
	pod.ResourceVersion = "10"
	l.ObservePod(poolP, pod)
	pod.ResourceVersion, pod.State = "9", PodStarting
	l.ObservePod(poolP, pod)
	if got := l.Counts(poolP); got.Idle != 1 {
		t.Errorf("counts %+v, want 1 idle", got)
	}
}

func TestAListReadBeforeADeletionDoesNotBringThePodBack(t *testing.T) {
	l, _ := newPool(1)
	l.Rebuild()
	gone := readyPod("p-0")
	l.RemovePod(poolP, "p-0", gone.UID)
	l.ObservePod(poolP, gone)
	if got := l.Counts(poolP).Total(); got != 0 {
		t.Errorf("total = %d, want 0", got)
	}
}

func TestRetiredPodsAreNotHandedOut(t *testing.T) {
	l, _ := newPool(2)
	if got := l.Retire(poolP, 1); len(got) != 1 || got[0].Name != "p-1" {
		t.Fatalf("retired %v, want p-1, the last to become idle", got)
	}
	if got := l.Assume(demand("b", 0, 0, 1)); len(got.Grants) != 1 || got.Grants[0].Pod.Name != "p-0" {
		t.Errorf("grants %v, want p-0", granted(got))
	}
	l.Unretire(poolP, "p-1")
	if got := l.Assume(demand("b", 0, 1)); len(got.Grants) != 1 {
		t.Errorf("grants %v, want p-1", granted(got))
	}
}

// TestLedgerKeepsItsWordInEveryHistory drives a ledger through random histories and checks after every step that
//   - its counts are those of its pods, and every pod has at most one holder,
//   - no batch got a pod while another waited further ahead, and no gang got a part,
//   - whoever waits at the head and could have pods was woken since it asked last,
//   - the queue is in order, waits for the sum of what is missing, and every place that is told wrongly will be told anew.
func TestLedgerKeepsItsWordInEveryHistory(t *testing.T) {
	for range 30 { // of 100 histories each
		rapid.Check(t, ledgerHistory)
	}
}

func FuzzLedger(f *testing.F) { f.Fuzz(rapid.MakeFuzz(ledgerHistory)) }

func ledgerHistory(t *rapid.T) {
	m := newModel(t)
	l := m.ledger
	podName := rapid.SampledFrom([]string{"p-0", "p-1", "p-2", "p-3", "p-4"})
	batch := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	version := 1
	t.Repeat(map[string]func(*rapid.T){
		"observe": func(t *rapid.T) {
			version++
			pod := readyPod(podName.Draw(t, "pod"))
			pod.ResourceVersion = fmt.Sprint(version)
			pod.State = rapid.SampledFrom([]PodState{PodStarting, PodReady, PodReady, PodUnusable, PodTerminating}).Draw(t, "state")
			pod.Revision = rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "revision")
			pod.Root = rapid.SampledFrom([]string{"", "root", "other"}).Draw(t, "root")
			pod.Node = rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")
			drawStart(t, &pod)
			l.ObservePod(poolP, pod)
		},
		"node": func(t *rapid.T) {
			l.ObserveNode(rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node"), NodeState(rapid.IntRange(0, int(NodeLost)).Draw(t, "state")))
		},
		"node gone":      func(t *rapid.T) { l.ForgetNode(rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")) },
		"retireStranded": func(*rapid.T) { l.RetireStranded(poolP, 1) },
		"remove":         func(t *rapid.T) { l.RemovePod(poolP, podName.Draw(t, "pod"), "") },
		"assume": func(t *rapid.T) {
			name := batch.Draw(t, "batch")
			missing := rapid.SampledFrom([][]int{{0}, {0, 1}, {1, 2}, {0, 1, 2}, nil}).Draw(t, "missing")
			d := demand(name, int(name[0])%3, missing...)
			d.Priority = int32(rapid.IntRange(0, 2).Draw(t, "priority"))
			d.MinAvailable = rapid.IntRange(0, 3).Draw(t, "minAvailable")
			m.assume(t, d)
			if rapid.Bool().Draw(t, "written") {
				l.Confirm(key(name))
			}
		},
		"woken": func(t *rapid.T) {
			if woken := slices.Sorted(maps.Keys(m.woken)); len(woken) > 0 {
				m.askAgain(t, rapid.SampledFrom(woken).Draw(t, "batch"))
			}
		},
		"confirm": func(t *rapid.T) { l.Confirm(key(batch.Draw(t, "batch"))) },
		"settle": func(t *rapid.T) {
			name := batch.Draw(t, "batch")
			l.Settle(Settlement{
				Batch: key(name), UID: types.UID("uid-" + name), Pool: "p", Conflicted: rapid.Bool().Draw(t, "conflicted"),
				Pods: rapid.SliceOfNDistinct(podName, 0, 3, rapid.ID[string]).Draw(t, "pods"),
			})
			m.woken[name] = true // whoever settles asks again
		},
		"release":  func(t *rapid.T) { l.ReleaseAll(key(batch.Draw(t, "batch"))) },
		"leave":    func(t *rapid.T) { l.LeaveQueue(key(batch.Draw(t, "batch"))) },
		"gone":     func(t *rapid.T) { l.BatchGone(key(batch.Draw(t, "batch"))) },
		"retire":   func(t *rapid.T) { l.Retire(poolP, 1) },
		"unretire": func(t *rapid.T) { l.Unretire(poolP, podName.Draw(t, "pod")) },
		"revision": func(t *rapid.T) { l.ObservePool(poolP, rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "revision")) },
		"root":     func(t *rapid.T) { l.ObserveRoot(poolP, rapid.SampledFrom([]string{"root", "other"}).Draw(t, "root")) },
		"tell":     func(t *rapid.T) { m.tell(t, rapid.IntRange(1, 3).Draw(t, "n")) },
		"rest":     m.rest,
		"": func(t *rapid.T) {
			mustBeConsistent(t, l)
			mustHaveNews(t, l, m)
		},
	})
}

// model is what the batches of a history know: what each asked for last and what its status tells, who was woken since.
type model struct {
	ledger *Ledger
	asked  map[string]Demand
	woken  map[string]bool
}

func (m *model) WakeBatch(b types.NamespacedName) { m.woken[b.Name] = true }
func (m *model) WakePool(types.NamespacedName)    {}

func newModel(t *rapid.T) *model {
	m := &model{asked: map[string]Demand{}, woken: map[string]bool{}}
	m.ledger = NewLedger(m)
	m.ledger.ObservePool(poolP, "r1")
	return m
}

// assume is a reconcile of a batch that asks for what it misses.
func (m *model) assume(t *rapid.T, d Demand) {
	name := d.Batch.Name
	ahead := m.ahead(d)
	idle := m.ledger.Counts(poolP).Idle
	delete(m.woken, name)
	d.Told = m.asked[name].Told
	res := m.ledger.Assume(d)
	if n := len(res.Grants); n > 0 {
		if len(ahead) > 0 {
			t.Fatalf("%s got %d pods, and overtook %v", name, n, ahead)
		}
		if n != min(idle, len(d.Missing)) || d.Held+n < min(d.MinAvailable, d.Held+len(d.Missing)) {
			t.Fatalf("%s got %d of %d idle pods; it misses %d and wants %d together", name, n, idle, len(d.Missing), d.MinAvailable)
		}
	}
	d.Missing = d.Missing[len(res.Grants):]
	d.Held += len(res.Grants)
	if d.Told = res.Place; rapid.IntRange(0, 9).Draw(t, "statusLost") == 9 {
		d.Told = m.asked[name].Told
		m.woken[name] = true // the reconcile failed and is tried again
	}
	m.asked[name] = d
}

// askAgain is a reconcile of a batch that changed nothing.
func (m *model) askAgain(t *rapid.T, name string) {
	delete(m.woken, name)
	p, known := m.ledger.pools[poolP]
	if known && p.queue.byBatch[key(name)] != nil {
		d := m.asked[name]
		d.Missing = slices.Clone(p.queue.byBatch[key(name)].Missing)
		m.assume(t, d)
	}
}

// ahead are the batches that wait for the same pool further ahead.
func (m *model) ahead(d Demand) []string {
	var names []string
	if p, ok := m.ledger.pools[poolP]; ok {
		for name, other := range p.queue.byBatch {
			if name != d.Batch && compareDemands(other, &d) < 0 {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// tell is one turn of what tells the places.
func (m *model) tell(t *rapid.T, n int) {
	select {
	case <-m.ledger.QueueMoves():
		m.ledger.TellPlaces(n)
	default:
	}
}

// rest lets all that was woken ask, until nobody is: then every place is told rightly.
func (m *model) rest(t *rapid.T) {
	for turn := 0; ; turn++ {
		if turn > 200 {
			t.Fatalf("the queue doesn't come to rest; woken %v", m.woken)
		}
		m.tell(t, 2)
		woken := slices.Sorted(maps.Keys(m.woken))
		if len(woken) == 0 {
			break
		}
		for _, name := range woken {
			m.askAgain(t, name)
			m.ledger.Confirm(key(name))
		}
	}
	p, ok := m.ledger.pools[poolP]
	if !ok {
		return
	}
	for i, d := range p.queue.demands {
		if want := (Place{i + 1, p.queue.waiting}); m.asked[d.Batch.Name].Told != want {
			t.Fatalf("at rest %s tells %+v, want %+v", d.Batch.Name, m.asked[d.Batch.Name].Told, want)
		}
	}
}

// mustHaveNews checks that nobody waits for an event that has passed.
func mustHaveNews(t *rapid.T, l *Ledger, m *model) {
	p, ok := l.pools[poolP]
	if !ok {
		return
	}
	for i, d := range p.queue.demands {
		if place := p.queue.place(d); place.Position != i+1 {
			t.Fatalf("%s stands at %d and is told %d", d.Batch.Name, i+1, place.Position)
		}
		if i > 0 && compareDemands(p.queue.demands[i-1], d) >= 0 {
			t.Fatalf("%s stands behind %s", d.Batch.Name, p.queue.demands[i-1].Batch.Name)
		}
		turnComes := p.moved && slices.Contains(l.moved, poolP) && len(l.queueMoves) > 0
		isWoken := d.due && m.woken[d.Batch.Name]
		if d.Told != p.queue.place(d) && !turnComes && !isWoken {
			t.Fatalf("%s tells %+v for ever, and has %+v", d.Batch.Name, d.Told, p.queue.place(d))
		}
	}
	head := p.queue.head()
	if head == nil || m.woken[head.Batch.Name] {
		return
	}
	if n := min(len(head.Missing), p.counts[classIdle]); n > 0 && head.Held+n >= min(head.MinAvailable, head.Held+len(head.Missing)) {
		t.Fatalf("%s waits at the head for %d, %d are idle, and nobody tells it", head.Batch.Name, len(head.Missing), p.counts[classIdle])
	}
}

func mustBeConsistent(t *rapid.T, l *Ledger) {
	mustKnowItsNodes(t, l)
	holders := map[string]string{}
	for name, b := range l.batches {
		for _, pod := range b.pods {
			if pod == "" {
				continue
			}
			if other, twice := holders[pod]; twice {
				t.Fatalf("pod %s is held by %s and %s", pod, other, name.Name)
			}
			holders[pod] = name.Name
		}
	}
	p, ok := l.pools[poolP]
	if !ok {
		return
	}
	if len(p.holders) != len(holders) {
		t.Fatalf("holders %v, want %v", p.holders, holders)
	}
	var want [numClasses]int
	updated, otherRoot := 0, 0
	for _, e := range p.pods {
		class := p.classOf(e)
		want[class]++
		switch {
		case class == classTerminating || class == classStuck:
		case p.isUpdated(e.pod):
			updated++
		case e.pod.Revision == p.revision && (class == classIdle || class == classStarting):
			otherRoot++
		}
	}
	if p.counts != want || p.updated != updated || p.otherRoot != otherRoot {
		t.Fatalf("counts %v, updated %d, of another root %d; want %v, %d, %d", p.counts, p.updated, p.otherRoot, want, updated, otherRoot)
	}
	for _, e := range p.pods {
		if e.in != p.listOf(e) {
			t.Fatalf("pod %s of class %d is in the wrong list", e.pod.Name, e.class)
		}
	}
	if listed := p.idle.Len() + p.rootless.Len() + p.stale.Len(); listed != want[classIdle] {
		t.Fatalf("%d pods in the idle lists, want %d", listed, want[classIdle])
	}
	mustIndexStartingPods(t, p)
	waiting := 0
	for _, d := range p.queue.demands {
		waiting += len(d.Missing)
	}
	if waiting != p.queue.waiting || len(p.queue.demands) != len(p.queue.byBatch) {
		t.Fatalf("waiting %d, want %d", p.queue.waiting, waiting)
	}
}
