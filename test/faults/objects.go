// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/faults/internal/executors"
)

const (
	// faultsNamespace is where pools and batches are, systemNamespace the controllers' own.
	faultsNamespace = "faults"
	systemNamespace = "opensandbox-system"
)

// Pools: one for each way of recycling. Tasks run in the last alone, for it has executors.
const (
	noopPool    = "noop"
	deletePool  = "delete"
	restartPool = "restart"
)

// lastPool is nobody's. It is deleted in the end, and not made again: nothing may be left of it.
const lastPool = "last"

var poolNames = []string{noopPool, deletePool, restartPool}

func rawObject(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

// template is that of a pool's pods, with an image that tells revisions apart.
func template(pool, image string) *v1alpha1.RawObject {
	executor := ""
	if pool == restartPool {
		executor = `,{"name":"task-executor","image":"none"}`
	}
	return rawObject(fmt.Sprintf(`{"spec":{"containers":[{"name":"sandbox","image":%q}%s]}}`, image, executor))
}

// bounds draws the size of a pool.
func bounds(random *rand.Rand) v1alpha1.CapacitySpec {
	bufferMin := 4 + random.Int32N(8)
	poolMin := random.Int32N(10)
	return v1alpha1.CapacitySpec{
		BufferMin: bufferMin, BufferMax: bufferMin + random.Int32N(10), PoolMin: poolMin, PoolMax: max(poolMin, 20+random.Int32N(40)),
	}
}

func poolOf(name string, capacity v1alpha1.CapacitySpec) *v1alpha1.Pool {
	how := map[string]v1alpha1.RecycleType{
		noopPool: v1alpha1.RecycleNoop, deletePool: v1alpha1.RecycleDelete, restartPool: v1alpha1.RecycleRestart,
	}[name]
	return &v1alpha1.Pool{
		ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: name},
		Spec: v1alpha1.PoolSpec{
			Template: template(name, "image-0"), CapacitySpec: capacity, RecycleStrategy: &v1alpha1.RecycleStrategy{Type: how},
		},
	}
}

// batchOf draws what a batch asks for: mostly one sandbox of a pool, sometimes several, a gang, tasks, or pods of its own.
func batchOf(random *rand.Rand, name string) *v1alpha1.BatchSandbox {
	sb := &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: name},
		Spec:       v1alpha1.BatchSandboxSpec{Replicas: ptr.To(int32(1))},
	}
	if random.Float64() < 0.15 {
		sb.Spec.Replicas = ptr.To(2 + random.Int32N(5))
	}
	switch pick := random.Float64(); {
	case pick < 0.60:
		sb.Spec.PoolRef = noopPool
	case pick < 0.78:
		sb.Spec.PoolRef = deletePool
	case pick < 0.97:
		sb.Spec.PoolRef = restartPool
	default:
		sb.Spec.Template = template("", "image-0")
		return sb
	}
	if n := *sb.Spec.Replicas; n > 1 && random.Float64() < 0.5 {
		sb.Spec.MinAvailable = ptr.To(2 + random.Int32N(n-1))
	}
	if random.Float64() < 0.15 {
		sb.Spec.Priority = ptr.To(random.Int32N(3))
	}
	if random.Float64() < 0.05 {
		sb.Spec.AllocationTimeoutSeconds = ptr.To(int64(5 + random.IntN(20)))
	}
	if sb.Spec.PoolRef == restartPool && random.Float64() < 0.75 {
		addTask(random, sb)
	}
	return sb
}

// addTask draws the tasks of a batch.
func addTask(random *rand.Rand, sb *v1alpha1.BatchSandbox) {
	codes := []int{0}
	limit := random.Int32N(3)
	switch pick := random.Float64(); {
	case pick < 0.2:
		codes = []int{1, 0}
	case pick < 0.3:
		codes = []int{3}
	}
	life := between(random, 20*time.Millisecond, 100*time.Millisecond+exponential(random, time.Second))
	sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{
		Process: v1alpha1.Process{Command: executors.Command(life, codes...)}, BackoffLimit: &limit,
	}}
	if random.Float64() < 0.05 {
		sb.Spec.TaskTemplate.Spec.TimeoutSeconds = ptr.To(int64(1))
	}
	if random.Float64() < 0.3 {
		sb.Spec.TaskResourcePolicyWhenCompleted = ptr.To(v1alpha1.TaskResourcePolicyRelease)
	}
	if random.Float64() < 0.1 {
		sb.Spec.TTLSecondsAfterFinished = ptr.To(random.Int32N(5))
	}
}
