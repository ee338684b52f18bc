// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

// pageSize bounds one list call, in objects.
const pageSize = 500

// Rebuild reads all pooled batches and all pods of pools from the API server itself and makes the ledger anew. Then it
// fences: every pooled batch that misses sandboxes is patched, so that a write of the last leader still on its way
// conflicts. epoch names this leader. It is called once, after the election and before any reconcile.
func (r *Reconciler) Rebuild(ctx context.Context, epoch string, namespaces []string) error {
	if len(namespaces) == 0 {
		namespaces = []string{metaAll}
	}
	r.ledger.Rebuild()
	var batches []v1alpha1.BatchSandbox
	for _, namespace := range namespaces {
		found, err := r.listAll(ctx, namespace)
		if err != nil {
			return err
		}
		batches = append(batches, found...)
	}
	slices.SortFunc(batches, func(a, b v1alpha1.BatchSandbox) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	for i := range batches {
		sb := &batches[i]
		r.remember(sb).wrote(sb)
		pods, err := parseAllocStatus(sb)
		if sb.Spec.PoolRef == "" || err != nil || isReleased(sb) {
			continue // a malformed annotation is told when the batch is reconciled
		}
		r.settle(ctx, sb, pods)
		if err := r.fence(ctx, sb, pods, epoch); err != nil {
			return err
		}
	}
	if err := r.enqueue(ctx, batches); err != nil {
		return err
	}
	r.ledger.Rebuilt()
	logf.FromContext(ctx).Info("rebuilt the ledger", "batches", len(batches))
	return nil
}

// isReleased says that a batch gave its pods back when it was deleted, whatever its alloc-status still names: our finalizers
// are gone, and somebody else's keep the object.
func isReleased(sb *v1alpha1.BatchSandbox) bool {
	return sb.DeletionTimestamp != nil && len(ownFinalizers(sb)) == 0
}

// enqueue puts the batches that wait back into their queues, before the first of them asks for pods: else the first to ask
// would overtake the rest. What a batch wants may have changed by the time it asks, which corrects it.
func (r *Reconciler) enqueue(ctx context.Context, batches []v1alpha1.BatchSandbox) error {
	for i := range batches {
		m := r.remember(&batches[i])
		sb := m.last
		if sb.Spec.PoolRef == "" || sb.DeletionTimestamp != nil {
			continue
		}
		obs, err := r.observe(ctx, sb, m)
		if err != nil {
			return err
		}
		if p := makePlan(obs); len(p.missing) > 0 {
			r.ledger.Enqueue(demandOf(obs, p.missing))
		}
	}
	return nil
}

const metaAll = corev1.NamespaceAll

func (r *Reconciler) listAll(ctx context.Context, namespace string) ([]v1alpha1.BatchSandbox, error) {
	var all []v1alpha1.BatchSandbox
	page := client.ListOptions{Namespace: namespace, Limit: pageSize}
	for {
		var batches v1alpha1.BatchSandboxList
		if err := r.apiReader.List(ctx, &batches, &page); err != nil {
			return nil, fmt.Errorf("list batches: %w", err)
		}
		all = append(all, batches.Items...)
		if page.Continue = batches.Continue; page.Continue == "" {
			break
		}
	}
	podPage := client.ListOptions{Namespace: namespace, Limit: pageSize}
	client.HasLabels{v1alpha1.PoolNameLabel}.ApplyToList(&podPage)
	for {
		var pods corev1.PodList
		if err := r.apiReader.List(ctx, &pods, &podPage); err != nil {
			return nil, fmt.Errorf("list pods of pools: %w", err)
		}
		for i := range pods.Items {
			ObservePod(r.ledger, &pods.Items[i])
		}
		if podPage.Continue = pods.Continue; podPage.Continue == "" {
			return all, nil
		}
	}
}

// fence patches a batch that still misses sandboxes.
func (r *Reconciler) fence(ctx context.Context, sb *v1alpha1.BatchSandbox, pods []string, epoch string) error {
	replicas := 1
	if sb.Spec.Replicas != nil {
		replicas = int(*sb.Spec.Replicas)
	}
	held := 0
	for _, pod := range pods {
		if pod != "" {
			held++
		}
	}
	if held >= replicas || sb.DeletionTimestamp != nil {
		return nil
	}
	body := mustJSON(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.LeaderEpochAnnotation: epoch}}})
	patched := sb.DeepCopy()
	err := r.client.Patch(ctx, patched, client.RawPatch(types.MergePatchType, []byte(body)))
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("fence batch %s: %w", client.ObjectKeyFromObject(sb), err)
	}
	// The last leader may have written between the list and the patch: what the patch returned is the truth.
	r.remember(sb).wrote(patched)
	if now, err := parseAllocStatus(patched); err == nil && !equalPods(now, pods) {
		r.settle(ctx, patched, now)
	}
	return nil
}

// ObservePod tells the ledger of a pod of a pool; other pods are none of its business.
func ObservePod(l *scheduler.Ledger, pod *corev1.Pod) {
	if pool := pod.Labels[v1alpha1.PoolNameLabel]; pool != "" {
		l.ObservePod(types.NamespacedName{Namespace: pod.Namespace, Name: pool}, scheduler.PodOf(pod))
	}
}

// RemovePod tells the ledger that a pod of a pool is gone.
func RemovePod(l *scheduler.Ledger, pod *corev1.Pod) {
	if pool := pod.Labels[v1alpha1.PoolNameLabel]; pool != "" {
		l.RemovePod(types.NamespacedName{Namespace: pod.Namespace, Name: pool}, pod.Name, pod.UID)
	}
}
