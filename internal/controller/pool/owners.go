// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
)

// secondOwner is what owns every pod of a pool beside the Pool: the namespace. Where a Pool is deleted in the foreground,
// the garbage collector deletes at once what has no other owner, sandboxes in use included; a pod with another one only
// loses the reference to the Pool, and the finalizer of the Pool sees to the rest. The batch, which is another owner of a
// held pod, comes too late for this: some time after the delivery.
//
// Nothing is returned where the namespace can't be read: the pods are made all the same, and the next ones ask again.
func (r *Reconciler) secondOwner(ctx context.Context, pool *v1alpha1.Pool, mem *memory) []metav1.OwnerReference {
	if mem.namespace == nil {
		namespace := &corev1.Namespace{}
		if err := r.reader.Get(ctx, client.ObjectKey{Name: pool.Namespace}, namespace); err != nil {
			logf.FromContext(ctx).V(1).Info("pods get no second owner, for the namespace can't be read", "reason", err.Error())
			return nil
		}
		mem.namespace = &metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: namespace.Name, UID: namespace.UID}
	}
	return []metav1.OwnerReference{*mem.namespace}
}

// gone deletes what a Pool left behind that is no object any more: its pods are not the garbage collector's while they
// have a second owner. A Pool goes like that where somebody takes its finalizer away. Held pods stay with their batches.
func (r *Reconciler) gone(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
	r.memories.forget(key)
	r.calls.take(key)
	r.ledger.TakeReleased(key) // nobody is left to tell
	defer r.ledger.ForgetPool(key)
	n := r.ledger.Counts(key)
	if n.Idle+n.Starting+n.Unusable == 0 {
		return ctrl.Result{}, nil
	}
	err := r.reader.Get(ctx, key, &v1alpha1.Pool{})
	if err == nil {
		return ctrl.Result{}, nil // the cache is behind, and its news brings the Pool back here
	}
	if !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("read pool %s: %w", key, err)
	}
	left := slices.Concat(r.ledger.RetireUnusable(key), r.ledger.RetireStranded(key, n.Stranded()), r.ledger.Retire(key, n.Idle+n.Starting))
	deleted, err := r.deletePods(ctx, key, left)
	if deleted > 0 {
		logf.FromContext(ctx).Info("deleted pods that a pool left behind", "count", deleted)
	}
	return ctrl.Result{}, err
}
