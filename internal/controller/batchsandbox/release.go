// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/recycling"
	"opensandbox.io/controller/internal/utils/slowstart"
)

// finalize gives back all that a batch holds that is being deleted, and then lets it go: stop tasks, recycle, and only
// then the finalizers.
func (r *Reconciler) finalize(ctx context.Context, sb *v1alpha1.BatchSandbox, m *memory) error {
	name := client.ObjectKeyFromObject(sb)
	r.ledger.LeaveQueue(name)
	if m.letGo {
		return nil
	}
	if isReleased(sb) {
		// They were removed by a write whose answer was lost, or by somebody else, and other finalizers keep the object. Nobody
		// knows what of its sandboxes is recycled.
		m.letGo = true
		r.ledger.BatchGone(name)
		r.runner.ForgetBatch(sb.UID)
		return nil
	}
	obs, err := r.observe(ctx, sb, m)
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
	if err := r.removeFinalizers(ctx, sb, ownFinalizers(sb), m); err != nil {
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
	// A batch that is being deleted lets all its pods go at once. Until it does, the pool can't recycle them, but the time
	// for that counts from the mark.
	waits := len(stopped) < len(indexes) && obs.sb.DeletionTimestamp != nil
	done := make([]bool, len(stopped))
	_, err = slowstart.Do(ctx, len(stopped), func(ctx context.Context, i int) error {
		index := stopped[i]
		if waits && recycling.Restarts(recycleTypeOf(obs, index)) {
			return nil
		}
		recycleErr := r.recycle(ctx, obs, index)
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

// stopTasks asks the executors to stop all that runs, and returns the indexes of which nothing is left, or that end with
// their pods in any case.
func (r *Reconciler) stopTasks(obs *observed, indexes []int) (stopped []int) {
	for _, index := range indexes {
		s := obs.sandboxes[index]
		if !obs.hasTasks() || s.lost || s.ip == "" || s.disobeys { // what disobeys is deleted
			stopped = append(stopped, index)
			continue
		}
		switch obs.tasks[index].phase {
		case taskStopped, taskUnstoppable:
			stopped = append(stopped, index)
		default:
			r.runner.Stop(target{
				batch: client.ObjectKeyFromObject(obs.sb), uid: obs.sb.UID, index: index, pod: s.podUID, ip: s.ip,
			})
		}
	}
	return stopped
}
