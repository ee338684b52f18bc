// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
)

// executorCauses tells of tasks whose task-executor is silent.
func executorCauses(f *Facts) ([]Cause, bool) {
	status := f.Batch.Status
	if status.TaskUnknown == 0 {
		return nil, false
	}
	c := condition(status.Conditions, v1alpha1.ConditionTasksCompleted)
	refuses := strings.Contains(c.Message, "refuses the controller")
	pod, detail, evidence := f.brokenExecutor()
	if pod == "" {
		pod = f.podOf(firstUnknown(c.Message))
	}
	cause := Cause{
		Reason: ReasonExecutorUnreachable,
		Sentence: fmt.Sprintf("the task-executor of %s can't be reached, so that nobody knows what became of %s",
			count(int(status.TaskUnknown), "sandbox"), count(int(status.TaskUnknown), "task")),
		Remedy:   "find out what ended it or closed its port 5758 (its log, a NetworkPolicy); delete the pod to have the sandbox replaced and its task run again",
		Evidence: append([]string{fmt.Sprintf("status.taskUnknown is %d", status.TaskUnknown)}, evidence...),
	}
	if index := firstUnknown(c.Message); index >= 0 {
		cause.Sentence += fmt.Sprintf("; the first is that of index %d", index)
		if pod != "" {
			cause.Sentence += " (pod " + pod + ")"
		}
	}
	if detail != "" {
		cause.Sentence += "; " + detail
	}
	if refuses {
		cause.Reason = ReasonExecutorRefuses
		cause.Sentence = fmt.Sprintf("the task-executor of %s refuses the controller: its pod was made while the controller had another root key",
			count(int(status.TaskUnknown), "sandbox"))
		cause.Remedy = "make the batch anew, or delete the pod: a new one knows the present key"
	}
	if pod != "" {
		cause.Commands = []string{f.kubectl("logs", pod, "-c", v1alpha1.TaskExecutorContainer, "--tail=50"), f.kubectl("delete", "pod", pod)}
	}
	if c.Message != "" {
		cause.Evidence = append(cause.Evidence, from("batch", c))
	}
	return one(cause), false
}

// firstUnknown reads the index that the condition names; -1 if it names none.
func firstUnknown(message string) int {
	_, rest, found := strings.Cut(message, "the task-executor of index ")
	if !found {
		return -1
	}
	number, _, _ := strings.Cut(rest, " ")
	index, err := strconv.Atoi(number)
	if err != nil {
		return -1
	}
	return index
}

// podOf is the pod of an index, "" for none.
func (f *Facts) podOf(index int) string {
	for name, i := range indexesOf(f) {
		if i == index {
			return name
		}
	}
	return ""
}

// brokenExecutor finds the first pod whose task-executor doesn't run.
func (f *Facts) brokenExecutor() (pod, detail string, evidence []string) {
	for i := range f.Pods {
		p := &f.Pods[i]
		for j := range p.Status.ContainerStatuses {
			c := &p.Status.ContainerStatuses[j]
			if c.Name != v1alpha1.TaskExecutorContainer || c.State.Running != nil {
				continue
			}
			if t, found := f.containerTrouble(p, c); found {
				return p.Name, t.what, []string{t.evidence}
			}
		}
	}
	return "", "", nil
}

// taskCauses tells how tasks failed, by reason, those with the most failures first.
func taskCauses(f *Facts) ([]Cause, bool) {
	var causes []Cause
	for _, r := range f.failures() {
		causes = append(causes, f.failureCause(r))
	}
	return causes, false
}

// failures are the failed tasks by reason. Those that an older controller recorded have only the details.
func (f *Facts) failures() []v1alpha1.FailedReason {
	status := f.Batch.Status
	if len(status.FailedReasons) > 0 {
		return status.FailedReasons
	}
	byReason := map[string][]int{}
	var reasons []string
	for i := range status.FailedTasks {
		t := &status.FailedTasks[i]
		if byReason[t.Reason] == nil {
			reasons = append(reasons, t.Reason)
		}
		byReason[t.Reason] = append(byReason[t.Reason], int(t.Index))
	}
	all := make([]v1alpha1.FailedReason, 0, len(reasons))
	for _, reason := range slices.Sorted(slices.Values(reasons)) {
		all = append(all, v1alpha1.FailedReason{Reason: reason, Indexes: indexset.Format(byReason[reason])})
	}
	return all
}

func (f *Facts) failureCause(r v1alpha1.FailedReason) Cause {
	indexes, _ := indexset.Parse(r.Indexes) // what can't be read was not written by the controller
	who := fmt.Sprintf("the task of index %s", r.Indexes)
	if len(indexes) > 1 {
		who = fmt.Sprintf("%d tasks (indexes %s)", len(indexes), r.Indexes)
	}
	c := Cause{Evidence: []string{fmt.Sprintf("status.failedReasons: %s %s", r.Reason, r.Indexes)}}
	results := "kubectl sandbox -n " + f.Namespace + " results " + f.Name
	logs := "kubectl sandbox -n " + f.Namespace + " logs " + f.Name + " --failed"
	switch r.Reason {
	case v1alpha1.TaskReasonTimedOut:
		c.Reason = ReasonTaskTimedOut
		c.Sentence = who + " did not end in time and was stopped" + f.timeout()
		c.Remedy, c.Commands = "raise taskTemplate.spec.timeoutSeconds in a new batch, or find out what takes so long", []string{logs}
	case v1alpha1.TaskReasonCancelled:
		c.Reason = ReasonTaskCancelled
		c.Sentence, c.Remedy, c.Commands = who+" stopped before the end, for somebody took it back", "make a new batch to run it", []string{results}
	case v1alpha1.TaskReasonStartError:
		c.Reason = ReasonTaskNotStarted
		c.Sentence = who + " could not be started"
		c.Remedy, c.Commands = "correct the command, or what the message names in the pod's template (shareProcessNamespace, capability SYS_PTRACE of the task-executor)", []string{results}
	case v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		c.Reason = ReasonTaskLost
		what := "sandbox"
		if r.Reason == v1alpha1.TaskReasonExecutorLost {
			what = "task-executor"
		}
		c.Sentence = fmt.Sprintf("%s ended with its %s, more than %d times (%s)", who, what, v1alpha1.MaxLostTries, r.Reason)
		c.Remedy = "find out what ends these pods or containers: memory limits, evictions, nodes that fail, a task that kills its own sandbox"
		c.Commands = []string{f.kubectl("get", "events", "--field-selector", "involvedObject.name="+f.Name), results}
	default:
		c.Reason = ReasonTaskFailed
		c.Sentence = who + " failed"
		c.Remedy, c.Commands = "read what it wrote, and correct the command in a new batch", []string{logs, results}
	}
	c.Sentence += f.firstFailure(r)
	return c
}

// timeout tells the limit, where it is the same for all tasks.
func (f *Facts) timeout() string {
	if t := f.Batch.Spec.TaskTemplate; t != nil && t.Spec.TimeoutSeconds != nil && len(f.Batch.Spec.ShardTaskPatches) == 0 {
		return fmt.Sprintf(" after %d s (timeoutSeconds)", *t.Spec.TimeoutSeconds)
	}
	return " (timeoutSeconds)"
}

// firstFailure tells the first failure of a reason that the status has in detail.
func (f *Facts) firstFailure(r v1alpha1.FailedReason) string {
	at := slices.IndexFunc(f.Batch.Status.FailedTasks, func(t v1alpha1.FailedTask) bool { return t.Reason == r.Reason })
	if at < 0 {
		return ""
	}
	t := f.Batch.Status.FailedTasks[at]
	text := ""
	if t.Signal > 0 {
		text += fmt.Sprintf(" by signal %d (%s)", t.Signal, syscall.Signal(t.Signal))
	} else if t.ExitCode != nil {
		text += fmt.Sprintf(" with exit code %d", *t.ExitCode)
	}
	if text != "" && r.Indexes != strconv.Itoa(int(t.Index)) {
		text = fmt.Sprintf(", the first (index %d)%s", t.Index, text)
	}
	if t.Tries > 1 {
		text += fmt.Sprintf(" after %d tries", t.Tries)
	}
	if t.Message != "" && !strings.HasPrefix(t.Message, "exit status") { // that is the exit code again
		text += ": " + tidy(t.Message)
	}
	if line := lastLine(t.Output); line != "" {
		text += fmt.Sprintf("; the last it wrote is %q", line)
	}
	return text
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
