// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TaskResourcePolicy says what happens to a sandbox whose task has ended.
// +kubebuilder:validation:Enum=Retain;Release
type TaskResourcePolicy string

const (
	// TaskResourcePolicyRetain keeps every sandbox until the batch is deleted.
	TaskResourcePolicyRetain TaskResourcePolicy = "Retain"

	// TaskResourcePolicyRelease gives each sandbox back when its own task ends; its index is not refilled.
	TaskResourcePolicyRelease TaskResourcePolicy = "Release"
)

// BatchSandboxPhase is a summary of a batch in one word.
type BatchSandboxPhase string

const (
	// PhasePending: not every requested sandbox is usable yet.
	PhasePending BatchSandboxPhase = "Pending"

	// PhaseSucceed: every requested sandbox is usable. The spelling is the ecosystem's.
	PhaseSucceed BatchSandboxPhase = "Succeed"

	// PhaseFailed: the batch can't get what it asks for as it stands. Never sticky.
	PhaseFailed BatchSandboxPhase = "Failed"
)

// BatchSandboxSpec says how many identical sandboxes are wanted, where from, for how long, and what to run
// in each.
//
// +kubebuilder:validation:XValidation:rule="(has(self.poolRef) ? self.poolRef : \"\") == (has(oldSelf.poolRef) ? oldSelf.poolRef : \"\")",message="poolRef is immutable"
// +kubebuilder:validation:XValidation:rule="has(self.taskTemplate) == has(oldSelf.taskTemplate) && (!has(self.taskTemplate) || self.taskTemplate == oldSelf.taskTemplate)",message="taskTemplate is immutable"
// +kubebuilder:validation:XValidation:rule="has(self.shardTaskPatches) == has(oldSelf.shardTaskPatches) && (!has(self.shardTaskPatches) || self.shardTaskPatches == oldSelf.shardTaskPatches)",message="shardTaskPatches is immutable"
type BatchSandboxSpec struct {
	// replicas is the number of identical sandboxes. It may be raised and lowered; the highest indexes go
	// first. Defaults to 1; at least 0.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	Replicas *int32 `json:"replicas,omitempty"`

	// poolRef is the name of the Pool of the same namespace that the sandboxes come from. Empty: pods are
	// created from template. Immutable.
	// +optional
	PoolRef string `json:"poolRef,omitempty"`

	// template is the pod template (a PodTemplateSpec) of a batch without poolRef. Where both are set
	// poolRef wins and template is ignored. Edits affect pods created later.
	// +optional
	Template *RawObject `json:"template,omitempty"`

	// shardPatches are strategic merge patches: entry i is applied to the rendered pod of replica i. Only
	// without poolRef. An index without a patch has the template as it is; more patches than replicas are ignored. Edits
	// affect pods created later.
	// +optional
	// +listType=atomic
	ShardPatches []RawObject `json:"shardPatches,omitempty"`

	// expireTime is when the batch is deleted: RFC 3339, with or without a fraction. A time in the past
	// deletes it at once. It may be moved or removed. Unset: never.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`
	ExpireTime *metav1.Time `json:"expireTime,omitempty"`

	// taskTemplate is the task that runs in each sandbox. Unset: none does, and the sandboxes are for whoever reaches their
	// endpoints. Immutable.
	// +optional
	TaskTemplate *TaskTemplate `json:"taskTemplate,omitempty"`

	// shardTaskPatches are strategic merge patches: entry i is applied to the taskTemplate of replica i.
	// env merges by name; command and args replace. An index without a patch runs taskTemplate as it is; more patches than
	// replicas are ignored. At most 100000. Immutable.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100000
	ShardTaskPatches []RawObject `json:"shardTaskPatches,omitempty"`

	// taskResourcePolicyWhenCompleted says what happens to a sandbox whose task has ended: Retain keeps it,
	// Release gives it back. Defaults to Retain.
	// +optional
	// +kubebuilder:default=Retain
	TaskResourcePolicyWhenCompleted *TaskResourcePolicy `json:"taskResourcePolicyWhenCompleted,omitempty"`

	// minAvailable is the number of sandboxes to hand over together: none is handed over until this many
	// can be. Unset or 0: each is handed over as soon as there is one. Above replicas it counts as replicas.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	MinAvailable *int32 `json:"minAvailable,omitempty"`

	// priority is the place in the pool's queue: higher first, then oldest first. It may be negative. Defaults to 0.
	// +optional
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	Priority *int32 `json:"priority,omitempty"`

	// allocationTimeoutSeconds is how long the batch may wait for its pool, in seconds, before it fails with
	// reason AllocationTimedOut. At least 1. Unset: as long as it takes.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=9223372036
	AllocationTimeoutSeconds *int64 `json:"allocationTimeoutSeconds,omitempty"`

	// ttlSecondsAfterFinished deletes the batch this many seconds after all its tasks ended; 0: at once. Unset: never.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// TaskTemplate is the task of each sandbox before shardTaskPatches are applied.
// +kubebuilder:pruning:PreserveUnknownFields
type TaskTemplate struct {
	// spec is what to run.
	Spec TaskSpec `json:"spec"`
}

// TaskSpec is a process to run and what to do when it fails.
// +kubebuilder:pruning:PreserveUnknownFields
type TaskSpec struct {
	// process is the process to run in the sandbox container.
	Process Process `json:"process"`

	// timeoutSeconds stops and fails a try of the task after this many seconds. Unset or 0: no limit. May be patched per replica.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9223372036
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`

	// backoffLimit is the number of further tries after the task fails by itself (exit code, timeout). Defaults
	// to 0: such a failure is the end. A try waits for 1 s after the first failure, and twice as long after each
	// further one, up to 5 min (the kubelet's limit for containers that crash; its 10 s are for starting a
	// container, and a try in a warm sandbox costs a process). Nothing of the try before is left in the sandbox when
	// one begins. Tries that were lost with their sandbox or task-executor don't count: they are run again at
	// once, three times at most. A task that can't be started is not tried again. May be patched per replica.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	BackoffLimit *int32 `json:"backoffLimit,omitempty"`
}

// Process is a command with its surroundings.
// +kubebuilder:pruning:PreserveUnknownFields
type Process struct {
	// command is the executable and its first arguments, at least the former; not run in a shell. The executable is looked up in
	// the sandbox container's PATH.
	// +listType=atomic
	Command []string `json:"command"`

	// args are appended to command.
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`

	// env is added to the environment of the sandbox container, by name. A valueFrom may have a fieldRef, which takes a
	// field of the sandbox's pod as it is when the try is handed over: metadata.name, namespace, uid, labels['KEY'] and
	// annotations['KEY'], spec.nodeName and serviceAccountName, status.hostIP, hostIPs, podIP and podIPs. Other sources are refused:
	// put them into env or envFrom of the sandbox container. Nothing is expanded: $(NAME) stays as it is.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchStrategy=merge
	// +patchMergeKey=name
	Env []corev1.EnvVar `json:"env,omitempty" patchStrategy:"merge" patchMergeKey:"name"`

	// workingDir is the working directory. Defaults to that of the sandbox container's main process.
	// +optional
	WorkingDir string `json:"workingDir,omitempty"`
}

// BatchSandboxStatus is what the controller last saw of a batch.
type BatchSandboxStatus struct {
	// observedGeneration is the generation of the spec this status answers.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// phase sums the batch up: Pending, Succeed (all requested sandboxes are usable) or Failed.
	// +optional
	Phase BatchSandboxPhase `json:"phase,omitempty"`

	// replicas is the number of pods held.
	// +optional
	// +kubebuilder:default=0
	Replicas int32 `json:"replicas"`

	// allocated is the number of held pods that are bound to a node or have an IP.
	// +optional
	// +kubebuilder:default=0
	Allocated int32 `json:"allocated"`

	// ready is the number of held pods that are Ready.
	// +optional
	// +kubebuilder:default=0
	Ready int32 `json:"ready"`

	// taskRunning is the number of tasks that run.
	// +optional
	// +kubebuilder:default=0
	TaskRunning int32 `json:"taskRunning"`

	// taskSucceed is the number of tasks that ended with exit code 0.
	// +optional
	// +kubebuilder:default=0
	TaskSucceed int32 `json:"taskSucceed"`

	// taskFailed is the number of tasks that ended otherwise.
	// +optional
	// +kubebuilder:default=0
	TaskFailed int32 `json:"taskFailed"`

	// taskPending is the number of tasks that wait for their sandbox or their start.
	// +optional
	// +kubebuilder:default=0
	TaskPending int32 `json:"taskPending"`

	// taskUnknown is the number of tasks whose task-executor can't be reached.
	// +optional
	// +kubebuilder:default=0
	TaskUnknown int32 `json:"taskUnknown"`

	// selector is the label selector of the batch's pods, as a string.
	// +optional
	Selector string `json:"selector,omitempty"`

	// completedIndexes are the indexes whose task succeeded, compressed: "0-3,7".
	// +optional
	CompletedIndexes string `json:"completedIndexes,omitempty"`

	// failedIndexes are the indexes whose task failed for good, compressed: "0-3,7".
	// +optional
	FailedIndexes string `json:"failedIndexes,omitempty"`

	// failedTasks tells of the failures with the lowest indexes, at most 10, in index order.
	// +optional
	// +listType=map
	// +listMapKey=index
	FailedTasks []FailedTask `json:"failedTasks,omitempty"`

	// failedReasons tells of every failure why it failed: the failed indexes by reason. Failures that an older controller
	// recorded are in failedIndexes alone.
	// +optional
	// +listType=map
	// +listMapKey=reason
	FailedReasons []FailedReason `json:"failedReasons,omitempty"`

	// taskTries lists the indexes that are beyond their first try, in order. It is written before the next try
	// is run.
	// +optional
	// +listType=map
	// +listMapKey=index
	TaskTries []TaskTries `json:"taskTries,omitempty"`

	// restarts is the number of times containers of the batch's sandboxes restarted while it held them, those of the
	// task-executor and init containers apart. Restarts while no controller runs are not counted.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`

	// queue is the place in the pool's queue while the batch waits. It is there within a second after the batch began to
	// wait, and follows within a second while no more than 50 places are wrong at once. In longer queues that move, 100
	// places a second are told anew, of all pools together, and those first that are most wrong in proportion: the
	// far end of a queue may lag. When a queue stands still, every place becomes right.
	// +optional
	Queue *QueueStatus `json:"queue,omitempty"`

	// conditions are Allocated, Ready and, with tasks, TasksCompleted.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
}

// FailedTask tells how one task failed.
type FailedTask struct {
	// index is the replica index of the task.
	Index int32 `json:"index"`

	// reason is NonZeroExit, TimedOut or Cancelled (the user's), or StartError, SandboxLost or ExecutorLost
	// (the infrastructure's).
	Reason string `json:"reason"`

	// message says more about the reason.
	// +optional
	Message string `json:"message,omitempty"`

	// exitCode is the exit code of the process, where it ended by itself.
	// +optional
	ExitCode *int32 `json:"exitCode,omitempty"`

	// signal is the number of the signal that ended the process, 0 for none.
	// +optional
	Signal int32 `json:"signal,omitempty"`

	// tries is the number of times the task was run.
	// +optional
	Tries int32 `json:"tries,omitempty"`

	// output has the last lines the task wrote, at most 1 KiB.
	// +optional
	Output string `json:"output,omitempty"`
}

// FailedReason are the tasks that failed for one reason.
type FailedReason struct {
	// reason is one of those of failedTasks.
	Reason string `json:"reason"`

	// indexes are the failed tasks, compressed: "0-3,7".
	Indexes string `json:"indexes"`
}

// TaskTries counts the tries of one index before its current or last one.
type TaskTries struct {
	// index is the replica index of the task.
	Index int32 `json:"index"`

	// failed is the number of tries that failed by themselves; backoffLimit bounds it.
	// +optional
	Failed int32 `json:"failed,omitempty"`

	// lost is the number of tries that the infrastructure lost and that were run again, at most 3.
	// +optional
	Lost int32 `json:"lost,omitempty"`

	// withdrawn is the number of tries that were taken back because replicas was lowered. Where it is raised
	// again the index begins another one.
	// +optional
	Withdrawn int32 `json:"withdrawn,omitempty"`

	// lostWith is the pod, or in a batch without poolRef the address, of the sandbox that the last lost try was lost
	// with, as long as the next one was not begun there. The controller goes by it after a restart.
	// +optional
	LostWith string `json:"lostWith,omitempty"`
}

// QueueStatus is the place of a batch in its pool's queue.
type QueueStatus struct {
	// position counts from 1, the batch that is served next.
	Position int32 `json:"position"`

	// waiting is the number of sandboxes that all batches of the queue wait for.
	Waiting int32 `json:"waiting"`
}

// BatchSandbox is a number of identical sandboxes, each a pod, taken from a Pool or made from a template,
// with an optional task in each.
//
// +genclient
// +genclient:method=GetScale,verb=get,subresource=scale,result=k8s.io/api/autoscaling/v1.Scale
// +genclient:method=UpdateScale,verb=update,subresource=scale,input=k8s.io/api/autoscaling/v1.Scale,result=k8s.io/api/autoscaling/v1.Scale
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=batchsandboxes,singular=batchsandbox,shortName=bsbx,scope=Namespaced
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:printcolumn:name="DESIRED",type="integer",JSONPath=".spec.replicas",description="sandboxes asked for"
// +kubebuilder:printcolumn:name="TOTAL",type="integer",JSONPath=".status.replicas",description="pods held"
// +kubebuilder:printcolumn:name="ALLOCATED",type="integer",JSONPath=".status.allocated",description="pods held that have a node or an IP"
// +kubebuilder:printcolumn:name="READY",type="integer",JSONPath=".status.ready",description="pods held that are Ready"
// +kubebuilder:printcolumn:name="TASK_RUNNING",type="integer",JSONPath=".status.taskRunning",priority=1,description="tasks that run"
// +kubebuilder:printcolumn:name="TASK_SUCCEED",type="integer",JSONPath=".status.taskSucceed",priority=1,description="tasks that succeeded"
// +kubebuilder:printcolumn:name="TASK_FAILED",type="integer",JSONPath=".status.taskFailed",priority=1,description="tasks that failed"
// +kubebuilder:printcolumn:name="TASK_UNKNOWN",type="integer",JSONPath=".status.taskUnknown",priority=1,description="tasks that can't be asked about"
// +kubebuilder:printcolumn:name="EXPIRE",type="string",JSONPath=".spec.expireTime",description="when the batch is deleted"
// +kubebuilder:printcolumn:name="AGE",type="date",JSONPath=".metadata.creationTimestamp"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must have at most 63 characters, for it becomes a label value"
type BatchSandbox struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is wanted.
	// +optional
	Spec BatchSandboxSpec `json:"spec,omitempty"`

	// status is what is.
	// +optional
	Status BatchSandboxStatus `json:"status,omitempty"`
}

// BatchSandboxList is a list of BatchSandboxes.
// +kubebuilder:object:root=true
type BatchSandboxList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BatchSandbox `json:"items"`
}
