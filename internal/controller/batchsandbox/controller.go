// SPDX-License-Identifier: Apache-2.0

// Package batchsandbox keeps BatchSandboxes what they ask to be: it takes sandboxes from pools or makes them, runs a task
// in each, and gives them back.
package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	eventsv1 "k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/fairqueue"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/internal/utils/trigger"
)

// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=batchsandboxes,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=batchsandboxes/status,verbs=patch
// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=batchsandboxes/finalizers,verbs=update
// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=pools,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// ownerIndex finds pods by the UID of the batch that made them.
	ownerIndex = "batchsandbox.owner"

	// poolIndex finds batches by the name of their pool.
	poolIndex = "batchsandbox.pool"

	initialBackoff = time.Second
	maxBackoff     = 5 * time.Minute
)

// Options are what the reconciler depends on; all are required.
type Options struct {
	Client    client.Client
	APIReader client.Reader
	Clock     clock.PassiveClock
	Recorder  eventsv1.EventRecorder
	Registry  prometheus.Registerer
	Ledger    *scheduler.Ledger
	Runner    *Runner

	// Root is what new pods get to know the controller by; "" for nothing.
	Root func() string

	// Ready is closed when the ledger has been rebuilt after the election: nothing is reconciled before.
	Ready <-chan struct{}

	// Leads says whether this process still leads for sure. It is asked before each allocation is written.
	Leads func() bool
}

// Reconciler reconciles BatchSandboxes.
type Reconciler struct {
	client    client.Client
	apiReader client.Reader
	clock     clock.PassiveClock
	events    recorder
	metrics   *metrics
	ledger    *scheduler.Ledger
	runner    *Runner
	root      func() string
	ready     <-chan struct{}
	leads     func() bool

	namespaces *namespaces
	sights     *sights
	echoes     *echoes
	labels     labelTurns

	mu       sync.Mutex
	memories map[types.NamespacedName]*memory
}

// memory is what the reconciler remembers of a batch from one reconcile to the next. Nothing in it is the home of a fact:
// losing it costs a repeated call, no more. One reconcile of a batch runs at a time, so it needs no lock.
type memory struct {
	// uid is the batch's; a new batch of an old name starts with an empty memory.
	uid types.UID
	// inDoubt: an allocation may have landed, and nobody could read whether it has.
	inDoubt bool
	// underway is the resourceVersion that an allocation was written under which was sent and never answered: it may even
	// land later. Empty if there is none.
	underway string
	// conflicted: it is in doubt since the batch changed under it, and is asked for again at once.
	conflicted bool
	// written is the resourceVersion of our last write. A cache behind it shows the past.
	written string
	// last is what our last write made of the batch, until the cache has it.
	last *v1alpha1.BatchSandbox
	// lastStatus is when the status was written last.
	lastStatus time.Time
	// namespaceGoes: the batch's namespace is being deleted.
	namespaceGoes bool
	// letGo: the pods are given back, and a cache that still shows the finalizers shows the past.
	letGo bool
	// lastDelivery is when addresses were written last.
	lastDelivery time.Time
	// labelTurn is when the batch may label pods; zero for no turn.
	labelTurn time.Time
	// delivery times the first delivery.
	delivery delivery
	// reportsLater: the report of the first delivery was put off.
	reportsLater bool
	// heard are the ends of tries that the status doesn't tell yet, for the metrics.
	heard []heardEnd
	// retries are the tries of tasks that were decided on.
	retries retryMemory
	// losses and restarts are what happened to sandboxes and is being counted and told.
	losses   lossMemory
	restarts restartMemory
	// made are the pods that the batch made itself and that the cache has not shown yet.
	made madePods
	// tasks are whether the tasks can be run; they are immutable, but for their number.
	tasksChecked int
	tasksProblem *problem
	// backoff is how long to wait after pods were refused or failed.
	backoff           backoff
	refusal           *problem
	refusedGeneration int64
}

func (m *memory) wrote(sb *v1alpha1.BatchSandbox) {
	sb.ManagedFields = nil // as in the cache
	m.written, m.last = sb.ResourceVersion, sb
}

// newest is the batch as the cache has it, or as our last write made it where the cache is behind that.
func (m *memory) newest(cached *v1alpha1.BatchSandbox) *v1alpha1.BatchSandbox {
	if m.last != nil && scheduler.OlderVersion(cached.ResourceVersion, m.written) {
		return m.last
	}
	m.last = nil
	return cached
}

// waitForBackoff is how long to wait before pods are made again; a new spec is tried at once.
func (m *memory) waitForBackoff(now time.Time, generation int64) time.Duration {
	if m.refusal != nil && generation != m.refusedGeneration {
		m.refusal = nil
		m.backoff = backoff{}
	}
	return max(0, m.backoff.until.Sub(now))
}

// backoff is a wait that doubles from initialBackoff to maxBackoff with each failure, and starts anew after a quiet
// time of twice maxBackoff.
type backoff struct {
	wait  time.Duration
	until time.Time
}

func (b *backoff) failed(now time.Time) {
	if now.Sub(b.until) > 2*maxBackoff {
		b.wait = 0
	}
	b.wait = min(max(initialBackoff, 2*b.wait), maxBackoff)
	b.until = now.Add(b.wait)
}

// New returns a reconciler and registers its metrics.
func New(o Options) (*Reconciler, error) {
	m, err := newMetrics(o.Registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return &Reconciler{
		client: o.Client, apiReader: o.APIReader, clock: o.Clock, events: recorder{o.Recorder}, metrics: m,
		ledger: o.Ledger, runner: o.Runner, root: o.Root, ready: o.Ready, leads: o.Leads, memories: map[types.NamespacedName]*memory{},
		namespaces: &namespaces{reader: o.APIReader, clock: o.Clock},
		sights:     newSights(o.Clock),
		echoes:     &echoes{byName: map[types.NamespacedName]echo{}},
	}, nil
}

// SetupWithManager adds the controller to a manager. wake brings batches back that the ledger or a task has news for; so many of one
// namespace are worked on at once.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, wake *trigger.Trigger, concurrency int) error {
	indexer := mgr.GetFieldIndexer()
	if err := indexer.IndexField(context.Background(), &corev1.Pod{}, ownerIndex, ownerOf); err != nil { //nolint:forbidigo // the manager has no context yet
		return fmt.Errorf("index pods by owner: %w", err)
	}
	if err := indexer.IndexField(context.Background(), &v1alpha1.BatchSandbox{}, poolIndex, poolOf); err != nil { //nolint:forbidigo // the manager has no context yet
		return fmt.Errorf("index batches by pool: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("batchsandbox").
		For(&v1alpha1.BatchSandbox{}, builder.WithPredicates(r.sights.predicate(), changedByUsers(), r.echoes.predicate())).
		Owns(&corev1.Pod{}). // those it made: the ledger has the news of a pool's
		Watches(&v1alpha1.Pool{}, handler.EnqueueRequestsFromMapFunc(r.batchesOf), builder.WithPredicates(poolMatters())).
		Watches(&v1alpha1.Pool{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor), builder.WithPredicates(failingChanged())).
		WatchesRawSource(wake).
		WithOptions(controller.Options{MaxConcurrentReconciles: fairqueue.Workers(concurrency), NewQueue: fairqueue.New(concurrency)}).
		Complete(r)
}

func ownerOf(obj client.Object) []string {
	owner := metav1.GetControllerOf(obj)
	if owner == nil || owner.Kind != "BatchSandbox" {
		return nil
	}
	return []string{string(owner.UID)}
}

func poolOf(obj client.Object) []string {
	sb, ok := obj.(*v1alpha1.BatchSandbox)
	if !ok || sb.Spec.PoolRef == "" {
		return nil
	}
	return []string{sb.Spec.PoolRef}
}

// changedByUsers lets through what somebody else may have changed: the spec, the deletion, and the annotations and
// finalizers, or made anew while the watch was broken. Our own status writes don't bring a batch back.
func changedByUsers() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld, e.ObjectNew
		return before.GetUID() != after.GetUID() ||
			before.GetGeneration() != after.GetGeneration() ||
			!before.GetDeletionTimestamp().Equal(after.GetDeletionTimestamp()) ||
			!equality.Semantic.DeepEqual(before.GetAnnotations(), after.GetAnnotations()) ||
			!equality.Semantic.DeepEqual(before.GetFinalizers(), after.GetFinalizers())
	}}
}

// poolMatters lets through what changes the answer to a batch that waits: a pool that appears, changes or goes, or was made
// anew while the watch was broken.
func poolMatters() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() ||
			e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
			!e.ObjectOld.GetDeletionTimestamp().Equal(e.ObjectNew.GetDeletionTimestamp())
	}}
}

// failingChanged lets through a pool that says otherwise than before why its pods don't start.
func failingChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*v1alpha1.Pool)
			after, ok2 := e.ObjectNew.(*v1alpha1.Pool)
			return ok1 && ok2 && failingNote(before) != failingNote(after)
		},
	}
}

// waitingFor are the batches in a pool's queue.
func (r *Reconciler) waitingFor(_ context.Context, pool client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, batch := range r.ledger.Waiting(client.ObjectKeyFromObject(pool)) {
		requests = append(requests, reconcile.Request{NamespacedName: batch})
	}
	return requests
}

func (r *Reconciler) batchesOf(ctx context.Context, pool client.Object) []reconcile.Request {
	var batches v1alpha1.BatchSandboxList
	if err := r.client.List(ctx, &batches, client.InNamespace(pool.GetNamespace()),
		client.MatchingFields{poolIndex: pool.GetName()}, client.UnsafeDisableDeepCopy); err != nil { // their names are read, nothing else
		ctrl.LoggerFrom(ctx).Error(err, "list batches of a pool")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(batches.Items))
	for i := range batches.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&batches.Items[i])})
	}
	return requests
}

// Reconcile brings one batch closer to what it asks for.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	select {
	case <-r.ready:
	case <-ctx.Done():
		return ctrl.Result{}, ctx.Err()
	}
	sb := &v1alpha1.BatchSandbox{} // shared with the cache: nothing here writes into it
	if err := r.client.Get(ctx, req.NamespacedName, sb, client.UnsafeDisableDeepCopy); apierrors.IsNotFound(err) {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get batch: %w", err)
	}
	m := r.remember(sb)
	if m.inDoubt {
		if err := r.settleDoubt(ctx, sb, m); err != nil {
			return ignoreGone(ctrl.Result{}, err)
		}
	}
	sb = m.newest(sb)
	if sb.DeletionTimestamp != nil {
		return ignoreConflict(ctrl.Result{}, r.finalize(ctx, sb, m))
	}
	m.heard = append(m.heard, r.runner.takeHeard(sb.UID)...)
	obs, err := r.observe(ctx, sb, m)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.beginDelivery(obs, m)
	r.checkTasks(obs, m)
	m.losses.note(obs)
	judgeTries(obs, m.retries)
	p := makePlan(obs)
	if p.expired {
		return ctrl.Result{}, r.expire(ctx, sb)
	}
	if r.namespaceGoes(ctx, obs, p, m) {
		return ctrl.Result{}, nil
	}
	out, applyErr := r.apply(ctx, obs, p, m)
	if errors.Is(applyErr, leading.ErrLost) {
		return ctrl.Result{}, applyErr
	}
	reportAgain, statusErr := r.report(ctx, obs, p, out, m)
	if err := errors.Join(applyErr, statusErr); err != nil {
		r.events.tooLarge(obs.sb, err)
		return ignoreGone(ignoreConflict(ctrl.Result{}, err))
	}
	r.tellMishaps(obs, m)
	r.forgetReleased(obs)
	if err := r.dispatch(ctx, obs, &out); err != nil {
		return ctrl.Result{}, err
	}
	labelAgain, err := r.label(ctx, obs, m)
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: soonest(out.retryAfter, labelAgain, p.untilLookAgain(obs.now), reportAgain)}, nil
}

// staleRetry is how long a cache that was behind somebody else's write may take before we look again without its event.
const staleRetry = 100 * time.Millisecond

// ignoreConflict turns a conflict into another look: whoever changed the batch makes an event, and where that was
// ourselves the wait covers it.
func ignoreConflict(res ctrl.Result, err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: staleRetry}, nil
	}
	return res, err
}

// errGone says that the batch is gone from the API server, whatever the cache shows. Nothing more is done about it; the
// event of its deletion is on the way.
var errGone = errors.New("the batch is gone")

func ignoreGone(res ctrl.Result, err error) (ctrl.Result, error) {
	if errors.Is(err, errGone) {
		return ctrl.Result{}, nil
	}
	return res, err
}

func soonest(waits ...time.Duration) time.Duration {
	first := time.Duration(0)
	for _, w := range waits {
		if w > 0 && (first == 0 || w < first) {
			first = w
		}
	}
	return first
}

func (p *plan) untilLookAgain(now time.Time) time.Duration {
	if p.lookAgain.IsZero() {
		return 0
	}
	return max(time.Millisecond, p.lookAgain.Sub(now))
}

// checkTasks finds a task that can't be run before any sandbox is taken for it.
func (r *Reconciler) checkTasks(obs *observed, m *memory) {
	if !obs.hasTasks() || obs.problem != nil {
		return
	}
	if n := obs.replicas(); m.tasksChecked != n {
		m.tasksChecked, m.tasksProblem = n, tooMuchPatching(obs.sb, n)
		for index := 0; index < n && m.tasksProblem == nil; index++ {
			_, _, m.tasksProblem = desiredTask(obs.sb, index, 1)
			if index >= len(obs.sb.Spec.ShardTaskPatches) {
				break // the rest are alike
			}
		}
	}
	obs.problem = m.tasksProblem
}

// forgetReleased drops what is known of tasks in sandboxes that were given back: their addresses are other pods' soon.
func (r *Reconciler) forgetReleased(obs *observed) {
	for i := range obs.tasks {
		if !obs.wanted(i) && (i >= len(obs.sandboxes) || obs.sandboxes[i].podName == "") {
			r.runner.Forget(obs.sb.UID, i)
		}
	}
}

// dispatch has the tasks of held sandboxes run. It comes after the allocation and the report, so that the sandbox and the number
// of the try are durable.
func (r *Reconciler) dispatch(ctx context.Context, obs *observed, out *outcome) error {
	if obs.problem != nil || !obs.hasTasks() {
		return nil
	}
	told, all := ownEndpoints(obs.sb), allTries(&obs.sb.Status)
	for i, s := range obs.sandboxes {
		if _, ended := obs.ends[i]; ended || !obs.wanted(i) || !s.usable() || s.ip == "" {
			continue
		}
		if !obs.pooled() && (i >= len(told) || told[i] != s.ip) {
			continue // a pod of its own tells that it had a task by its address, and of a pool by its name
		}
		run, fields, due := obs.dueRun(i, all[i])
		if !due {
			continue
		}
		switch err := r.fill(ctx, obs, i, fields, run.task.Process.Env); {
		case errors.Is(err, errPodNotSeen):
			out.retryIn(staleRetry)
			continue
		case err != nil:
			return err
		}
		r.runner.Resume(target{
			batch: client.ObjectKeyFromObject(obs.sb), uid: obs.sb.UID, index: i, pod: s.podUID, ip: s.ip,
		}, run)
		delete(obs.retries, i)
	}
	return nil
}

// dueRun is the try that is to be dispatched to the sandbox of an index, and the fields of its pod that it takes; false for none. before are the
// tries that the status has.
func (o *observed) dueRun(index int, before tries) (run, []fieldRef, bool) {
	due := run{try: before.number()}
	if known := o.tasks[index]; known.follows() && known.try == due.try && known.ip == o.sandboxes[index].ip {
		return due, nil, false
	}
	next, decided := o.retries[index]
	switch {
	case decided && (next.before != before || o.now.Before(next.notBefore)):
		return due, nil, false // not written yet, or not its time yet
	case !decided && before.failed > 0:
		due.wait = retryWait(before.failed - 1) // another controller decided on it, and may have dispatched it or not
	}
	task, fields, problem := desiredTask(o.sb, index, due.try)
	due.task = task
	return due, fields, problem == nil // checkTasks tells of a problem
}

func (r *Reconciler) expire(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
	err := r.client.Delete(ctx, sb, client.Preconditions{UID: &sb.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil {
		return client.IgnoreNotFound(fmt.Errorf("delete batch: %w", err))
	}
	r.events.expired(sb)
	return nil
}

// statusPace is the least time between two writes of a status of which only numbers differ, and between two looks at a
// batch for the sake of its tasks alone. It leaves half of the quarter of a second, within which an end is to be told, to
// the look, the write and a busy API server.
const statusPace = 125 * time.Millisecond

// report writes the status if it changed, and tells of a new problem. A status of which only numbers differ is written at
// most every statusPace, so that a thousand pods that become Ready cost a few writes. It returns when to look again: after
// that wait, or at once where ends were recorded that may release sandboxes or start the time to live.
func (r *Reconciler) report(ctx context.Context, obs *observed, p plan, out outcome, m *memory) (again time.Duration, err error) {
	m.restarts.note(obs)
	if r.reportsLater(obs, m) {
		return time.Millisecond, nil
	}
	before, after := obs.sb.Status, batchStatus(obs, p, out)
	if equality.Semantic.DeepEqual(&before, after) {
		r.told(m)
		return 0, nil
	}
	if wait := statusPace - obs.now.Sub(m.lastStatus); wait > 0 && sameButNumbers(&before, after) {
		return wait, nil
	}
	if err := r.patchStatus(ctx, obs, after, m); err != nil {
		return 0, err
	}
	r.told(m)
	r.events.problemFound(obs.sb, &before, firstProblem(p.problem, out.problem, p.setAside))
	r.events.tasksCompleted(obs.sb, &before)
	if obs.endsMatter() {
		return time.Millisecond, nil
	}
	return 0, nil
}

// endsMatter says that ends were recorded just now which change the plan: sandboxes are to be given back, or the batch is to be
// deleted some time later.
func (o *observed) endsMatter() bool {
	if _, ok := ttlEnd(o.sb); !ok && !o.releases() {
		return false
	}
	for _, end := range o.ends {
		if !end.recorded {
			return true
		}
	}
	return false
}

func (r *Reconciler) patchStatus(ctx context.Context, obs *observed, status *v1alpha1.BatchSandboxStatus, m *memory) error {
	if equality.Semantic.DeepEqual(&obs.sb.Status, status) {
		return nil
	}
	// The patch is made of the status alone: the rest of a large batch takes longer to compare than all else that a write costs.
	before := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{
		Namespace: obs.sb.Namespace, Name: obs.sb.Name, UID: obs.sb.UID, ResourceVersion: obs.sb.ResourceVersion,
	}, Status: obs.sb.Status}
	patched := before.DeepCopy()
	patched.Status = *status
	m.delivery.writes++
	if err := r.client.Status().Patch(ctx, patched, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		if apierrors.IsNotFound(err) {
			return errGone
		}
		return fmt.Errorf("patch status: %w", err)
	}
	m.wrote(patched)
	m.lastStatus = obs.now
	obs.sb = patched
	return nil
}

// remember returns what is known of a batch. What the ledger knows of another one that had the name is forgotten: nobody may
// ever ask for it again.
func (r *Reconciler) remember(sb *v1alpha1.BatchSandbox) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := client.ObjectKeyFromObject(sb)
	m, ok := r.memories[name]
	if !ok || m.uid != sb.UID {
		if ok {
			r.ledger.BatchGone(name)
		}
		m = &memory{uid: sb.UID, tasksChecked: -1, retries: retryMemory{}}
		r.memories[name] = m
	}
	return m
}

// forget drops all that is known of a batch that is gone.
func (r *Reconciler) forget(name types.NamespacedName) {
	r.ledger.BatchGone(name)
	r.runner.ForgetName(name)
	r.sights.forget(name)
	r.echoes.take(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memories, name)
}
