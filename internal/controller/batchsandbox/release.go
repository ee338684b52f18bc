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
	"opensandbox.io/controller/internal/utils/slowstart"
)

// finalize gives back all that a batch holds that is being deleted, and then lets it go: stop tasks, recycle, and only
// then the finalizers.
func (r *Reconciler) finalize(ctx context.Context, sb *v1alpha1.BatchSandbox, m *memory) error {
	name := client.ObjectKeyFromObject(sb)
	r.ledger.LeaveQueue(name)
	ours := ownFinalizers(sb)
	if len(ours) == 0 || m.letGo {
		return nil
	}
	obs, err := r.observe(ctx, sb)
	if err != nil {
		return err
	}
	var held []int
	for i, s := range obs.sandboxes {
		if s.podName != "" {
			held = append(held, i)
		}
	}
	released, err := r.release(ctx, obs, held)
	if err != nil {
		return err
	}
	if len(released) < len(held) {
		return nil // the tasks that still stop wake the batch when they have
	}
	if err := r.removeFinalizers(ctx, sb, ours, m); err != nil {
		return err
	}
	m.letGo = true
	r.ledger.ReleaseAll(name)
	r.runner.ForgetBatch(sb.UID)
	logf.FromContext(ctx).Info("released batch", "pods", len(held))
	return nil
}

func ownFinalizers(sb *v1alpha1.BatchSandbox) []string {
	var ours []string
	for _, f := range sb.Finalizers {
		if f == v1alpha1.PoolAllocationFinalizer || f == v1alpha1.TaskCleanupFinalizer {
			ours = append(ours, f)
		}
	}
	return ours
}

func (r *Reconciler) removeFinalizers(ctx context.Context, sb *v1alpha1.BatchSandbox, ours []string, m *memory) error {
	keep := slices.DeleteFunc(slices.Clone(sb.Finalizers), func(f string) bool { return slices.Contains(ours, f) })
	body := mustJSON(map[string]any{"metadata": map[string]any{
		"resourceVersion": sb.ResourceVersion, "finalizers": notNil(keep),
	}})
	patched := sb.DeepCopy()
	if err := r.client.Patch(ctx, patched, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("remove finalizers: %w", err)
	}
	m.wrote(patched)
	return nil
}

// release stops the tasks of these indexes and makes their pods fit for the next user, or deletes them. It returns the
// indexes for which that is done; those whose tasks still stop come later.
func (r *Reconciler) release(ctx context.Context, obs *observed, indexes []int) (released []int, err error) {
	stopped := r.stopTasks(obs, indexes)
	done := make([]bool, len(stopped))
	_, err = slowstart.Do(ctx, len(stopped), func(ctx context.Context, i int) error {
		index := stopped[i]
		recycleErr := r.recycle(ctx, obs, obs.sandboxes[index], obs.tasks[index].phase == taskUnstoppable)
		done[i] = recycleErr == nil
		return recycleErr
	})
	for i, index := range stopped {
		if done[i] {
			released = append(released, index)
		}
	}
	return released, err
}

// stopTasks asks the executors to stop all that runs, and returns the indexes of which nothing is left.
func (r *Reconciler) stopTasks(obs *observed, indexes []int) (stopped []int) {
	for _, index := range indexes {
		s := obs.sandboxes[index]
		if !obs.hasTasks() || s.lost || s.ip == "" {
			stopped = append(stopped, index)
			continue
		}
		switch obs.tasks[index].phase {
		case taskStopped, taskUnstoppable:
			stopped = append(stopped, index)
		default:
			r.runner.Stop(target{
				batch: client.ObjectKeyFromObject(obs.sb), uid: obs.sb.UID, index: index, ip: s.ip,
			})
		}
	}
	return stopped
}

// recycle makes a released pod fit for the next user by what its pool says:
//
//	| pod's batch    | recycle type | tasks stopped | labelled | done                         |
//	| made it itself | -            | -             | -        | delete                       |
//	| pooled         | Noop         | yes           | no       | nothing: idle once released  |
//	| pooled         | Noop         | yes           | yes      | remove the labels            |
//	| pooled         | Restart      | yes           | -        | mark it, if that can be done |
//	| pooled         | other        | -             | -        | delete                       |
//	| pooled         | -            | no            | -        | delete                       |
func (r *Reconciler) recycle(ctx context.Context, obs *observed, s sandbox, tainted bool) error {
	if s.gone {
		return nil
	}
	how := v1alpha1.RecycleDelete
	if obs.pooled() && !tainted && (!s.lost || s.recycling) {
		how = recycleType(obs.pool)
	}
	switch {
	case how == v1alpha1.RecycleNoop && !s.recycling:
		return r.unlabel(ctx, obs, s)
	case how == v1alpha1.RecycleRestart:
		if marked, err := r.markRecycling(ctx, obs, s); marked || err != nil {
			return err
		}
	}
	if err := r.deletePod(ctx, obs.sb.Namespace, s.podName, s.podUID); err != nil {
		return err
	}
	if obs.pooled() {
		r.ledger.Discard(poolKey(obs.sb), s.podName)
	}
	return nil
}

// recycleType is what the pool wants done with released pods. Where the pool is gone, or doesn't say, the answer is the
// one that is always clean: delete.
func recycleType(pool *v1alpha1.Pool) v1alpha1.RecycleType {
	if pool == nil || pool.DeletionTimestamp != nil || pool.Spec.RecycleStrategy == nil {
		return v1alpha1.RecycleDelete
	}
	switch how := pool.Spec.RecycleStrategy.Type; how {
	case v1alpha1.RecycleNoop, v1alpha1.RecycleRestart:
		return how
	default:
		return v1alpha1.RecycleDelete
	}
}

// unlabel takes the batch's labels off a pod before it is idle again.
func (r *Reconciler) unlabel(ctx context.Context, obs *observed, s sandbox) error {
	pod := &corev1.Pod{}
	key := types.NamespacedName{Namespace: obs.sb.Namespace, Name: s.podName}
	if err := r.client.Get(ctx, key, pod); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("get pod %s: %w", s.podName, err))
	}
	if !s.labelled && pod.Labels[v1alpha1.BatchNameLabel] == "" {
		return nil
	}
	body := mustJSON(map[string]any{"metadata": map[string]any{
		"uid":             s.podUID,
		"labels":          map[string]any{v1alpha1.BatchNameLabel: nil, v1alpha1.PodIndexLabel: nil},
		"ownerReferences": withoutOwner(pod.OwnerReferences, obs.sb.UID),
	}})
	if err := r.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("remove the batch's labels from pod %s: %w", s.podName, err))
	}
	r.ledger.RefreshPod(poolKey(obs.sb), pod)
	return nil
}
