// SPDX-License-Identifier: Apache-2.0

// Package pool keeps the warm pods of every Pool between their bounds.
//
// A reconcile observes (the ledger's counts, the template), deletes idle pods of an old revision (scheduler.PlanUpdate),
// plans (scheduler.PlanCapacity), applies (deletes and creates pods) and reports (status, events). It is woken by edits of the Pool and by the ledger, never by pods.
package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/fairqueue"
	"opensandbox.io/controller/internal/utils/trigger"
)

// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=pools,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=pools/status,verbs=patch
// +kubebuilder:rbac:groups=sandbox.opensandbox.io,resources=pools/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Options are what a Reconciler needs; all of it is required.
type Options struct {
	// Client reads pools and pods from the cache and writes them.
	Client client.Client

	// APIReader reads from the API server itself, to settle creates whose outcome is in doubt.
	APIReader client.Reader

	// Clock gives the time for back-off, pacing and conditions.
	Clock clock.PassiveClock

	// Recorder writes events on pools.
	Recorder events.EventRecorder

	// Registry takes the metrics.
	Registry prometheus.Registerer

	// Starts measures how long pods take to be Ready.
	Starts *Starts

	// Ledger knows what every pod of a pool is doing.
	Ledger *scheduler.Ledger

	// Ready is closed once the ledger was rebuilt after the election. No pool is touched before.
	Ready <-chan struct{}

	// Leads says whether this process still leads for sure. It is asked before each pod is made or deleted: another leader
	// counts without those of this one, and may have given them to batches.
	Leads func() bool

	// Calls makes the calls of executors.
	Calls *Calls

	// Root is what new pods get to know the controller by; "" for nothing.
	Root func() string

	// Suffix gives the end of a pod's name; two in a row should differ.
	Suffix func() string
}

// RandomSuffix is a Suffix that can't be guessed from the last.
func RandomSuffix() string { return rand.String(suffixLength) }

// Reconciler keeps pools between their bounds.
type Reconciler struct {
	client   client.Client
	reader   client.Reader
	clock    clock.PassiveClock
	recorder events.EventRecorder
	ledger   *scheduler.Ledger
	ready    <-chan struct{}
	leads    func() bool
	metrics  *podMetrics
	starts   *Starts
	memories *memories
	calls    *Calls
	root     func() string
	suffix   func() string
}

// New returns a Reconciler and registers its metrics.
func New(o Options) (*Reconciler, error) {
	m, err := newPodMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	memories := newMemories()
	if err := o.Registry.Register(newGauges(o.Ledger, memories.pools)); err != nil {
		return nil, fmt.Errorf("register the gauges of pools: %w", err)
	}
	return &Reconciler{
		client:   o.Client,
		reader:   o.APIReader,
		clock:    o.Clock,
		recorder: o.Recorder,
		ledger:   o.Ledger,
		ready:    o.Ready,
		leads:    o.Leads,
		metrics:  m,
		starts:   o.Starts,
		memories: memories,
		calls:    o.Calls,
		root:     o.Root,
		suffix:   o.Suffix,
	}, nil
}

// SetupWithManager watches pools and the trigger. So many pools of one namespace are worked on at once.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, wake *trigger.Trigger, concurrency int) error {
	err := ctrl.NewControllerManagedBy(mgr).
		Named("pool").
		For(&v1alpha1.Pool{}, builder.WithPredicates(edited())).
		WatchesRawSource(wake).
		WithOptions(controller.Options{MaxConcurrentReconciles: fairqueue.Workers(concurrency), NewQueue: fairqueue.New(concurrency)}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up pool controller: %w", err)
	}
	return nil
}

// edited lets through what a user does to a pool, and none of the controller's own writes.
func edited() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
			e.ObjectOld.GetUID() != e.ObjectNew.GetUID() ||
			e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() ||
			removedFinalizer(e.ObjectOld, e.ObjectNew)
	}}
}

func removedFinalizer(before, after client.Object) bool {
	return controllerutil.ContainsFinalizer(before, v1alpha1.PoolAllocationFinalizer) &&
		!controllerutil.ContainsFinalizer(after, v1alpha1.PoolAllocationFinalizer)
}

// Reconcile keeps one pool between its bounds.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	select {
	case <-r.ready:
	case <-ctx.Done():
		return ctrl.Result{}, ctx.Err()
	}
	pool := &v1alpha1.Pool{}
	if err := r.client.Get(ctx, req.NamespacedName, pool); err != nil {
		if apierrors.IsNotFound(err) {
			return r.gone(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, fmt.Errorf("get pool %s: %w", req.NamespacedName, err)
	}
	mem := r.memories.of(pool)
	pool = mem.newest(pool)
	if !pool.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, pool, mem)
	}
	if mem.namespaceGoes {
		return ctrl.Result{}, nil
	}
	if err := r.ensureFinalizer(ctx, pool, mem); err != nil {
		return afterConflict(err)
	}

	settleErr := r.settle(ctx, pool, mem)
	recycleAgain, recycleErr := r.recycle(ctx, pool, mem)
	obs, err := r.observe(ctx, pool, mem)
	if err != nil {
		return ctrl.Result{}, errors.Join(settleErr, recycleErr, err)
	}
	updateErr := errors.Join(r.update(ctx, pool, mem, &obs), r.repair(ctx, pool, mem, &obs))
	plan := planPool(pool, obs)

	done := r.apply(ctx, pool, mem, work{template: obs.template, revision: obs.revision, unusable: obs.unusable, plan: plan})
	done.deleteFailed = done.deleteFailed || updateErr != nil
	mem.remember(pool, obs, plan, done)
	if mem.namespaceGoes {
		return ctrl.Result{}, done.err
	}

	obs.counts = r.ledger.Counts(req.NamespacedName)
	wait, statusErr := r.report(ctx, pool, mem, poolStatus(pool, obs, plan, mem.view()))
	if err := errors.Join(settleErr, recycleErr, updateErr, done.err, statusErr); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: soonest(wait, recycleAgain, mem.wait(obs, plan))}, nil
}

// finalize deletes what nobody holds and lets the pool go when its last sandbox was given back.
func (r *Reconciler) finalize(ctx context.Context, pool *v1alpha1.Pool, mem *memory) (ctrl.Result, error) {
	r.forgetExpected(pool, mem)
	obs := r.observeDeletion(pool, mem)
	plan := planDeletion(obs)
	done := r.apply(ctx, pool, mem, work{unusable: obs.unusable, plan: plan})
	mem.remember(pool, obs, plan, done)
	if done.err != nil {
		return ctrl.Result{}, done.err
	}

	obs.counts = r.ledger.Counts(client.ObjectKeyFromObject(pool))
	if unheld := obs.counts.Idle + obs.counts.Starting + obs.counts.Unusable; obs.counts.Held == 0 && unheld == 0 {
		return afterConflict(r.removeFinalizer(ctx, pool, mem))
	}
	wait, err := r.report(ctx, pool, mem, deletionStatus(pool, obs))
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: soonest(wait, mem.wait(obs, plan))}, nil
}

// forgetExpected drops the pods of a pool that is being deleted whose creates no watch has shown: those that never land
// would count for ever, and those that do have news of their own, or go with the pool.
func (r *Reconciler) forgetExpected(pool *v1alpha1.Pool, mem *memory) {
	for name := range mem.expected {
		r.ledger.Unexpect(client.ObjectKeyFromObject(pool), name)
	}
	clear(mem.expected)
}

// ensureFinalizer keeps the pool from going while batches hold its pods. It is there before the first pod is.
func (r *Reconciler) ensureFinalizer(ctx context.Context, pool *v1alpha1.Pool, mem *memory) error {
	if controllerutil.ContainsFinalizer(pool, v1alpha1.PoolAllocationFinalizer) {
		return nil
	}
	before := pool.DeepCopy()
	controllerutil.AddFinalizer(pool, v1alpha1.PoolAllocationFinalizer)
	return r.patchFinalizers(ctx, pool, before, mem)
}

func (r *Reconciler) removeFinalizer(ctx context.Context, pool *v1alpha1.Pool, mem *memory) error {
	if !controllerutil.ContainsFinalizer(pool, v1alpha1.PoolAllocationFinalizer) {
		return nil
	}
	before := pool.DeepCopy()
	controllerutil.RemoveFinalizer(pool, v1alpha1.PoolAllocationFinalizer)
	return client.IgnoreNotFound(r.patchFinalizers(ctx, pool, before, mem))
}

func (r *Reconciler) patchFinalizers(ctx context.Context, pool, before *v1alpha1.Pool, mem *memory) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, pool, patch); err != nil {
		return fmt.Errorf("patch finalizers of pool %s/%s: %w", pool.Namespace, pool.Name, err)
	}
	mem.written = pool.DeepCopy()
	return nil
}

// afterConflict looks again a moment later when somebody else wrote the pool, and returns other errors.
func afterConflict(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryPace}, nil
	}
	return ctrl.Result{}, err
}
