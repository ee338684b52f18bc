// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types of a BatchSandbox.
const (
	// ConditionAllocated is true when every requested sandbox has a pod.
	ConditionAllocated = "Allocated"

	// ConditionReady is true when every requested sandbox is usable: its pod is Ready. Also on a Pool, where
	// it says that the buffer is inside its bounds.
	ConditionReady = "Ready"

	// ConditionTasksCompleted is true when every task has ended, in success or not.
	ConditionTasksCompleted = "TasksCompleted"
)

// Condition types of a Pool.
const (
	// ConditionScalingLimited is true when a bound (poolMax, maxUnavailable) keeps the pool from the size
	// its demand asks for.
	ConditionScalingLimited = "ScalingLimited"

	// ConditionPodsFailing is true when pods of the pool can't become ready; the message has the cause.
	ConditionPodsFailing = "PodsFailing"
)

// Reasons of BatchSandbox conditions.
const (
	// ReasonAllocated surfaces when every requested sandbox has a pod.
	ReasonAllocated = "Allocated"

	// ReasonWaitingForPool surfaces while the batch waits in its pool's queue for pods.
	ReasonWaitingForPool = "WaitingForPool"

	// ReasonCreatingPods surfaces while pods of a batch without a pool are being made.
	ReasonCreatingPods = "CreatingPods"

	// ReasonPoolNotFound surfaces when no Pool has the name that poolRef gives.
	ReasonPoolNotFound = "PoolNotFound"

	// ReasonPoolTerminating surfaces when the batch waits for a Pool that is being deleted.
	ReasonPoolTerminating = "PoolTerminating"

	// ReasonExceedsPoolMax surfaces when the batch asks for more than the pool's poolMax can ever give.
	ReasonExceedsPoolMax = "ExceedsPoolMax"

	// ReasonTooManyReplicas surfaces when the batch is larger than its annotations can list.
	ReasonTooManyReplicas = "TooManyReplicas"

	// ReasonAllocationTimedOut surfaces when the batch waited longer than allocationTimeoutSeconds.
	ReasonAllocationTimedOut = "AllocationTimedOut"

	// ReasonNameTooLong surfaces when the object's name can't be a label value.
	ReasonNameTooLong = "NameTooLong"

	// ReasonNoTemplate surfaces when a batch has neither poolRef nor template.
	ReasonNoTemplate = "NoTemplate"

	// ReasonInvalidTemplate surfaces when the template can't be read as a pod template, or the API server
	// refuses the pods made from it.
	ReasonInvalidTemplate = "InvalidTemplate"

	// ReasonInvalidShardPatch surfaces when an entry of shardPatches can't be applied, or removes or changes
	// what it must not.
	ReasonInvalidShardPatch = "InvalidShardPatch"

	// ReasonInvalidTask surfaces when a task is incomplete or an entry of shardTaskPatches can't be applied.
	ReasonInvalidTask = "InvalidTask"

	// ReasonInvalidAnnotation surfaces when an annotation of the controller was edited to something it can't
	// read.
	ReasonInvalidAnnotation = "InvalidAnnotation"

	// ReasonInvalidSpec surfaces when a number of the spec is outside its bounds, on API servers that can't
	// check it.
	ReasonInvalidSpec = "InvalidSpec"

	// ReasonTooLarge surfaces, in an event alone, when the batch is as large as an object can be: the API server refuses to write
	// what the controller adds to it.
	ReasonTooLarge = "TooLarge"

	// ReasonPodsForbidden surfaces when the API server forbids the pods: Pod Security, a quota, or a
	// namespace that is going.
	ReasonPodsForbidden = "PodsForbidden"

	// ReasonPodNameTaken surfaces when a pod of somebody else has the name that a pod of the batch would have.
	ReasonPodNameTaken = "PodNameTaken"

	// ReasonPodsReady surfaces when every requested sandbox is Ready.
	ReasonPodsReady = "PodsReady"

	// ReasonPodsNotReady surfaces while some of the pods are not Ready; the message counts them.
	ReasonPodsNotReady = "PodsNotReady"

	// ReasonTasksRunning surfaces while some tasks have not ended.
	ReasonTasksRunning = "TasksRunning"

	// ReasonTasksSucceeded surfaces when every task ended with exit code 0.
	ReasonTasksSucceeded = "TasksSucceeded"

	// ReasonTasksFailed surfaces when every task ended, and some failed.
	ReasonTasksFailed = "TasksFailed"
)

// Reasons of Pool conditions.
const (
	// ReasonBufferReady surfaces when the idle pods reach bufferMin, or the pool is as full as it may be.
	ReasonBufferReady = "BufferReady"

	// ReasonBufferLow surfaces while fewer pods are idle than bufferMin.
	ReasonBufferLow = "BufferLow"

	// ReasonPoolMaxReached surfaces when poolMax keeps the pool from making the pods it needs.
	ReasonPoolMaxReached = "PoolMaxReached"

	// ReasonStartingLimit surfaces when scaleStrategy.maxUnavailable keeps the pool from making more pods now.
	ReasonStartingLimit = "StartingLimit"

	// ReasonUnlimited surfaces when no bound limits the pool.
	ReasonUnlimited = "Unlimited"

	// ReasonPodsEnded surfaces on PodsFailing when pods of the pool end soon after their start.
	ReasonPodsEnded = "PodsEnded"

	// ReasonProgressDeadlineExceeded surfaces on PodsFailing when a pod of the pool has been starting for longer than 30 s and
	// five times what others took, and its status doesn't tell why.
	ReasonProgressDeadlineExceeded = "ProgressDeadlineExceeded"

	// ReasonPodsHealthy surfaces when no pod of the pool fails to start.
	ReasonPodsHealthy = "PodsHealthy"

	// ReasonPoolTerminatingInUse surfaces on a Pool that is being deleted while batches hold its pods.
	ReasonPoolTerminatingInUse = "WaitingForRelease"
)

// Reasons of failed tasks.
const (
	// TaskReasonNonZeroExit: the process ended with a code other than 0 or by a signal. The user's.
	TaskReasonNonZeroExit = "NonZeroExit"

	// TaskReasonTimedOut: the process was stopped after timeoutSeconds. The user's.
	TaskReasonTimedOut = "TimedOut"

	// TaskReasonCancelled: the task was stopped before it ended. The user's.
	TaskReasonCancelled = "Cancelled"

	// TaskReasonStartError: the process could not be started. The infrastructure's.
	TaskReasonStartError = "StartError"

	// TaskReasonSandboxLost: the sandbox container or its pod ended under the task. The infrastructure's.
	TaskReasonSandboxLost = "SandboxLost"

	// TaskReasonExecutorLost: the task-executor ended under the task. The infrastructure's.
	TaskReasonExecutorLost = "ExecutorLost"
)
