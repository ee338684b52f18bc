// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// taskPhase is how far a task has come.
type taskPhase int

const (
	// taskPending: not known to be accepted by its executor.
	taskPending taskPhase = iota

	// taskRunning: its process runs.
	taskRunning

	// taskUnknown: its executor can't be reached.
	taskUnknown

	// taskEnded: its process ended; the end is final.
	taskEnded

	// taskStopped: nothing that the tasks of the sandbox started is left.
	taskStopped

	// taskUnstoppable: the executor couldn't be made to say that nothing is left.
	taskUnstoppable
)

// taskState is what is known of the task of one index.
type taskState struct {
	phase taskPhase
	try   int
	ip    string                   // where its executor is
	end   *taskexecutor.Terminated // with taskEnded, and while it is stopped after that
	err   string                   // with taskUnknown and taskUnstoppable
}

// follows says that a try is being run, and not stopped.
func (s taskState) follows() bool { return s.try > 0 && s.phase <= taskUnknown }

// open says that whoever watches the task may have more to tell of it.
func (s taskState) open() bool { return s.phase < taskEnded }

// taskEnd is a task that has ended.
type taskEnd struct {
	failed *v1alpha1.FailedTask // nil for a success, or for a failure of which the status keeps no more than the reason
	reason string               // of a failure without more; "" if the status doesn't have it either
	ok     bool
	// recorded: the end stands in the status of the batch, its durable home.
	recorded bool
}

// desiredTask is the task of one index: taskTemplate with shardTaskPatches[index], and the fields of the sandbox's pod that
// its environment takes and doesn't have yet. The problem says what to change.
func desiredTask(sb *v1alpha1.BatchSandbox, index, try int) (taskexecutor.Task, []fieldRef, *problem) {
	spec, problem := taskSpecOf(sb, index)
	if problem != nil {
		return taskexecutor.Task{}, nil, problem
	}
	task := taskexecutor.Task{Name: taskName(sb.UID, index, try), Process: taskexecutor.Process{
		Command:    spec.Process.Command,
		Args:       spec.Process.Args,
		WorkingDir: spec.Process.WorkingDir,
	}}
	if spec.TimeoutSeconds != nil {
		task.Process.TimeoutSeconds = *spec.TimeoutSeconds
	}
	env, fields, err := environment(spec.Process.Env)
	if err != nil {
		return taskexecutor.Task{}, nil, taskProblem("the task of index %d %v", index, err)
	}
	task.Process.Env = env
	if err := taskexecutor.ValidateSet([]taskexecutor.Task{task}); err != nil {
		return taskexecutor.Task{}, nil, taskProblem("the task of index %d can't be run: %v", index, err)
	}
	if size := taskSize(&task); size > maxTaskBytes {
		return taskexecutor.Task{}, nil, taskProblem("the task of index %d takes %d bytes, at most %d are handed to a task-executor: "+
			"put it into a file of the sandbox's image or volume", index, size, maxTaskBytes)
	}
	return task, fields, nil
}

// maxTaskBytes bounds a task in JSON. The answer of its executor has the task too, beside its state.
const maxTaskBytes = taskexecutor.MaxBodyBytes - 64<<10

// taskSize is the size of a task in JSON, or less than maxTaskBytes where it is small enough in any case.
func taskSize(task *taskexecutor.Task) int {
	const longest = 6 // bytes for one, such as those of \u003c
	size := 1 << 10
	for _, list := range [][]string{task.Process.Command, task.Process.Args, {task.Process.WorkingDir}} {
		for _, text := range list {
			size += longest*len(text) + len(`"",`)
		}
	}
	for _, e := range task.Process.Env {
		size += longest*(len(e.Name)+len(e.Value)) + len(`{"name":"","value":""},`)
	}
	if size <= maxTaskBytes {
		return size
	}
	return len(mustJSON(task))
}

// maxPatchedBytes bounds what the patches of a batch's tasks are applied to, all together: some seconds of work, each time that
// replicas change.
const maxPatchedBytes = 64 << 20

// tooMuchPatching finds a large task with many patches. Each patch takes time in proportion to the task, so that one object of a
// megabyte could keep the controller busy for minutes.
func tooMuchPatching(sb *v1alpha1.BatchSandbox, replicas int) *problem {
	patches := min(len(sb.Spec.ShardTaskPatches), replicas)
	if patches == 0 {
		return nil
	}
	size := len(mustJSON(sb.Spec.TaskTemplate))
	if size*patches <= maxPatchedBytes {
		return nil
	}
	return taskProblem("spec.taskTemplate of %d bytes with %d shardTaskPatches is too much, %d of them can be applied: use several batches, "+
		"or put what is long into a file of the sandbox's image or volume", size, patches, maxPatchedBytes/size)
}

// taskSpecOf is taskTemplate.spec with shardTaskPatches[index]. The problem says what to change.
func taskSpecOf(sb *v1alpha1.BatchSandbox, index int) (*v1alpha1.TaskSpec, *problem) {
	template := sb.Spec.TaskTemplate
	if index < len(sb.Spec.ShardTaskPatches) {
		patched, err := patchTask(template, sb.Spec.ShardTaskPatches[index].Raw)
		if err != nil {
			return nil, taskProblem("spec.shardTaskPatches[%d] %v", index, err)
		}
		template = patched
	}
	if limit := template.Spec.BackoffLimit; limit != nil && *limit < 0 {
		return nil, taskProblem("the task of index %d has a backoffLimit of %d: make it at least 0", index, *limit)
	}
	return &template.Spec, nil
}

func taskProblem(format string, args ...any) *problem {
	return &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTask, fmt.Sprintf(format, args...)}
}

// patchTask applies a strategic merge patch to a task template. The error completes a sentence that begins with the
// patch.
func patchTask(template *v1alpha1.TaskTemplate, patch []byte) (*v1alpha1.TaskTemplate, error) {
	original, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("can't be applied: %w", err)
	}
	merged, err := mergePatch(original, patch, v1alpha1.TaskTemplate{})
	if err != nil {
		return nil, fmt.Errorf("is no strategic merge patch of a task: %w", err)
	}
	patched := &v1alpha1.TaskTemplate{}
	if err := json.Unmarshal(merged, patched); err != nil {
		return nil, fmt.Errorf("makes something that is no task: %w", err)
	}
	if err := settleSources(patched.Spec.Process.Env, patch); err != nil {
		return nil, fmt.Errorf("is no strategic merge patch of a task: %w", err)
	}
	return patched, nil
}

// taskName identifies a run: batch UID, index and try. An executor never runs a name twice.
func taskName(uid types.UID, index, try int) string {
	return string(uid) + "-" + strconv.Itoa(index) + "-" + strconv.Itoa(try)
}

// recordedEnds are the ends that the status has, their durable home.
func recordedEnds(status *v1alpha1.BatchSandboxStatus) map[int]taskEnd {
	ends := map[int]taskEnd{}
	// A list in the status that can't be read was not written by a controller; its indexes count as not ended.
	completed, _ := indexset.Parse(status.CompletedIndexes)
	failed, _ := indexset.Parse(status.FailedIndexes)
	for _, index := range completed {
		ends[index] = taskEnd{ok: true, recorded: true}
	}
	for _, index := range failed {
		ends[index] = taskEnd{recorded: true}
	}
	for i := range status.FailedTasks {
		f := &status.FailedTasks[i]
		if end, ok := ends[int(f.Index)]; ok && !end.ok {
			end.failed = f
			ends[int(f.Index)] = end
		}
	}
	recallReasons(status, ends)
	return ends
}

func endOf(index int, state taskState) taskEnd {
	t := state.end
	if t.Reason == taskexecutor.ReasonCompleted || (t.Reason == "" && t.ExitCode == 0) {
		return taskEnd{ok: true}
	}
	failed := &v1alpha1.FailedTask{
		Index:  int32(index),     //nolint:gosec // an index is below replicas, an int32
		Tries:  int32(state.try), //nolint:gosec // bounded by backoffLimit, an int32
		Output: t.Output,
	}
	failed.Reason, failed.Message = failedReason(t)
	return taskEnd{failed: withExit(failed, t)}
}

// sortedIndexes are the keys of a map of indexes, in order.
func sortedIndexes[V any](m map[int]V) []int { return slices.Sorted(maps.Keys(m)) }

// withExit adds how the process ended, where somebody saw it.
func withExit(f *v1alpha1.FailedTask, t *taskexecutor.Terminated) *v1alpha1.FailedTask {
	f.Signal = t.Signal
	if t.ExitCode >= 0 && t.Reason != taskexecutor.ReasonStartError {
		f.ExitCode = &t.ExitCode
	}
	return f
}
