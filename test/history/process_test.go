// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/controller/batchsandbox"
	"opensandbox.io/controller/internal/controller/pool"
	"opensandbox.io/controller/internal/scheduler"
)

type (
	labelSet         = labels.Set
	fieldRequirement = fields.Requirement
)

// item is an entry of a controller's queue.
type item struct {
	author author
	name   string
}

func (i item) String() string { return string(i.author) + " " + i.name }

func (i item) key() types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: i.name}
}

// task is a reconcile that runs, or the rebuild of the ledger.
type task struct {
	id int
	item
	process *process

	// began is where the server was when it began, and poolCursor where the cache of pools was.
	began      int64
	poolCursor int

	done   atomic.Bool
	result ctrl.Result
	err    error
}

func (t *task) String() string { return fmt.Sprintf("#%d (%s)", t.id, t.item) }

type taskKey struct{}

func taskOf(ctx context.Context) *task {
	t, ok := ctx.Value(taskKey{}).(*task)
	if !ok {
		panic("a call outside of any reconcile")
	}
	return t
}

// process is one run of the controller: it ends by being killed, and the next one knows nothing of it.
type process struct {
	world  *world
	number int
	dead   atomic.Bool
	ctx    context.Context
	cancel context.CancelFunc

	ledger  *scheduler.Ledger
	runner  *batchsandbox.Runner
	calls   *pool.Calls
	batches *batchsandbox.Reconciler
	pools   *pool.Reconciler
	ready   chan struct{}
	rebuilt bool
	cache   cache
	queue   queue
	tasks   []*task

	// background makes the calls of executors, outside of any reconcile.
	background *task
}

// cache is what the watches have brought so far.
type cache struct {
	objects [numKinds]map[string]client.Object
	cursor  [numKinds]int

	// unfit are the pods that the ledger was told not to hand out, by UID, with the number of tasks there were then.
	unfit map[types.UID]int
	// heard are the resourceVersions of the pods as this process knows them, by a watch or an answer.
	heard map[types.UID]string

	// unfed are the changes of pods that the cache has and the ledger hasn't been told of.
	unfed []change
}

// queue has the names to reconcile, as the work queues of both controllers do.
type queue struct {
	mu       sync.Mutex
	waiting  map[item]bool
	running  map[item]bool
	later    map[item]time.Time
	failures map[item]int
}

func (q *queue) add(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting[i] = true
}

func (q *queue) addAfter(i item, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(d)
	if before, ok := q.later[i]; !ok || at.Before(before) {
		q.later[i] = at
	}
}

// due are the items that may be reconciled now, in a fixed order.
func (q *queue) due() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, at := range q.later {
		if !time.Now().Before(at) {
			q.waiting[i] = true
			delete(q.later, i)
		}
	}
	var due []item
	for i := range q.waiting {
		if !q.running[i] {
			due = append(due, i)
		}
	}
	return sortItems(due)
}

func sortItems(items []item) []item {
	slices.SortFunc(items, func(a, b item) int { return cmp.Or(cmp.Compare(a.author, b.author), cmp.Compare(a.name, b.name)) })
	return items
}

// next is the time at which something is due; ok is false if nothing will be.
func (q *queue) next() (at time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.later {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

func (q *queue) start(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, i)
	q.running[i] = true
}

func (q *queue) finished(i item, res ctrl.Result, err error) {
	q.mu.Lock()
	delete(q.running, i)
	failures := 0
	if err != nil {
		failures = q.failures[i] + 1
		q.failures[i] = failures
	} else {
		delete(q.failures, i)
	}
	q.mu.Unlock()
	switch {
	case err != nil:
		q.addAfter(i, min(1000*time.Second, 5*time.Millisecond<<min(failures, 20)))
	case res.RequeueAfter > 0:
		q.addAfter(i, res.RequeueAfter)
	}
}

// WakeBatch and WakePool are the ledger's wake-ups.
func (p *process) WakeBatch(name types.NamespacedName) { p.queue.add(item{batchController, name.Name}) }
func (p *process) WakePool(name types.NamespacedName)  { p.queue.add(item{poolController, name.Name}) }

type noEvents struct{}

func (noEvents) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {} //nolint:revive // the client library wants as many arguments

type noRegistry struct{ prometheus.Registerer }

func (noRegistry) Register(prometheus.Collector) error  { return nil }
func (noRegistry) MustRegister(...prometheus.Collector) {}

// noRoot: the executors here take calls without tokens.
func noRoot() string { return "" }

// startProcess starts a controller whose caches show what before showed, and begins to rebuild its ledger.
func (w *world) startProcess(before *cache) *process {
	p := &process{world: w, ready: make(chan struct{})}
	if w.process != nil {
		p.number = w.process.number + 1
	}
	ctx := logf.IntoContext(context.Background(), logr.Discard())
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.queue = queue{waiting: map[item]bool{}, running: map[item]bool{}, later: map[item]time.Time{}, failures: map[item]int{}}
	p.ledger = scheduler.NewLedger(p)
	p.runner = batchsandbox.NewRunner(p.ctx, exactClock{}, p.WakeBatch, func(ip string, _ types.UID) batchsandbox.Executor { return executor{process: p, ip: ip} })
	p.background = &task{id: 1 << 40, item: item{"executors", ""}, process: p}
	p.calls = pool.NewCalls(p.ctx, p.WakePool, func(ip string, _ types.UID) pool.Executor { return executor{process: p, ip: ip} })
	api, reader := apiClient{process: p}, apiReader{process: p}
	var err error
	p.batches, err = batchsandbox.New(batchsandbox.Options{
		Client: api, APIReader: reader, Clock: clock.RealClock{}, Recorder: noEvents{}, Registry: noRegistry{}, Ledger: p.ledger,
		Runner: p.runner, Root: noRoot, Ready: p.ready, Leads: func() bool { return true },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	starts, err := pool.NewStarts(noRegistry{}, clock.RealClock{})
	if err != nil {
		w.t.Fatal(err)
	}
	p.pools, err = pool.New(pool.Options{
		Client: api, APIReader: reader, Clock: clock.RealClock{}, Recorder: noEvents{}, Registry: noRegistry{}, Starts: starts, Ledger: p.ledger, Ready: p.ready,
		Leads: func() bool { return true }, Calls: p.calls, Root: noRoot, Suffix: w.suffix,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.process = p
	p.cache.unfit, p.cache.heard = map[types.UID]int{}, map[types.UID]string{}
	go func() {
		if err := batchsandbox.NewPlaces(p.ledger, clock.RealClock{}).Start(p.ctx); err != nil {
			panic(err)
		}
	}()
	for k := range numKinds {
		p.cache.objects[k] = map[string]client.Object{}
		if before != nil {
			p.cache.cursor[k] = before.cursor[k]
			for _, obj := range sorted(before.objects[k]) {
				p.observe(k, change{after: obj})
			}
		}
	}
	for len(p.cache.unfed) > 0 {
		p.feed()
	}
	w.start(item{rebuilder, ""})
	return p
}

// observe brings one event of a watch to the cache and to those who wait for it.
func (p *process) observe(k kind, c change) {
	if c.after != nil {
		p.cache.objects[k][c.name()] = c.after
	} else {
		delete(p.cache.objects[k], c.name())
	}
	switch k {
	case kindPod:
		p.cache.unfed = append(p.cache.unfed, c)
		for _, obj := range []client.Object{c.before, c.after} {
			if obj == nil {
				continue
			}
			if owner := metav1.GetControllerOf(obj); owner != nil && owner.Kind == "BatchSandbox" {
				p.queue.add(item{batchController, owner.Name})
			}
		}
	case kindBatch:
		if p.world.passes(p.world.predicates.batch, c) && p.world.passes(p.batches.NotOurs(), c) {
			p.queue.add(item{batchController, c.name()})
		}
	case kindPool:
		if p.world.passes(p.world.predicates.pool, c) {
			p.queue.add(item{poolController, c.name()})
		}
		if p.world.passes(p.world.predicates.poolOfBatch, c) {
			for _, obj := range sorted(p.cache.objects[kindBatch]) {
				if indexed(obj, "batchsandbox.pool") == c.name() {
					p.queue.add(item{batchController, obj.GetName()})
				}
			}
		}
		if p.world.passes(p.world.predicates.failing, c) {
			for _, batch := range p.ledger.Waiting(types.NamespacedName{Namespace: namespace, Name: c.name()}) {
				p.queue.add(item{batchController, batch.Name})
			}
		}
	}
}

// feed tells the ledger of the oldest change of a pod that it hasn't heard of, as cmd/controller does.
func (p *process) feed() {
	c := p.cache.unfed[0]
	p.cache.unfed = p.cache.unfed[1:]
	before, _ := c.before.(*corev1.Pod)
	after, _ := c.after.(*corev1.Pod)
	if after == nil {
		batchsandbox.RemovePod(p.ledger, before)
		return
	}
	if before != nil && before.Labels[v1alpha1.PoolNameLabel] != after.Labels[v1alpha1.PoolNameLabel] {
		batchsandbox.RemovePod(p.ledger, before)
	}
	batchsandbox.ObservePod(p.ledger, after)
	p.noteFitness(after)
}

// noteFitness keeps which pods the ledger must not hand out by the newest that this process has heard of each.
func (p *process) noteFitness(pod *corev1.Pod) {
	if scheduler.OlderVersion(pod.ResourceVersion, p.cache.heard[pod.UID]) {
		return
	}
	p.cache.heard[pod.UID] = pod.ResourceVersion
	_, evict := pod.Labels[v1alpha1.EvictLabel]
	_, marked := pod.Annotations[v1alpha1.RecyclingAnnotation]
	switch _, already := p.cache.unfit[pod.UID]; {
	case runs(pod) && isReady(pod) && !evict && !marked:
		delete(p.cache.unfit, pod.UID)
	case !already:
		p.cache.unfit[pod.UID] = p.world.tasks
	}
}

// behind says how many events of a kind the cache has not seen.
func (p *process) behind(k kind) int { return len(p.world.server.log[k]) - p.cache.cursor[k] }

// deliver brings the next event of a kind to the cache.
func (p *process) deliver(k kind) {
	c := p.world.server.log[k][p.cache.cursor[k]]
	p.cache.cursor[k]++
	p.observe(k, c)
}

// relist brings the cache of a kind up to date at once, as after a watch that broke: what happened in between is not told.
func (p *process) relist(k kind) {
	p.cache.cursor[k] = len(p.world.server.log[k])
	is := p.world.server.objects[k]
	names := maps.Clone(is)
	maps.Copy(names, p.cache.objects[k])
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, after := p.cache.objects[k][name], is[name]
		if before != nil && after != nil && before.GetResourceVersion() == after.GetResourceVersion() {
			continue
		}
		p.observe(k, change{before: before, after: after})
	}
}

// start begins a reconcile, which then runs up to its first call.
func (w *world) start(i item) *task {
	w.tasks++
	p := w.process
	t := &task{id: w.tasks, item: i, process: p, began: w.server.version, poolCursor: p.cache.cursor[kindPool]}
	p.queue.start(i)
	p.tasks = append(p.tasks, t)
	ctx := context.WithValue(p.ctx, taskKey{}, t)
	go func() {
		switch i.author {
		case batchController:
			t.result, t.err = p.batches.Reconcile(ctx, ctrl.Request{NamespacedName: i.key()})
		case poolController:
			t.result, t.err = p.pools.Reconcile(ctx, ctrl.Request{NamespacedName: i.key()})
		case rebuilder:
			if t.err = p.pools.Rebuild(ctx, nil); t.err == nil {
				t.err = p.batches.Rebuild(ctx, fmt.Sprintf("epoch-%d", p.number), nil)
			}
		}
		t.done.Store(true)
	}()
	w.settle()
	return t
}

// settle waits until everything that runs waits for the test, and takes over what has ended.
func (w *world) settle() {
	synctest.Wait()
	p := w.process
	p.tasks = slices.DeleteFunc(p.tasks, func(t *task) bool {
		if !t.done.Load() {
			return false
		}
		w.logf("  %s ended: %+v %v", t, t.result, t.err)
		switch {
		case t.author != rebuilder:
			if t.err != nil && t.result != (ctrl.Result{}) {
				w.fail("a result and an error together: %+v, %v", t.result, t.err)
			}
			p.queue.finished(t.item, t.result, t.err)
		case t.err != nil:
			p.queue.finished(t.item, ctrl.Result{RequeueAfter: time.Second}, nil)
		default:
			p.queue.finished(t.item, ctrl.Result{}, nil)
			p.rebuilt = true
			close(p.ready)
		}
		return true
	})
}

// runnable are the items that may be started now: the rebuild before all else.
func (p *process) runnable() []item {
	due := p.queue.due()
	return slices.DeleteFunc(due, func(i item) bool { return (i.author == rebuilder) == p.rebuilt })
}

// answer is what happens to a call.
type answer int

const (
	answerDone      answer = iota // it is carried out and answered
	answerLost                    // it never arrives
	answerReplyLost               // it is carried out, and the answer is lost
	answerRaced                   // somebody else writes the object first
	answerLater                   // the answer is lost, and it is carried out later
	answerSoon                    // the same, right after the next call of the one who made it
)

// let lets a call through.
func (w *world) let(c *call, a answer) {
	w.logf("  %s: %s", c, [...]string{"done", "lost", "done, reply lost", "somebody else is faster", "reply lost, still on its way", "reply lost, lands soon"}[a])
	var r reply
	switch a {
	case answerDone, answerRaced:
		if a == answerRaced {
			w.touch(c.kind, c.name)
		}
		r.value, r.err = c.do()
		if r.err != nil {
			w.logf("    %v", r.err)
		}
	case answerLost:
		r.err = errLost
	case answerReplyLost:
		if _, err := c.do(); err != nil {
			w.logf("    %v", err)
		}
		r.err = errLost
	case answerLater, answerSoon:
		w.underway = append(w.underway, c)
		c.soon = a == answerSoon
		r.err = errLost
	}
	w.gate.release(c, r)
	w.settle()
	if i := slices.IndexFunc(w.underway, func(late *call) bool { return late.soon && late != c && late.task == c.task }); i >= 0 {
		w.lands(i)
	}
}

// kill ends the process in the middle of whatever it does. Calls that wait are lost, or land later.
func (w *world) kill(stillLands func(c *call) bool) {
	p := w.process
	p.dead.Store(true)
	p.cancel()
	synctest.Wait()
	for {
		calls := w.gate.calls()
		if len(calls) == 0 {
			break
		}
		for _, c := range calls {
			if stillLands(c) {
				w.logf("  %s is still on its way", c)
				w.underway = append(w.underway, c)
			}
			w.gate.release(c, reply{err: errDead})
		}
		synctest.Wait()
	}
	p.runner.Wait()
	p.calls.Wait()
	synctest.Wait()
}

// touch changes an object in a way that means nothing to the controllers.
func (w *world) touch(k kind, name string) {
	if _, err := w.server.get(k, name); err != nil {
		return
	}
	w.names++
	w.server.update(k, name, func(obj objectOf) bool {
		annotations := maps.Clone(obj.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["example.com/touched"] = fmt.Sprint(w.names)
		obj.SetAnnotations(annotations)
		return false
	})
}
