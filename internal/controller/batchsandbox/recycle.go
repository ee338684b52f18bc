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

// recycle makes a released pod fit for the next user by what its pool says, or deletes it. Tasks whose executor obeys another
// root can't be stopped:
//
//	| pod's batch    | tasks stopped | tasks failed again and again | recycle type   | labelled | done                         |
//	| made it itself | -             | -                            | -              | -        | delete                       |
//	| pooled         | no            | -                            | -              | -        | delete                       |
//	| pooled         | yes           | yes                          | -              | -        | delete                       |
//	| pooled         | yes           | no                           | Noop           | no       | nothing: idle once released  |
//	| pooled         | yes           | no                           | Noop           | yes      | remove the labels            |
//	| pooled         | yes           | no                           | Restart, unset | -        | mark it, if that can be done |
//	| pooled         | yes           | no                           | other          | -        | delete                       |
func (r *Reconciler) recycle(ctx context.Context, obs *observed, index int) error {
	s := obs.sandboxes[index]
	if s.gone {
		return nil
	}
	out := reuse{}
	if how := recycleTypeOf(obs, index); how != v1alpha1.RecycleDelete {
		var err error
		if out, err = r.reuse(ctx, obs, index, how); err != nil || out.done {
			return err
		}
	}
	if err := r.deletePod(ctx, obs.sb.Namespace, s.podName, s.podUID); err != nil {
		return err
	}
	switch {
	case !obs.pooled():
	case s.lost && !s.recycling:
		r.ledger.Discard(poolKey(obs.sb), s.podName)
	default:
		r.ledger.Replace(poolKey(obs.sb), s.podName)
	}
	if out.failures.quarantined() {
		r.events.quarantined(obs.pool, s.podName)
	}
	return nil
}

// recycleTypeOf is what is to be done with the released pod of an index. Where the pool is gone, or the pod is in no state to
// be used again, the answer is the one that is always clean: delete.
func recycleTypeOf(obs *observed, index int) v1alpha1.RecycleType {
	s := obs.sandboxes[index]
	switch {
	case !obs.pooled(), obs.pool == nil, obs.pool.DeletionTimestamp != nil,
		obs.tasks[index].phase == taskUnstoppable, s.disobeys, s.lost && !s.recycling:
		return v1alpha1.RecycleDelete
	}
	how := recycling.TypeOf(obs.pool)
	if s.recycling && how == v1alpha1.RecycleNoop {
		return v1alpha1.RecycleDelete
	}
	return how
}

// reuse is what came of the try to keep a released pod.
type reuse struct {
	// done: the pod is kept. Otherwise it is to be deleted.
	done bool

	// failures are those of tasks in the pod, this holder's included.
	failures failures
}

// reuse makes a released pod fit for the next user without deleting it, if that can be done.
func (r *Reconciler) reuse(ctx context.Context, obs *observed, index int, how v1alpha1.RecycleType) (reuse, error) {
	s := obs.sandboxes[index]
	pod := &corev1.Pod{}
	key := types.NamespacedName{Namespace: obs.sb.Namespace, Name: s.podName}
	if err := r.client.Get(ctx, key, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return reuse{}, nil
		}
		return reuse{}, fmt.Errorf("get pod %s: %w", s.podName, err)
	}
	if pod.UID != s.podUID {
		return reuse{}, nil
	}
	if _, before := pod.Annotations[v1alpha1.RecyclingAnnotation]; before {
		mark, err := recycling.Parse(pod)
		return reuse{done: err == nil && mark.Batch == obs.sb.UID}, nil
	}
	out := reuse{failures: failuresOf(pod).after(holderOf(obs, index), verdictOf(obs, index))}
	if out.failures.quarantined() {
		return out, nil
	}
	annotations := map[string]any{}
	out.failures.note(annotations, pod)
	var err error
	switch {
	case how != v1alpha1.RecycleNoop:
		out.done, err = r.mark(ctx, obs, pod, annotations)
	case !s.labelled && pod.Labels[v1alpha1.BatchNameLabel] == "" && len(annotations) == 0:
		out.done = true // there is nothing to write
	default:
		out.done, err = r.unlabel(ctx, obs, pod, annotations)
	}
	return out, err
}

// mark marks a pod as recycling, so that the pool restarts all its containers once the batch has let it go. It returns false
// if that can't make the pod clean. The batch's labels go with the same write, and the annotations are added to it; it
// is refused if the pod is not what the cache shows: the next try decides anew.
func (r *Reconciler) mark(ctx context.Context, obs *observed, pod *corev1.Pod, annotations map[string]any) (done bool, err error) {
	if obstacle := recycling.Obstacle(pod); obstacle != "" {
		if recycling.TypeOf(obs.pool) == v1alpha1.RecycleRestart {
			r.events.notRecycled(obs.pool, obstacle)
		}
		return false, nil
	}
	annotations[v1alpha1.RecyclingAnnotation] = recycling.MarkOf(pod, obs.sb.UID, obs.now).Encode()
	done, err = r.partWith(ctx, obs, pod, map[string]any{"resourceVersion": pod.ResourceVersion, "annotations": annotations})
	if err != nil {
		return false, fmt.Errorf("mark pod %s as recycling: %w", pod.Name, err)
	}
	return done, nil
}

// unlabel takes the batch's labels off a pod before it is idle again, and writes these annotations. It returns false if the pod
// is gone.
func (r *Reconciler) unlabel(ctx context.Context, obs *observed, pod *corev1.Pod, annotations map[string]any) (done bool, err error) {
	done, err = r.partWith(ctx, obs, pod, map[string]any{"annotations": annotations})
	if err != nil {
		return false, fmt.Errorf("remove the batch's labels from pod %s: %w", pod.Name, err)
	}
	return done, nil
}

// partWith takes the batch's labels and its ownership off a pod, in one write with the rest of the metadata that is to change.
// It returns false if the pod is gone.
func (r *Reconciler) partWith(ctx context.Context, obs *observed, pod *corev1.Pod, metadata map[string]any) (done bool, err error) {
	metadata["uid"] = pod.UID
	metadata["labels"] = map[string]any{v1alpha1.BatchNameLabel: nil, v1alpha1.PodIndexLabel: nil}
	metadata["ownerReferences"] = withoutOwner(pod.OwnerReferences, obs.sb.UID)
	body := mustJSON(map[string]any{"metadata": metadata})
	if err := r.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	r.ledger.RefreshPod(poolKey(obs.sb), pod)
	return true, nil
}
