// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

// summary says in one line how the object is.
func summary(f *Facts) string {
	switch {
	case f.Kind == KindPool && f.Pool != nil:
		s, c := f.Pool.Status, f.Pool.Spec.CapacitySpec
		return fmt.Sprintf("Pool %s has %s of %d to %d: %d held, %d available, %d starting; %s %s waited for",
			f.Name, count(int(s.Total), "pod"), c.PoolMin, c.PoolMax, s.Allocated, s.Available, s.Starting, count(int(s.Waiting), "sandbox"), is(int(s.Waiting)))
	case f.Kind == KindBatch && f.Batch != nil:
		s := f.Batch.Status
		text := fmt.Sprintf("%s has %d of %s Ready", f.Name, s.Ready, count(cluster.Replicas(f.Batch), "sandbox"))
		if f.Batch.Spec.TaskTemplate == nil {
			return text
		}
		var tasks []string
		for _, t := range []struct {
			n    int32
			word string
		}{
			{s.TaskPending, "pending"}, {s.TaskRunning, "running"}, {s.TaskSucceed, "succeeded"}, {s.TaskFailed, "failed"}, {s.TaskUnknown, "unknown"},
		} {
			if t.n > 0 {
				tasks = append(tasks, fmt.Sprintf("%d %s", t.n, t.word))
			}
		}
		if len(tasks) > 0 {
			text += "; tasks: " + strings.Join(tasks, ", ")
		}
		return text
	default:
		return fmt.Sprintf("%s %s is not there", f.Kind, f.Name)
	}
}

// notes are good to know, though nothing is wrong with it.
func notes(f *Facts) []string {
	var all []string
	if len(f.Hidden) > 0 {
		all = append(all, "not looked at, for you may not read them: "+strings.Join(f.Hidden, ", "))
	}
	if c, stale := f.leaseCause(); stale {
		if causes, _ := controllerCauses(f); len(causes) == 0 {
			all = append(all, c.Sentence)
		}
	}
	if f.Kind == KindPool {
		return append(all, poolNotes(f)...)
	}
	sb := f.Batch
	if sb.Spec.ExpireTime != nil && sb.DeletionTimestamp == nil {
		all = append(all, fmt.Sprintf("it expires at %s, in %s: kubectl sandbox -n %s extend %s --by 1h", at(sb.Spec.ExpireTime.Time),
			ago(sb.Spec.ExpireTime.Time, f.Now), f.Namespace, f.Name))
	}
	if sb.Status.Restarts > 0 {
		all = append(all, fmt.Sprintf("containers of its sandboxes restarted %d times while it held them", sb.Status.Restarts))
	}
	if e := f.lastEvent(KindBatch, f.Name, "SandboxLost", "TooLarge", "DoubleAllocation"); e != nil {
		all = append(all, fmt.Sprintf("%s ago: %s: %s", ago(f.Now, eventTime(e)), e.Reason, tidy(e.Message)))
	}
	if c := condition(sb.Status.Conditions, v1alpha1.ConditionTasksCompleted); c.Status == metav1.ConditionFalse && strings.Contains(c.Message, ";") && sb.Status.TaskUnknown == 0 {
		all = append(all, tidy(c.Message))
	}
	return all
}

func poolNotes(f *Facts) []string {
	var all []string
	s := f.Pool.Status
	if s.LastScaleReason != "" {
		all = append(all, "its last decision about its size: "+s.LastScaleReason)
	}
	if s.Updated < s.Total {
		all = append(all, fmt.Sprintf("%d of %d pods are of the present template; those that batches hold are replaced when they are given back", s.Updated, s.Total))
	}
	if s.RecycleObstacle != "" {
		all = append(all, "released pods are deleted and not restarted: "+tidy(s.RecycleObstacle))
	}
	if c := condition(s.Conditions, v1alpha1.ConditionScalingLimited); c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonStartingLimit {
		all = append(all, tidy(c.Message))
	}
	return all
}
