// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/slowstart"
)

// pageSize bounds one list call, in objects.
const pageSize = 500

// fenceTries is how often a fence is tried before the rebuild has failed.
const fenceTries = 3

// Rebuild reads all pooled batches and all pods of pools from the API server itself, fences, and makes the ledger anew.
// epoch names this leader. It is called after the election and before any reconcile, again if it failed.
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
	batches, err := r.fence(ctx, batches, epoch)
	if err != nil {
		return err
	}
	slices.SortFunc(batches, func(a, b v1alpha1.BatchSandbox) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for i := range batches {
		sb := &batches[i]
		r.remember(sb).wrote(sb)
		pods, err := parseAllocStatus(sb)
		if sb.Spec.PoolRef == "" || err != nil || isReleased(sb) {
			continue // a malformed annotation is told when the batch is reconciled
		}
		r.settle(ctx, sb, pods)
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

// fence patches every batch that misses sandboxes, so that a write of the last leader that is still on its way conflicts. The
// last leader may have written between the list and the patch: what the patches returned is the truth, and takes the place of
// what was listed. Batches that are gone are left out.
func (r *Reconciler) fence(ctx context.Context, batches []v1alpha1.BatchSandbox, epoch string) ([]v1alpha1.BatchSandbox, error) {
	var open []int
	for i := range batches {
		if mayBeServed(&batches[i]) {
			open = append(open, i)
		}
	}
	gone := make([]bool, len(batches))
	body := mustJSON(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.LeaderEpochAnnotation: epoch}}})
	_, err := slowstart.Do(ctx, len(open), func(ctx context.Context, n int) error {
		sb := &batches[open[n]]
		truth, err := r.fenceOne(ctx, client.ObjectKeyFromObject(sb), client.RawPatch(types.MergePatchType, []byte(body)))
		switch {
		case apierrors.IsNotFound(err):
			gone[open[n]] = true
		case err != nil:
			return fmt.Errorf("fence batch %s: %w", client.ObjectKeyFromObject(sb), err)
		default:
			*sb = *truth
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var there []v1alpha1.BatchSandbox
	for i := range batches {
		if !gone[i] {
			there = append(there, batches[i])
		}
	}
	return there, nil
}

// fenceOne patches a batch, again at once where that failed: if a single fence of many failed the whole rebuild, an API server that
// refuses one write in ten would let no leader begin. It returns what the API server has of the batch.
func (r *Reconciler) fenceOne(ctx context.Context, key client.ObjectKey, patch client.Patch) (truth *v1alpha1.BatchSandbox, err error) {
	for range fenceTries {
		truth = &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
		if err = r.client.Patch(ctx, truth, patch); err == nil || apierrors.IsNotFound(err) || ctx.Err() != nil {
			return truth, err
		}
		if refusesWrites(err) {
			logf.FromContext(ctx).Error(err, "fence a batch, which can't be written", "batch", key)
			return truth, r.apiReader.Get(ctx, key, truth)
		}
	}
	return nil, err
}

// refusesWrites says that the API server refuses to write this one object: its annotations or all of it are as large as they can be,
// or it is not valid any more. It goes without a fence, for no user's object may keep the controller from all others. What
// the last leader had on its way for it is refused for the same reason: it adds more to the same annotations.
func refusesWrites(err error) bool {
	return apierrors.IsInvalid(err) || isTooLarge(err)
}

// mayBeServed says that the last leader may be about to give pods to a batch:
//
//	| pooled | being deleted | alloc-status        | may be served |
//	| no     | -             | -                   | no            |
//	| yes    | yes           | -                   | no            |
//	| yes    | no            | can't be read       | no            |
//	| yes    | no            | as many as replicas | no            |
//	| yes    | no            | fewer               | yes           |
func mayBeServed(sb *v1alpha1.BatchSandbox) bool {
	pods, err := parseAllocStatus(sb)
	if sb.Spec.PoolRef == "" || sb.DeletionTimestamp != nil || err != nil {
		return false
	}
	held := 0
	for _, pod := range pods {
		if pod != "" {
			held++
		}
	}
	return held < int(ptr.Deref(sb.Spec.Replicas, 1))
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
