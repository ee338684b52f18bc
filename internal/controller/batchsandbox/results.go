// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// why is the reason of a failure, "" if nobody knows it any more.
func (e taskEnd) why() string {
	if e.failed != nil {
		return e.failed.Reason
	}
	return e.reason
}

// failedReason is the reason of a failure in the words of the status, and its message. An executor may be of another version,
// or in the hands of somebody in the sandbox: a word of its own counts as an exit of the process, and is told.
func failedReason(t *taskexecutor.Terminated) (reason, message string) {
	switch t.Reason {
	case v1alpha1.TaskReasonNonZeroExit, v1alpha1.TaskReasonTimedOut, v1alpha1.TaskReasonCancelled,
		v1alpha1.TaskReasonStartError, v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		return t.Reason, t.Message
	case "":
		return v1alpha1.TaskReasonNonZeroExit, t.Message
	}
	if t.Message == "" {
		return v1alpha1.TaskReasonNonZeroExit, t.Reason
	}
	return v1alpha1.TaskReasonNonZeroExit, cut(t.Reason + ": " + t.Message)
}

// recallReasons gives the failures that the status has the reasons that it has. An index that two reasons claim, as after
// somebody's edit, has the first.
func recallReasons(status *v1alpha1.BatchSandboxStatus, ends map[int]taskEnd) {
	for i := range status.FailedReasons {
		f := &status.FailedReasons[i]
		indexes, _ := indexset.Parse(f.Indexes) // what can't be read was not written by a controller
		for _, index := range indexes {
			if end, ok := ends[index]; ok && !end.ok && end.why() == "" {
				end.reason = f.Reason
				ends[index] = end
			}
		}
	}
}

// formatReasons lists the failed indexes by reason, in the order of the reasons. Those without one are not listed.
func formatReasons(byReason map[string][]int) []v1alpha1.FailedReason {
	var list []v1alpha1.FailedReason
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		if reason != "" {
			list = append(list, v1alpha1.FailedReason{Reason: reason, Indexes: indexset.Format(byReason[reason])})
		}
	}
	return list
}

// whyFailed completes a message with the number of failures by reason, the user's apart from the infrastructure's:
// ": 3 by themselves (2 NonZeroExit, 1 TimedOut), 1 by the infrastructure (StartError)".
func whyFailed(status *v1alpha1.BatchSandboxStatus) string {
	var own, infrastructure blame
	for i := range status.FailedReasons {
		f := &status.FailedReasons[i]
		indexes, _ := indexset.Parse(f.Indexes) // formatReasons wrote it
		if taskexecutor.IsInfrastructureReason(f.Reason) {
			infrastructure.add(f.Reason, len(indexes))
		} else {
			own.add(f.Reason, len(indexes))
		}
	}
	var parts []string
	if own.total > 0 {
		parts = append(parts, own.say("by themselves"))
	}
	if infrastructure.total > 0 {
		parts = append(parts, infrastructure.say("by the infrastructure"))
	}
	if unknown := int(status.TaskFailed) - own.total - infrastructure.total; unknown > 0 && len(parts) > 0 {
		parts = append(parts, fmt.Sprintf("%d for reasons that are not known any more", unknown))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

// blame counts failures of one side.
type blame struct {
	total   int
	reasons []string
	counts  []int
}

func (b *blame) add(reason string, n int) {
	b.total += n
	b.reasons, b.counts = append(b.reasons, reason), append(b.counts, n)
}

// say leaves out the count of a reason that stands alone.
func (b *blame) say(whom string) string {
	if len(b.reasons) == 1 {
		return fmt.Sprintf("%d %s (%s)", b.total, whom, b.reasons[0])
	}
	list := make([]string, len(b.reasons))
	for i, reason := range b.reasons {
		list[i] = fmt.Sprintf("%d %s", b.counts[i], reason)
	}
	return fmt.Sprintf("%d %s (%s)", b.total, whom, strings.Join(list, ", "))
}
