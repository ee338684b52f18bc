// SPDX-License-Identifier: Apache-2.0

package wrappers

import (
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// BatchWrapper builds a BatchSandbox.
type BatchWrapper struct{ v1alpha1.BatchSandbox }

// MakeBatch starts a batch of generation 1 with one replica, and with neither poolRef nor template.
func MakeBatch(namespace, name string) *BatchWrapper {
	one := int32(1)
	return &BatchWrapper{v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec:       v1alpha1.BatchSandboxSpec{Replicas: &one},
	}}
}

// Replicas sets replicas.
func (b *BatchWrapper) Replicas(n int32) *BatchWrapper {
	b.Spec.Replicas = &n
	return b
}

// UID sets the UID, which is "uid-" and the name otherwise.
func (b *BatchWrapper) UID(uid types.UID) *BatchWrapper {
	b.ObjectMeta.UID = uid
	return b
}

// Created sets the creation time.
func (b *BatchWrapper) Created(at time.Time) *BatchWrapper {
	b.CreationTimestamp = metav1.NewTime(at)
	return b
}

// Pool sets poolRef.
func (b *BatchWrapper) Pool(name string) *BatchWrapper {
	b.Spec.PoolRef = name
	return b
}

// Template sets the pod template, as JSON.
func (b *BatchWrapper) Template(json string) *BatchWrapper {
	b.Spec.Template = rawObject(json)
	return b
}

// Container sets a pod template with containers of these names and nothing else.
func (b *BatchWrapper) Container(names ...string) *BatchWrapper {
	containers := make([]map[string]string, 0, len(names))
	for _, name := range names {
		containers = append(containers, map[string]string{"name": name, "image": "ubuntu:latest"})
	}
	template, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": containers}})
	if err != nil {
		panic(err) // names are strings, which can always be encoded
	}
	return b.Template(string(template))
}

// ShardPatches sets shardPatches, as JSON each.
func (b *BatchWrapper) ShardPatches(patches ...string) *BatchWrapper {
	b.Spec.ShardPatches = rawObjects(patches)
	return b
}

// Task sets a task of this command.
func (b *BatchWrapper) Task(command ...string) *BatchWrapper {
	b.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: command}}}
	return b
}

// TaskSpec changes the task.
func (b *BatchWrapper) TaskSpec(change func(*v1alpha1.TaskSpec)) *BatchWrapper {
	change(&b.Spec.TaskTemplate.Spec)
	return b
}

// TaskPatches sets shardTaskPatches, as JSON each.
func (b *BatchWrapper) TaskPatches(patches ...string) *BatchWrapper {
	b.Spec.ShardTaskPatches = rawObjects(patches)
	return b
}

// Releases sets the policy Release.
func (b *BatchWrapper) Releases() *BatchWrapper {
	policy := v1alpha1.TaskResourcePolicyRelease
	b.Spec.TaskResourcePolicyWhenCompleted = &policy
	return b
}

// MinAvailable sets minAvailable.
func (b *BatchWrapper) MinAvailable(n int32) *BatchWrapper {
	b.Spec.MinAvailable = &n
	return b
}

// Priority sets priority.
func (b *BatchWrapper) Priority(n int32) *BatchWrapper {
	b.Spec.Priority = &n
	return b
}

// AllocationTimeout sets allocationTimeoutSeconds.
func (b *BatchWrapper) AllocationTimeout(seconds int64) *BatchWrapper {
	b.Spec.AllocationTimeoutSeconds = &seconds
	return b
}

// Expires sets expireTime.
func (b *BatchWrapper) Expires(at time.Time) *BatchWrapper {
	t := metav1.NewTime(at)
	b.Spec.ExpireTime = &t
	return b
}

// TTL sets ttlSecondsAfterFinished.
func (b *BatchWrapper) TTL(seconds int32) *BatchWrapper {
	b.Spec.TTLSecondsAfterFinished = &seconds
	return b
}

// AllocStatus sets the alloc-status annotation to whatever text is given.
func (b *BatchWrapper) AllocStatus(value string) *BatchWrapper {
	return b.Annotation(v1alpha1.AllocStatusAnnotation, value)
}

// Annotation sets an annotation.
func (b *BatchWrapper) Annotation(key, value string) *BatchWrapper {
	if b.Annotations == nil {
		b.Annotations = map[string]string{}
	}
	b.Annotations[key] = value
	return b
}

// Finalizers adds finalizers.
func (b *BatchWrapper) Finalizers(finalizers ...string) *BatchWrapper {
	b.ObjectMeta.Finalizers = append(b.ObjectMeta.Finalizers, finalizers...)
	return b
}

// Condition sets a condition of the status.
func (b *BatchWrapper) Condition(kind string, status metav1.ConditionStatus, reason string, since time.Time) *BatchWrapper {
	b.Status.Conditions = append(b.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, LastTransitionTime: metav1.NewTime(since),
	})
	return b
}

// Obj returns the batch.
func (b *BatchWrapper) Obj() *v1alpha1.BatchSandbox { return b.DeepCopy() }

func rawObject(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

func rawObjects(all []string) []v1alpha1.RawObject {
	objects := make([]v1alpha1.RawObject, 0, len(all))
	for _, one := range all {
		objects = append(objects, *rawObject(one))
	}
	return objects
}
