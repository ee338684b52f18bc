// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Waker is told, outside of the ledger's lock, who should look again.
type Waker interface {
	// WakeBatch: pods of this batch changed, or it is at the head of its queue and pods are idle.
	WakeBatch(batch types.NamespacedName)

	// WakePool: the counts of this pool changed.
	WakePool(pool types.NamespacedName)
}

// Counts are the pods of a pool by what they are doing, and what batches wait for.
type Counts struct {
	// Idle pods are Ready, unheld and may be handed out.
	Idle int
	// Starting pods are unheld and not Ready yet, those being created or recycled included.
	Starting int
	// Held pods belong to a batch.
	Held int
	// Unusable pods are unheld and must not be handed out, the stranded ones included.
	Unusable int
	// Cordoned and Away are the stranded pods: those that nothing is wrong with but their node, which is cordoned, or not
	// Ready. They are given back when the node is fit again.
	Cordoned, Away int
	// Terminating pods are unheld and being deleted.
	Terminating int
	// Stuck are those of them whose node is not Ready: they don't go before it is, or is gone.
	Stuck int
	// Waiting is the number of sandboxes in the queue.
	Waiting int
	// Updated pods have the pool's current revision and believe no other root, whoever holds them, and are not terminating.
	Updated int
	// StaleIdle and StaleStarting are those of Idle and Starting that are not Updated. OtherRoot of both have the current
	// revision: their root alone is another.
	StaleIdle, StaleStarting, OtherRoot int
}

// Total is the size of the pool: all but the terminating pods.
func (c Counts) Total() int { return c.Idle + c.Starting + c.Held + c.Unusable }

// Stranded is the number of unheld pods that nothing is wrong with but their node.
func (c Counts) Stranded() int { return c.Cordoned + c.Away }

// Holding is one index of a batch.
type Holding struct {
	// PodName is the pod of this index, "" for none.
	PodName string

	// Pod is what is known of the pod; nil if the pod is gone or belongs to another batch.
	Pod *Pod

	// Loss says what was known of a pod that is gone: Pod.Loss at its end.
	Loss string
}

// Grant is a pod assumed for an index of a batch.
type Grant struct {
	Index int
	Pod   Pod
}

// Result is the answer to a demand.
type Result struct {
	// Grants are the pods handed over now; they are assumed until Confirm or Settle.
	Grants []Grant

	// Place is what the batch's status has to tell of the queue if something is still missing; else zero. It is the
	// place the batch has, or the one that its status tells while that is close enough.
	Place
}

// Ledger is the index in memory of who holds which pod. It is safe for concurrent use and can be rebuilt from
// the API server at any time. Every method takes constant time per pod it touches,
// whatever the pool's size; for a pod that is starting without trouble it is the logarithm of the number of these.
type Ledger struct {
	waker Waker

	mu      sync.Mutex
	pools   map[types.NamespacedName]*pool
	batches map[types.NamespacedName]*batch
	nodes   map[string]*node // those that have pods of pools, and those that are not fit
	// moved are the pools whose queue changed since TellPlaces looked at it, each once and in that order.
	moved      []types.NamespacedName
	queueMoves chan struct{}
	// removed has the pods that went while the ledger was being rebuilt, so that a list read earlier can't bring
	// them back; nil afterwards.
	removed map[types.UID]struct{}
}

type pool struct {
	name            types.NamespacedName
	revision        string
	root            string // that new pods' executors believe, "" for none
	pods            map[string]*entry
	counts          [numClasses]int
	updated         int
	startingUpdated int        // of the starting pods, those that are updated
	otherRoot       int        // of the idle and starting pods of the current revision, those that believe another root
	idle            *list.List // of *entry, current revision and root
	rootless        *list.List // of *entry, current revision and no root, where the controller has one
	stale           *list.List // of *entry, other revisions and roots
	queue           *queue
	moved           bool              // it stands in the ledger's list of moved queues
	holders         map[string]holder // by pod name, also of pods not seen yet
	recycling       map[string]*entry // unheld pods that carry the mark
	starting        classSet
	unusable        classSet
	starts          startIndex
	claimed         int             // pods handed out so far
	started         int             // times a pod of the current revision became Ready
	startTimes      []time.Duration // of the pods made last, the oldest first
	batches         int             // batches that refer to this pool
	released        Released        // since they were last taken
}

type holder struct {
	batch types.NamespacedName
	index int
	loss  string // what was known of the pod when it went
}

type batch struct {
	uid     types.UID
	pool    *pool
	pods    []string // by index
	assumed map[int]bool
	// asked is the demand for which pods are assumed; nil once they are confirmed or settled.
	asked *Demand
}

// class is how a pod counts.
type class int

const (
	classNone class = iota - 1
	classIdle
	classStarting
	classHeld
	classUnusable
	classCordoned
	classAway
	classTerminating
	classStuck
	numClasses
)

type entry struct {
	pod     Pod
	class   class
	retired bool // the pool is deleting it
	dirty   bool // a batch lost it without recycling
	fresh   bool // this process made it, and it was not Ready yet
	start   startPlace
	elem    *list.Element
	in      *list.List
	on      *node     // where it is bound to, nil for nowhere
	landed  NodeState // what its node was when it was bound to it
}

// NewLedger returns an empty ledger that tells w of changes.
func NewLedger(w Waker) *Ledger {
	return &Ledger{
		waker:      w,
		pools:      map[types.NamespacedName]*pool{},
		batches:    map[types.NamespacedName]*batch{},
		nodes:      map[string]*node{},
		queueMoves: make(chan struct{}, 1),
	}
}

// Rebuild says that the API server is about to be read: what goes from now on stays gone, whatever a list says.
func (l *Ledger) Rebuild() {
	l.locked(func(_ *wakes) { l.removed = map[types.UID]struct{}{} })
}

// Rebuilt says that the ledger has been told all that the API server knows.
func (l *Ledger) Rebuilt() {
	l.locked(func(_ *wakes) { l.removed = nil })
}

// wakes collects who to wake while the lock is held.
type wakes struct {
	batches []types.NamespacedName
	pools   []types.NamespacedName
}

func (w *wakes) batch(b types.NamespacedName) {
	if !slices.Contains(w.batches, b) {
		w.batches = append(w.batches, b)
	}
}

func (w *wakes) pool(p types.NamespacedName) {
	if !slices.Contains(w.pools, p) {
		w.pools = append(w.pools, p)
	}
}

// locked runs f under the lock and then wakes whom it named.
func (l *Ledger) locked(f func(w *wakes)) {
	var w wakes
	func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		f(&w)
	}()
	for _, b := range w.batches {
		l.waker.WakeBatch(b)
	}
	for _, p := range w.pools {
		l.waker.WakePool(p)
	}
}

func (l *Ledger) pool(name types.NamespacedName) *pool {
	p, ok := l.pools[name]
	if !ok {
		p = &pool{
			name: name, pods: map[string]*entry{}, idle: list.New(), rootless: list.New(), stale: list.New(),
			queue: newQueue(), holders: map[string]holder{},
		}
		l.pools[name] = p
	}
	return p
}

// forgetEmpty drops a pool of which nothing is known any more.
func (l *Ledger) forgetEmpty(p *pool) {
	if len(p.pods) == 0 && p.batches == 0 && p.released == (Released{}) && l.pools[p.name] == p {
		delete(l.pools, p.name)
	}
}

// --- pods -------------------------------------------------------------------------------------------------

// ObservePod takes over what is known of a pod, unless the ledger knows something newer.
func (l *Ledger) ObservePod(poolName types.NamespacedName, pod Pod) {
	l.locked(func(w *wakes) {
		if _, gone := l.removed[pod.UID]; gone {
			return
		}
		p := l.pool(poolName)
		e, ok := p.pods[pod.Name]
		if !ok {
			e = &entry{class: classNone}
			p.pods[pod.Name] = e
		}
		if ok && e.pod.UID == pod.UID && OlderVersion(pod.ResourceVersion, e.pod.ResourceVersion) {
			return
		}
		before := e.pod
		p.count(e, -1)
		e.take(pod)
		l.bind(p, e, before)
		changed := worthALook(p.refile(e), before, pod)
		p.count(e, 1)
		p.noteStart(e, before)
		if h, held := p.holders[pod.Name]; held && isNewsTo(h.batch.Name, before, pod) {
			w.batch(h.batch)
		}
		if changed {
			w.pool(p.name)
			p.wakeHead(w)
		}
		if e.class == classStarting && e.pod.Failure != before.Failure {
			w.pool(p.name)
		}
	})
}

// take takes over news of the pod, or of another one of its name.
func (e *entry) take(pod Pod) {
	if e.pod.UID != pod.UID {
		e.retired, e.dirty = false, false
		e.fresh = e.fresh && e.pod.UID == "" // the pod that was expected
	} else {
		pod.Failure = steady(e.pod, pod)
	}
	e.pod = pod
}

// RefreshPod takes over the answer to a write of a pod, unless the ledger has forgotten the pod meanwhile.
func (l *Ledger) RefreshPod(poolName types.NamespacedName, pod *corev1.Pod) {
	l.mu.Lock()
	p, known := l.pools[poolName]
	if known {
		_, known = p.pods[pod.Name]
	}
	l.mu.Unlock()
	if known {
		l.ObservePod(poolName, PodOf(pod))
	}
}

// isNewsTo says whether the batch that holds the pod has something to report or to repair. A pod that now carries its label is
// as it should be.
func isNewsTo(holder string, a, b Pod) bool {
	return a.UID != b.UID || a.State != b.State || a.Ready != b.Ready || a.IP != b.IP || a.Node != b.Node || a.Ended != b.Ended ||
		(a.BatchLabel != b.BatchLabel && b.BatchLabel != holder) || a.Restarts != b.Restarts
}

// ExpectPod counts a pod as starting before its create is sent, so that a lost reply can't make a second one.
func (l *Ledger) ExpectPod(poolName types.NamespacedName, name, revision string) {
	l.ObservePod(poolName, Pod{Name: name, Revision: revision, State: PodStarting})
	l.locked(func(_ *wakes) {
		if e, ok := l.pool(poolName).pods[name]; ok && e.pod.UID == "" {
			e.fresh = true
		}
	})
}

// Unexpect takes back what ExpectPod counted, unless a watch has shown the pod meanwhile.
func (l *Ledger) Unexpect(poolName types.NamespacedName, name string) {
	l.mu.Lock()
	p, known := l.pools[poolName]
	unseen := known && p.pods[name] != nil && p.pods[name].pod.UID == ""
	l.mu.Unlock()
	if unseen {
		l.RemovePod(poolName, name, "")
	}
}

// RemovePod forgets a pod that is gone. With a UID, only the pod of that UID.
func (l *Ledger) RemovePod(poolName types.NamespacedName, name string, uid types.UID) {
	l.locked(func(w *wakes) {
		if l.removed != nil && uid != "" {
			l.removed[uid] = struct{}{}
		}
		p := l.pool(poolName)
		defer l.forgetEmpty(p)
		e, ok := p.pods[name]
		if !ok || (uid != "" && e.pod.UID != "" && e.pod.UID != uid) {
			return
		}
		p.unlist(e)
		p.count(e, -1)
		l.unbind(e)
		delete(p.pods, name)
		delete(p.recycling, name)
		delete(p.starting, name)
		delete(p.unusable, name)
		p.forgetStarting(e)
		if h, held := p.holders[name]; held {
			h.loss = e.pod.Loss
			p.holders[name] = h
			w.batch(h.batch)
		}
		w.pool(p.name)
	})
}

// ObservePool takes over the current revision of a pool's template: pods that have it are handed out first.
func (l *Ledger) ObservePool(name types.NamespacedName, revision string) {
	l.locked(func(_ *wakes) {
		p := l.pool(name)
		if p.revision == revision {
			return
		}
		p.revision = revision
		p.compare()
	})
}

// ForgetPool drops what is known of a pool that is gone, once no pod and no batch refers to it.
func (l *Ledger) ForgetPool(name types.NamespacedName) {
	l.locked(func(_ *wakes) {
		if p, ok := l.pools[name]; ok {
			p.released = Released{}
			l.forgetEmpty(p)
		}
	})
}

// relist puts every idle pod into the list its revision belongs to, in order of names.
func (p *pool) relist() {
	var idle []*entry
	for _, e := range p.pods {
		if e.class == classIdle {
			idle = append(idle, e)
		}
	}
	slices.SortFunc(idle, func(a, b *entry) int { return strings.Compare(a.pod.Name, b.pod.Name) })
	for _, e := range idle {
		p.unlist(e)
	}
	for _, e := range idle {
		p.enlist(e)
	}
}

// count adds a pod to the counts it belongs to, or takes it out.
func (p *pool) count(e *entry, by int) {
	if e.class == classNone {
		return
	}
	p.counts[e.class] += by
	p.countUpdated(e, by)
}

// classOf is the truth table of what a pod counts as; its node is what it was not yet when the pod was bound to it:
//
//	| held | retired or terminating | unusable, dirty or left behind | its node          | Ready | class       |
//	| yes  | -                      | -                              | -                 | -     | held        |
//	| no   | yes                    | -                              | not ready or lost | -     | stuck       |
//	| no   | yes                    | -                              | other             | -     | terminating |
//	| no   | no                     | yes                            | -                 | -     | unusable    |
//	| no   | no                     | no                             | not ready or lost | -     | away        |
//	| no   | no                     | no                             | cordoned          | -     | cordoned    |
//	| no   | no                     | no                             | fit               | yes   | idle        |
//	| no   | no                     | no                             | fit               | no    | starting    |
func (p *pool) classOf(e *entry) class {
	_, held := p.holders[e.pod.Name]
	node := e.nodeState()
	switch {
	case held:
		return classHeld
	case e.retired || e.pod.State == PodTerminating:
		if node >= NodeNotReady {
			return classStuck
		}
		return classTerminating
	case e.dirty, e.pod.State == PodUnusable, e.pod.BatchLabel != "":
		return classUnusable
	case node >= NodeNotReady:
		return classAway
	case node == NodeCordoned:
		return classCordoned
	case e.pod.State == PodReady:
		return classIdle
	default:
		return classStarting
	}
}

// classify counts a pod as what it is now.
func (p *pool) classify(e *entry) {
	p.count(e, -1)
	p.refile(e)
	p.count(e, 1)
}

// refile gives a pod its class and its place among the idle ones, and says whether its class changed. The caller keeps the
// counts.
func (p *pool) refile(e *entry) (changed bool) {
	now := p.classOf(e)
	changed = now != e.class
	e.class = now
	p.noteRecycling(e)
	p.noteStarting(e)
	if changed {
		p.starting.keep(e, now == classStarting)
		p.unusable.keep(e, now == classUnusable)
	}
	if e.in != p.listOf(e) {
		p.unlist(e)
		p.enlist(e)
	}
	return changed
}

// listOf is the list an entry belongs into, nil for none.
func (p *pool) listOf(e *entry) *list.List {
	switch {
	case e.class != classIdle:
		return nil
	case !p.isUpdated(e.pod):
		return p.stale
	case e.pod.Root != p.root:
		return p.rootless
	default:
		return p.idle
	}
}

func (p *pool) enlist(e *entry) {
	if e.in = p.listOf(e); e.in != nil {
		e.elem = e.in.PushBack(e)
	}
}

func (p *pool) unlist(e *entry) {
	if e.elem != nil {
		e.in.Remove(e.elem)
		e.elem, e.in = nil, nil
	}
}

// nextIdle is the pod to hand out next: of the current revision and root first, of no root next, then the one idle longest.
func (p *pool) nextIdle() *entry {
	for _, l := range []*list.List{p.idle, p.rootless, p.stale} {
		if front := l.Front(); front != nil {
			return front.Value.(*entry) //nolint:forcetypeassert // only entries are put into these lists
		}
	}
	return nil
}

func (p *pool) wakeHead(w *wakes) {
	if head := p.queue.head(); head != nil && p.counts[classIdle] > 0 {
		w.batch(head.Batch)
	}
}

// --- batches ----------------------------------------------------------------------------------------------

// Assume hands idle pods to a batch that is at the head of its pool's queue, or puts it into the queue. The
// demand replaces an earlier one of the same batch; one that misses nothing leaves the queue.
func (l *Ledger) Assume(d Demand) Result {
	var res Result
	l.locked(func(w *wakes) {
		p := l.pool(types.NamespacedName{Namespace: d.Batch.Namespace, Name: d.Pool})
		defer l.forgetEmpty(p)
		if len(d.Missing) == 0 {
			l.leaveQueue(p, d.Batch, w)
			return
		}
		b := l.batch(d.Batch, d.UID, p, w)
		waiting, led := p.queue.waiting, p.queue.headedBy(d.Batch)
		demand, old := l.enqueue(p, d)
		if p.queue.head() == demand {
			res.Grants = b.grant(demand)
		}
		if len(res.Grants) > 0 {
			l.queueMoved(p)
		}
		if len(res.Grants) > 0 || p.queue.waiting != waiting {
			w.pool(p.name)
		}
		switch {
		case len(demand.Missing) == 0:
			p.wakeHead(w)
		case led && p.queue.head() != demand:
			p.wakeHead(w) // the batch went back, and pods it collected may suit the new head
		}
		res.Place = l.tell(p, demand, demand.isNews(old) || len(res.Grants) > 0)
	})
	return res
}

// grant takes as many idle pods as the demand misses and minAvailable permits.
func (b *batch) grant(d *Demand) []Grant {
	p := b.pool
	n := min(len(d.Missing), p.counts[classIdle])
	if d.Held+n < min(d.MinAvailable, d.Held+len(d.Missing)) {
		return nil
	}
	if n > 0 {
		asked := *d
		b.asked = &asked
	}
	grants := make([]Grant, 0, n)
	for _, index := range p.queue.take(d, n) {
		e := p.nextIdle()
		b.hold(d.Batch, index, e.pod.Name)
		b.assumed[index] = true
		p.classify(e)
		p.claimed++
		grants = append(grants, Grant{Index: index, Pod: e.pod})
	}
	return grants
}

func (b *batch) hold(name types.NamespacedName, index int, pod string) {
	for len(b.pods) <= index {
		b.pods = append(b.pods, "")
	}
	if b.pods[index] != "" {
		b.unhold(index, true) // a lost pod, replaced
	}
	b.pods[index] = pod
	b.pool.holders[pod] = holder{batch: name, index: index}
}

// batch returns what is known of a batch; another batch that had the name before is dropped.
func (l *Ledger) batch(name types.NamespacedName, uid types.UID, p *pool, w *wakes) *batch {
	b, ok := l.batches[name]
	if ok && b.uid == uid && b.pool == p {
		return b
	}
	p.batches++ // before the last one is dropped, so that the pool is not forgotten with it
	if ok {
		l.dropBatch(name, w)
	}
	b = &batch{uid: uid, pool: p, assumed: map[int]bool{}}
	l.batches[name] = b
	return b
}

// Confirm says that the allocations of a batch are written.
func (l *Ledger) Confirm(name types.NamespacedName) {
	l.locked(func(_ *wakes) {
		if b, ok := l.batches[name]; ok {
			clear(b.assumed)
			b.asked = nil
		}
	})
}

// Settlement is what Settle is told: the truth about a batch as the API server has it.
type Settlement struct {
	Batch types.NamespacedName
	UID   types.UID
	Pool  string
	Pods  []string // by index, "" for none

	// Conflicted: the API server refused the allocation since the batch had changed meanwhile. The batch asks again in a
	// moment, and until then the queue keeps its place.
	Conflicted bool
}

// Settle makes the ledger hold for a batch exactly what its alloc-status says. Pods that were only assumed are
// idle again. Pods that were confirmed and are named no more are dirty: the pool deletes them. A pod that another
// batch holds stays with it; Settle returns those names, and the batch holds "" there.
func (l *Ledger) Settle(s Settlement) (doubled []string) {
	l.locked(func(w *wakes) {
		p := l.pool(types.NamespacedName{Namespace: s.Batch.Namespace, Name: s.Pool})
		defer l.forgetEmpty(p)
		b := l.batch(s.Batch, s.UID, p, w)
		b.dropAllBut(s.Pods)
		doubled = b.adopt(s.Batch, s.Pods)
		clear(b.assumed)
		if s.Conflicted {
			l.askAgain(b)
		}
		b.asked = nil
		w.pool(p.name)
		if !s.Conflicted || !p.queue.headedBy(s.Batch) { // else it comes by itself, and its cache may be behind until then
			p.wakeHead(w)
		}
	})
	return doubled
}

// askAgain puts what the batch was given, and does not hold, back into the queue.
func (l *Ledger) askAgain(b *batch) {
	if b.asked == nil {
		return
	}
	d := *b.asked
	d.Missing = slices.DeleteFunc(slices.Clone(d.Missing), func(index int) bool { return index < len(b.pods) && b.pods[index] != "" })
	if len(d.Missing) > 0 {
		demand, _ := l.enqueue(b.pool, d)
		l.tell(b.pool, demand, false) // what the status tells may not be the place it has now
	}
}

// dropAllBut takes away what the list doesn't name at the same index.
func (b *batch) dropAllBut(pods []string) {
	for index, name := range b.pods {
		if name != "" && (index >= len(pods) || pods[index] != name) {
			b.unhold(index, !b.assumed[index])
		}
	}
}

// adopt holds what the list names, and returns the pods that other batches hold.
func (b *batch) adopt(name types.NamespacedName, pods []string) (doubled []string) {
	for index, pod := range pods {
		if pod == "" || (index < len(b.pods) && b.pods[index] == pod) {
			continue
		}
		if _, taken := b.pool.holders[pod]; taken {
			doubled = append(doubled, pod)
			continue
		}
		b.hold(name, index, pod)
		if e, ok := b.pool.pods[pod]; ok {
			b.pool.classify(e)
		}
	}
	return doubled
}

// unhold takes the pod of an index away from the batch.
func (b *batch) unhold(index int, dirty bool) {
	name := b.pods[index]
	b.pods[index] = ""
	delete(b.assumed, index)
	delete(b.pool.holders, name)
	if e, ok := b.pool.pods[name]; ok {
		e.dirty = e.dirty || dirty
		b.pool.classify(e)
	}
}

// Release takes the pods of these indexes away from the batch, after the write that says so has landed. The pods
// are what they are: idle if nothing marks them as dirty.
func (l *Ledger) Release(name types.NamespacedName, indexes []int) {
	l.locked(func(w *wakes) {
		b, ok := l.batches[name]
		if !ok {
			return
		}
		released := false
		for _, index := range indexes {
			if index < len(b.pods) && b.pods[index] != "" {
				b.giveBack(index)
				released = true
			}
		}
		if released {
			w.pool(b.pool.name)
			b.pool.wakeHead(w)
		}
	})
}

// ReleaseAll releases every pod of a batch whose finalizer is gone, and forgets the batch.
func (l *Ledger) ReleaseAll(name types.NamespacedName) {
	l.locked(func(w *wakes) {
		b, ok := l.batches[name]
		if !ok {
			return
		}
		for index, pod := range b.pods {
			if pod != "" {
				b.giveBack(index)
			}
		}
		l.dropBatch(name, w)
	})
}

// BatchGone forgets a batch that vanished. Pods it still held were not recycled, and are dirty.
func (l *Ledger) BatchGone(name types.NamespacedName) {
	l.locked(func(w *wakes) { l.dropBatch(name, w) })
}

func (l *Ledger) dropBatch(name types.NamespacedName, w *wakes) {
	b, ok := l.batches[name]
	if !ok {
		return
	}
	for index, pod := range b.pods {
		if pod != "" {
			b.unhold(index, !b.assumed[index])
		}
	}
	if b.pool.queue.remove(name) {
		l.queueMoved(b.pool)
	}
	b.pool.batches--
	delete(l.batches, name)
	w.pool(b.pool.name)
	b.pool.wakeHead(w)
	l.forgetEmpty(b.pool)
}

// LeaveQueue takes a batch out of its pool's queue, if it is in it.
func (l *Ledger) LeaveQueue(name types.NamespacedName) {
	l.locked(func(w *wakes) {
		if b, ok := l.batches[name]; ok {
			l.leaveQueue(b.pool, name, w)
		}
	})
}

// Holdings returns what a batch of this UID holds, by index.
func (l *Ledger) Holdings(name types.NamespacedName, uid types.UID) []Holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.batches[name]
	if !ok || b.uid != uid {
		return nil
	}
	holdings := make([]Holding, len(b.pods))
	for i, pod := range b.pods {
		holdings[i].PodName = pod
		if e, known := b.pool.pods[pod]; known {
			facts := e.facts()
			holdings[i].Pod = &facts
		} else if h, held := b.pool.holders[pod]; held {
			holdings[i].Loss = h.loss
		}
	}
	return holdings
}

// --- pools ------------------------------------------------------------------------------------------------

// Counts returns the counts of a pool.
func (l *Ledger) Counts(name types.NamespacedName) Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return Counts{}
	}
	return Counts{
		Idle:        p.counts[classIdle],
		Starting:    p.counts[classStarting],
		Held:        p.counts[classHeld],
		Unusable:    p.counts[classUnusable] + p.counts[classCordoned] + p.counts[classAway],
		Cordoned:    p.counts[classCordoned],
		Away:        p.counts[classAway],
		Terminating: p.counts[classTerminating] + p.counts[classStuck],
		Stuck:       p.counts[classStuck],
		Waiting:     p.queue.waiting,
		Updated:     p.updated,

		StaleIdle:     p.stale.Len(),
		StaleStarting: p.counts[classStarting] - p.startingUpdated,
		OtherRoot:     p.otherRoot,
	}
}

// Retire picks n unheld pods for deletion and counts them as terminating, so that no batch is given one of them:
// starting ones first, those of an old revision or another root before others, then idle ones of these, then those of no
// root, then the one that became idle last. It returns fewer if there are fewer.
func (l *Ledger) Retire(name types.NamespacedName, n int) []Pod {
	return l.retire(name, n, func(p *pool) []*entry {
		chosen := p.startingPods(func(*entry) bool { return true })
		for _, idle := range []*list.List{p.stale, p.rootless, p.idle} {
			chosen = append(chosen, youngestFirst(idle, n-len(chosen))...)
		}
		return chosen
	})
}

// RetireStale is Retire for unheld pods of an old revision or another root alone: starting ones first, then the one that became idle last.
// Pods that no watch has shown yet are left for later, since they can't be deleted.
func (l *Ledger) RetireStale(name types.NamespacedName, n int) []Pod {
	return l.retire(name, n, func(p *pool) []*entry {
		starting := p.startingPods(func(e *entry) bool { return !p.isUpdated(e.pod) && e.pod.UID != "" })
		return append(starting, youngestFirst(p.stale, n-len(starting))...)
	})
}

// startingPods are the starting pods that are wanted, those of an old revision or another root first, then by name.
func (p *pool) startingPods(wanted func(*entry) bool) []*entry {
	var starting []*entry
	for _, e := range p.starting.byName() {
		if wanted(e) {
			starting = append(starting, e)
		}
	}
	slices.SortStableFunc(starting, func(a, b *entry) int {
		switch updated := p.isUpdated(a.pod); {
		case updated == p.isUpdated(b.pod):
			return 0
		case !updated:
			return -1
		default:
			return 1
		}
	})
	return starting
}

// youngestFirst are at most n entries of a list of idle pods, from the one that became idle last.
func youngestFirst(l *list.List, n int) []*entry {
	n = max(0, min(n, l.Len()))
	entries := make([]*entry, 0, n)
	for elem := l.Back(); elem != nil && len(entries) < n; elem = elem.Prev() {
		entries = append(entries, elem.Value.(*entry)) //nolint:forcetypeassert // only entries are put into these lists
	}
	return entries
}

// RetireStranded is Retire for unheld pods that nothing is wrong with but their node: those on cordoned nodes first, since
// the deletion of others doesn't land, then by name.
func (l *Ledger) RetireStranded(name types.NamespacedName, n int) []Pod {
	return l.retire(name, n, func(p *pool) []*entry {
		var stranded []*entry
		for _, e := range p.pods {
			if e.class == classCordoned || e.class == classAway {
				stranded = append(stranded, e)
			}
		}
		slices.SortFunc(stranded, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.class, b.class), strings.Compare(a.pod.Name, b.pod.Name))
		})
		return stranded
	})
}

// RetireUnusable picks every unheld pod that must not be handed out for deletion, but for those that only their node keeps
// from it.
func (l *Ledger) RetireUnusable(name types.NamespacedName) []Pod {
	return l.retire(name, -1, func(p *pool) []*entry { return p.unusable.byName() })
}

// retire marks the first n of the candidates, all of them if n is negative.
func (l *Ledger) retire(name types.NamespacedName, n int, candidates func(*pool) []*entry) []Pod {
	var pods []Pod
	l.locked(func(_ *wakes) {
		p, ok := l.pools[name]
		if !ok || n == 0 {
			return
		}
		for _, e := range candidates(p) {
			if n >= 0 && len(pods) == n {
				return
			}
			e.retired = true
			p.classify(e)
			pods = append(pods, e.facts())
		}
	})
	return pods
}

// Discard marks a pod whose deletion has landed, held or not, so that it is never handed out while the news of it
// is on its way.
func (l *Ledger) Discard(name types.NamespacedName, pod string) {
	l.locked(func(_ *wakes) {
		if p, ok := l.pools[name]; ok {
			if e, ok := p.pods[pod]; ok {
				e.retired = true
				p.classify(e)
			}
		}
	})
}

// Unretire takes a pod back that the pool could not delete.
func (l *Ledger) Unretire(name types.NamespacedName, pod string) {
	l.locked(func(w *wakes) {
		p, ok := l.pools[name]
		if !ok {
			return
		}
		if e, ok := p.pods[pod]; ok && e.retired {
			e.retired = false
			p.classify(e)
			w.pool(p.name)
			p.wakeHead(w)
		}
	})
}
