// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Annotations.
const (
	// AllocStatusAnnotation holds the pods a pooled batch holds: {"pods":["pod-a",""]}, one entry per index,
	// "" for none; further members are tolerated. It is the durable home of "pod P is replica i of batch B".
	// On: BatchSandbox. Written by the batch controller, together with EndpointsAnnotation. Read by the
	// batch and pool controllers.
	AllocStatusAnnotation = "sandbox.opensandbox.io/alloc-status"

	// EndpointsAnnotation holds a JSON array of pod IPs in index order, "" for none.
	// On: BatchSandbox. Written by the batch controller on delivery. Read by gateways and SDKs.
	EndpointsAnnotation = "sandbox.opensandbox.io/endpoints"

	// RecyclingAnnotation marks a released pod as dirty: {"batch":UID,"containers":{name:ID},"since":TIME} with the
	// container IDs the last user had, and when it was written (RFC 3339; missing in marks of older controllers): the pod
	// is deleted if it is not proven clean a minute later. On: pool pods. Written by the batch controller before the pod leaves its batch's
	// alloc-status, removed by the pool controller when the recycling is proven. Read by both and by the ledger: a marked
	// pod is never idle.
	RecyclingAnnotation = "sandbox.opensandbox.io/recycling"

	// AllocReleaseAnnotation and AllocReleasedAnnotation hold {"pods":[...]}: the pods of alloc-status that an older
	// controller of this API gave back, and those that its pool took back. On: BatchSandbox. Written by older controllers
	// alone. Read by the batch controller, which deletes such a pod, and removes both with the write that lets the pod go.
	AllocReleaseAnnotation  = "sandbox.opensandbox.io/alloc-release"
	AllocReleasedAnnotation = "sandbox.opensandbox.io/alloc-released"

	// TaskFailuresAnnotation counts the holders in a row whose task failed by infrastructure in this pod (StartError,
	// ExecutorLost): {"count":1,"last":"UID/INDEX"}, with the batch and index of the last one; without it there were none.
	// At MaxTaskFailures the pod is not recycled but deleted. On: pool pods. Written by the batch controller at release, with
	// the mark or the removal of its labels; removed when a task has run to its end. Read by the batch controller at release.
	TaskFailuresAnnotation = "sandbox.opensandbox.io/task-failures"

	// LeaderEpochAnnotation names the controller process that leads, or the resourceVersion after which it lost an answer:
	// "after-" and the number. On: pooled BatchSandboxes. Written once after an election where demand is unmet, and after an
	// allocation that was never answered, so that a late write conflicts.
	LeaderEpochAnnotation = "sandbox.opensandbox.io/leader-epoch"
)

// Labels.
const (
	// PoolNameLabel is the name of the Pool that made the pod. Written by the pool controller at creation.
	PoolNameLabel = "sandbox.opensandbox.io/pool-name"

	// PoolRevisionLabel is the revision (hash) of the pool template the pod was made from. Written by the
	// pool controller at creation.
	PoolRevisionLabel = "sandbox.opensandbox.io/pool-revision"

	// BatchNameLabel is the name of the BatchSandbox that holds the pod. Written by the batch controller: at
	// creation on its own pods, after delivery on pool pods. Read by the batch's selector.
	BatchNameLabel = "batch-sandbox.sandbox.opensandbox.io/name"

	// PodIndexLabel is the replica index of the pod in its batch, a decimal number. Written with
	// BatchNameLabel.
	PodIndexLabel = "batch-sandbox.sandbox.opensandbox.io/pod-index"

	// EvictLabel asks the pool never to hand the pod out and to remove it when it is idle; the value doesn't
	// matter. On: pool pods. Written by users.
	EvictLabel = "pool.opensandbox.io/evict"
)

// Finalizers.
const (
	// TaskCleanupFinalizer keeps a batch until its tasks have stopped. On: BatchSandboxes with tasks.
	TaskCleanupFinalizer = "batch-sandbox.sandbox.opensandbox.io/task-cleanup"

	// PoolAllocationFinalizer keeps a pooled batch until its pods are back in the pool, and a Pool until its
	// last pod in use is given back.
	PoolAllocationFinalizer = "pool.sandbox.opensandbox.io/pool-allocation"
)

// Names inside pods.
const (
	// TaskExecutorContainer is the name of the container that runs tasks inside the sandbox container.
	TaskExecutorContainer = "task-executor"

	// TaskExecutorRecycleExitCode is what the task-executor exits with to have every container of its pod restarted. The
	// pool controller gives its container a restart rule for this code.
	TaskExecutorRecycleExitCode = 88

	// TaskRecordsVolume is the emptyDir that the controller adds for the task-executor's records.
	TaskRecordsVolume = "task-executor-records"

	// TaskRecordsPath is where TaskRecordsVolume is mounted, only in the task-executor's container.
	TaskRecordsPath = "/var/lib/sandbox/tasks"

	// MainContainerEnv names the sandbox container where a pod has several beside the task-executor.
	MainContainerEnv = "SANDBOX_MAIN_CONTAINER"
)

// LeaderElectionID is the name of the Lease that decides which controller is active.
const LeaderElectionID = "2fa1c467.opensandbox.io"

// RootSecretName is the name of the Secret, in the controller's own namespace, with the root key of the tokens by which
// task-executors know the controller: tls.key and tls.crt. Written by the controller, once. Delete it to have a new one made;
// idle pods are replaced then, and pods in use can't be told to run tasks any more.
const RootSecretName = "opensandbox-controller-root" //nolint:gosec // a name, no secret

// MaxNameLength is the greatest length of the name of a batch or pool, for it becomes a label value.
const MaxNameLength = 63

// MaxTaskFailures is the number of holders in a row whose task failed by infrastructure after which a pool pod is deleted.
const MaxTaskFailures = 2

// MaxLostTries is how many tries of one task may be lost with their sandbox or task-executor and be run again; the next that is
// lost is the task's end. They don't count against backoffLimit.
const MaxLostTries = 3
