// SPDX-License-Identifier: Apache-2.0

// Package node tells the ledger what nodes are good for, so that no sandbox is handed out on a node that is cordoned, drained
// or not Ready, and those on a lost node are replaced.
//
// A reconcile observes one node, plans (planNode), tells the ledger, which wakes who holds or offers its pods, and wakes the
// batches that made pods of their own there. It writes nothing, and a heartbeat of a node causes none.
package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/internal/scheduler"
)

// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch

// nodeIndex finds the pods that batches made themselves by the node they are bound to.
const nodeIndex = "node.batches"

// Options are what a Reconciler needs; all of it is required.
type Options struct {
	// Client reads nodes and pods from the cache.
	Client client.Client

	// Clock says how long a node has not been Ready.
	Clock clock.PassiveClock

	// Ledger is told what nodes are good for.
	Ledger *scheduler.Ledger

	// WakeBatch asks for another look at a batch that made pods itself.
	WakeBatch func(batch types.NamespacedName)
}

// Reconciler keeps the ledger's view of nodes.
type Reconciler struct {
	client client.Client
	clock  clock.PassiveClock
	ledger *scheduler.Ledger
	wake   func(types.NamespacedName)

	// gone has since when nodes are gone. One reconcile runs at a time, so it needs no lock.
	gone map[string]time.Time
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	return &Reconciler{client: o.Client, clock: o.Clock, ledger: o.Ledger, wake: o.WakeBatch, gone: map[string]time.Time{}}
}

// SetupWithManager watches nodes.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, nodeIndex, nodeOf); err != nil {
		return fmt.Errorf("index pods by node: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).Named("node").For(&corev1.Node{}, builder.WithPredicates(matters())).Complete(r)
	if err != nil {
		return fmt.Errorf("set up node controller: %w", err)
	}
	return nil
}

// nodeOf is where a pod that a batch made itself is bound to. Pods of pools are in the ledger.
func nodeOf(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || batchOf(pod) == "" {
		return nil
	}
	return []string{pod.Spec.NodeName}
}

// batchOf is the name of the batch that made a pod, "" for none.
func batchOf(pod *corev1.Pod) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "BatchSandbox" {
		return ""
	}
	return owner.Name
}

// Rebuild tells the ledger of all nodes. It is called after the election, before anything is handed out.
func (r *Reconciler) Rebuild(ctx context.Context) error {
	nodes := &corev1.NodeList{}
	if err := r.client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	now := r.clock.Now()
	for i := range nodes.Items {
		r.ledger.ObserveNode(nodes.Items[i].Name, planNode(&nodes.Items[i], now).state)
	}
	return nil
}

// Reconcile tells the ledger what one node is good for.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	d, err := r.observe(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if d.forget {
		r.ledger.ForgetNode(req.Name)
		return ctrl.Result{}, nil
	}
	before := r.ledger.NodeState(req.Name)
	if before == d.state {
		return ctrl.Result{RequeueAfter: d.again}, nil
	}
	var batches []types.NamespacedName
	if before == scheduler.NodeLost || d.state == scheduler.NodeLost {
		if batches, err = r.batchesOn(ctx, req.Name); err != nil {
			return ctrl.Result{}, err
		}
	}
	r.ledger.ObserveNode(req.Name, d.state)
	for _, batch := range batches {
		r.wake(batch)
	}
	logf.FromContext(ctx).Info("node changed", "was", before.String(), "is", d.state.String())
	return ctrl.Result{RequeueAfter: d.again}, nil
}

// observe reads a node and decides. A node that is gone is remembered from when that was seen first.
func (r *Reconciler) observe(ctx context.Context, name string) (decision, error) {
	node, now := &corev1.Node{}, r.clock.Now()
	err := r.client.Get(ctx, types.NamespacedName{Name: name}, node)
	switch {
	case err == nil:
		delete(r.gone, name)
		return planNode(node, now), nil
	case !apierrors.IsNotFound(err):
		return decision{}, fmt.Errorf("get node %s: %w", name, err)
	}
	since, known := r.gone[name]
	if !known {
		since = now
		r.gone[name] = now
	}
	d := planGone(since, now)
	if d.forget {
		delete(r.gone, name)
	}
	return d, nil
}

// batchesOn are the batches that made pods on a node themselves, by name.
func (r *Reconciler) batchesOn(ctx context.Context, node string) ([]types.NamespacedName, error) {
	pods := &corev1.PodList{}
	if err := r.client.List(ctx, pods, client.MatchingFields{nodeIndex: node}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list pods on node %s: %w", node, err)
	}
	batches := make([]types.NamespacedName, 0, len(pods.Items))
	for i := range pods.Items {
		batches = append(batches, types.NamespacedName{Namespace: pods.Items[i].Namespace, Name: batchOf(&pods.Items[i])})
	}
	slices.SortFunc(batches, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(batches), nil
}
