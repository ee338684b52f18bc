// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// RecycleType says how a released pod is made fit for its next user.
// +kubebuilder:validation:Enum=Delete;Restart;Noop
type RecycleType string

const (
	// RecycleDelete deletes the pod; the pool makes another.
	RecycleDelete RecycleType = "Delete"

	// RecycleRestart restarts every container of the pod: same pod, node and IP, new root file systems. It needs Kubernetes
	// 1.36, restartPolicy Always, a container named task-executor beside others, and no writable volume that outlives a
	// container. A pod without these, or that is not proven clean within 60 s, is deleted. Unset means the same, but that
	// a pod without these is nothing to warn of.
	RecycleRestart RecycleType = "Restart"

	// RecycleNoop hands the pod on as it is, files and processes of the last user included.
	RecycleNoop RecycleType = "Noop"
)

// PoolSpec says what the warm pods look like and how many to keep.
type PoolSpec struct {
	// template is the pod template (a PodTemplateSpec) of the warm pods.
	// +required
	Template *RawObject `json:"template"`

	// capacitySpec bounds the pool.
	// +required
	CapacitySpec CapacitySpec `json:"capacitySpec"`

	// scaleStrategy limits how fast the pool grows. Unset: no such limit.
	// +optional
	ScaleStrategy *ScaleStrategy `json:"scaleStrategy,omitempty"`

	// updateStrategy says how idle pods of an old template are replaced. Unset: a quarter at a time.
	// +optional
	UpdateStrategy *UpdateStrategy `json:"updateStrategy,omitempty"`

	// recycleStrategy says what happens to a pod that a batch gives back. Unset: its containers are restarted where that is
	// provably clean, else it is deleted.
	// +optional
	RecycleStrategy *RecycleStrategy `json:"recycleStrategy,omitempty"`
}

// CapacitySpec bounds the size of a pool. The buffer is the pods that no batch holds, ready or starting.
//
// +kubebuilder:validation:XValidation:rule="self.bufferMin <= self.bufferMax",message="bufferMin must not exceed bufferMax"
// +kubebuilder:validation:XValidation:rule="self.poolMin <= self.poolMax",message="poolMin must not exceed poolMax"
type CapacitySpec struct {
	// bufferMin is the least number of pods kept warm that no batch holds. Falling below it triggers
	// creation, up to poolMax. At least 0, and not above bufferMax.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	BufferMin int32 `json:"bufferMin"`

	// bufferMax is the greatest number of pods kept that no batch holds. Those above it are deleted, never
	// below poolMin. At least bufferMin.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	BufferMax int32 `json:"bufferMax"`

	// poolMin is the least number of pods of the pool, held ones included. At least 0, and not above poolMax.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	PoolMin int32 `json:"poolMin"`

	// poolMax is the greatest number of pods of the pool, held ones and those being deleted included. At least poolMin.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	PoolMax int32 `json:"poolMax"`
}

// ScaleStrategy limits how fast the pool grows.
type ScaleStrategy struct {
	// maxUnavailable is the greatest number of pods that start at once, absolute or a percentage of the
	// pool's pods, rounded up. 0: none is made. Unset: no such limit.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(\d{1,3})%$`
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (int(self) >= 0 && int(self) <= 2147483647)",message="maxUnavailable must be a percentage or between 0 and 2147483647"
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// UpdateStrategy says how idle pods of an old template are replaced.
type UpdateStrategy struct {
	// maxUnavailable is the greatest number of idle pods of an old template that are being replaced at once, absolute or a
	// percentage of the pods that nobody holds, rounded up. Defaults to 25%. 0: none is replaced, and old pods are handed
	// out last. Pods that batches hold are never touched. No more of the old pods go while new ones can't become ready.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(\d{1,3})%$`
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (int(self) >= 0 && int(self) <= 2147483647)",message="maxUnavailable must be a percentage or between 0 and 2147483647"
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// RecycleStrategy says what happens to a pod that a batch gives back.
type RecycleStrategy struct {
	// type is Delete, Restart or Noop. Unset: Restart where the result is provably clean, else Delete.
	// +optional
	Type RecycleType `json:"type,omitempty"`
}

// PoolStatus is what the controller last saw of a pool.
type PoolStatus struct {
	// observedGeneration is the generation of the spec this status answers.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// revision is the hash of the current template.
	// +optional
	Revision string `json:"revision,omitempty"`

	// total is the number of pods of the pool: idle, starting, held and unusable ones.
	// +optional
	// +kubebuilder:default=0
	Total int32 `json:"total"`

	// allocated is the number of pods that batches hold.
	// +optional
	// +kubebuilder:default=0
	Allocated int32 `json:"allocated"`

	// available is the number of pods that are Ready and that no batch holds.
	// +optional
	// +kubebuilder:default=0
	Available int32 `json:"available"`

	// updated is the number of pods of the current revision whose executors don't obey a root that was lost.
	// +optional
	// +kubebuilder:default=0
	Updated int32 `json:"updated"`

	// starting is the number of pods that are not Ready yet, those being recycled included.
	// +optional
	// +kubebuilder:default=0
	Starting int32 `json:"starting"`

	// waiting is the number of sandboxes that batches wait for.
	// +optional
	// +kubebuilder:default=0
	Waiting int32 `json:"waiting"`

	// recycled is the number of released pods that ever came back: restarted in place and proven clean, or handed on as
	// they were under Noop. Those of the last moment before a controller was killed may be missing; none counts twice.
	// +optional
	Recycled int64 `json:"recycled,omitempty"`

	// replaced is the number of released pods that were ever deleted instead: under Delete, because they could not be proven
	// clean, or because their tasks could not be stopped or failed again and again. It misses as few as recycled does.
	// +optional
	Replaced int64 `json:"replaced,omitempty"`

	// recycleObstacle says why released pods of the current template are deleted though recycleStrategy.type would have them
	// restarted in place. Empty where they are restarted, and under Delete and Noop.
	// +optional
	RecycleObstacle string `json:"recycleObstacle,omitempty"`

	// lastScaleReason is the last decision about the size, in words.
	// +optional
	LastScaleReason string `json:"lastScaleReason,omitempty"`

	// conditions are Ready, ScalingLimited and PodsFailing.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
}

// Pool is a set of warm pods between bounds, from which BatchSandboxes of the same namespace take their
// sandboxes.
//
// +genclient
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=pools,singular=pool,scope=Namespaced
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="TOTAL",type="integer",JSONPath=".status.total",description="pods of the pool"
// +kubebuilder:printcolumn:name="ALLOCATED",type="integer",JSONPath=".status.allocated",description="pods that batches hold"
// +kubebuilder:printcolumn:name="AVAILABLE",type="integer",JSONPath=".status.available",description="Ready pods that nobody holds"
// +kubebuilder:printcolumn:name="UPDATED",type="integer",JSONPath=".status.updated",description="pods of the current revision"
// +kubebuilder:printcolumn:name="STARTING",type="integer",JSONPath=".status.starting",priority=1,description="pods that are not Ready yet"
// +kubebuilder:printcolumn:name="WAITING",type="integer",JSONPath=".status.waiting",priority=1,description="sandboxes that batches wait for"
// +kubebuilder:printcolumn:name="REVISION",type="string",JSONPath=".status.revision",priority=1,description="hash of the template"
// +kubebuilder:printcolumn:name="AGE",type="date",JSONPath=".metadata.creationTimestamp"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must have at most 63 characters, for it becomes a label value"
type Pool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is wanted.
	// +optional
	Spec PoolSpec `json:"spec,omitempty"`

	// status is what is.
	// +optional
	Status PoolStatus `json:"status,omitempty"`
}

// PoolList is a list of Pools.
// +kubebuilder:object:root=true
type PoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Pool `json:"items"`
}
