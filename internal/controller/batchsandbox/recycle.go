// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/recycling"
)

// markRecycling marks a pod as recycling, so that the pool restarts all its containers once the batch has let it go. It
// returns false if that can't make the pod clean: then it is to be deleted. The batch's labels go with the same write,
// which is refused if the pod is not what the cache shows: the next try decides anew.
func (r *Reconciler) markRecycling(ctx context.Context, obs *observed, s sandbox) (marked bool, err error) {
	pod := &corev1.Pod{}
	key := types.NamespacedName{Namespace: obs.sb.Namespace, Name: s.podName}
	if err := r.client.Get(ctx, key, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("get pod %s: %w", s.podName, err)
	}
	if pod.UID != s.podUID {
		return false, nil
	}
	if _, before := pod.Annotations[v1alpha1.RecyclingAnnotation]; before {
		mark, err := recycling.Parse(pod)
		return err == nil && mark.Batch == obs.sb.UID, nil
	}
	if obstacle := recycling.Obstacle(pod); obstacle != "" {
		r.events.notRecycled(obs.pool, obstacle)
		return false, nil
	}
	body := mustJSON(map[string]any{"metadata": map[string]any{
		"uid":             s.podUID,
		"resourceVersion": pod.ResourceVersion,
		"annotations":     map[string]any{v1alpha1.RecyclingAnnotation: recycling.MarkOf(pod, obs.sb.UID).Encode()},
		"labels":          map[string]any{v1alpha1.BatchNameLabel: nil, v1alpha1.PodIndexLabel: nil},
		"ownerReferences": withoutOwner(pod.OwnerReferences, obs.sb.UID),
	}})
	if err := r.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("mark pod %s as recycling: %w", s.podName, err)
	}
	r.ledger.RefreshPod(poolKey(obs.sb), pod)
	return true, nil
}
