// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

// Progress says what a batch with tasks waits for, in one line without times.
//
//	| batch                                    | said                                                               |
//	|------------------------------------------|--------------------------------------------------------------------|
//	| is being deleted                         | that                                                               |
//	| no controller has looked at it           | that, and what may be missing                                      |
//	| Allocated is false                       | its place in the queue, and the condition's message                |
//	| tasks run or ended                       | how many                                                           |
//	| all allocated, not all ready             | the message of Ready                                               |
//	| ready, no task runs                      | that tasks start                                                   |
func Progress(sb *v1alpha1.BatchSandbox) string {
	s := &sb.Status
	switch {
	case sb.DeletionTimestamp != nil:
		return "it is being deleted"
	case len(s.Conditions) == 0:
		return "no controller has looked at it yet (does one run, and does it watch this namespace?)"
	}
	var parts []string
	if c := unmet(sb, v1alpha1.ConditionAllocated); c != nil {
		parts = append(parts, allocation(sb, c))
	} else if c := unmet(sb, v1alpha1.ConditionReady); c != nil {
		parts = append(parts, c.Message)
	}
	if counts := counts(s); counts != "" {
		parts = append(parts, counts)
	}
	if c := unmet(sb, v1alpha1.ConditionTasksCompleted); c != nil {
		if _, note, ok := strings.Cut(c.Message, "; "); ok {
			parts = append(parts, note)
		}
	}
	if len(parts) == 0 {
		return "tasks are being started"
	}
	return strings.Join(parts, "; ")
}

func unmet(sb *v1alpha1.BatchSandbox, kind string) *metav1.Condition {
	c := meta.FindStatusCondition(sb.Status.Conditions, kind)
	if c == nil || c.Status == metav1.ConditionTrue {
		return nil
	}
	return c
}

func allocation(sb *v1alpha1.BatchSandbox, c *metav1.Condition) string {
	text := c.Message
	if c.Reason != v1alpha1.ReasonWaitingForPool && c.Reason != v1alpha1.ReasonCreatingPods {
		text = c.Reason + ": " + text
	}
	if held, wanted := int(sb.Status.Replicas), cluster.Replicas(sb); held > 0 && held < wanted {
		text += fmt.Sprintf(" (%d of %d are there)", held, wanted)
	}
	if q := sb.Status.Queue; q != nil {
		text += fmt.Sprintf(" (place %d in the queue, %d sandboxes are wanted in all)", q.Position, q.Waiting)
	}
	return text
}

// counts are the tasks that run or ended, where it is more than one.
func counts(s *v1alpha1.BatchSandboxStatus) string {
	var parts []string
	for _, c := range []struct {
		n    int32
		what string
	}{
		{s.TaskRunning, "running"}, {s.TaskSucceed, "succeeded"}, {s.TaskFailed, "failed"}, {s.TaskUnknown, "with no word from their task-executor"},
	} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "tasks: " + strings.Join(parts, ", ")
}

// Hopeless returns why a batch can't run its tasks as it and its pool are, "" while it may. A batch some of whose tasks began is
// left to go on.
func Hopeless(sb *v1alpha1.BatchSandbox) string {
	s := &sb.Status
	if s.Phase != v1alpha1.PhaseFailed || s.ObservedGeneration != sb.Generation || s.TaskRunning+s.TaskSucceed+s.TaskFailed+s.TaskUnknown > 0 {
		return ""
	}
	for _, kind := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionReady} {
		if c := unmet(sb, kind); c != nil {
			return c.Reason + ": " + c.Message
		}
	}
	return "its phase is " + string(s.Phase)
}
