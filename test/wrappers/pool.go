// SPDX-License-Identifier: Apache-2.0

// Package wrappers builds objects for tests, step by step.
package wrappers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"opensandbox.io/controller/api/v1alpha1"
)

// PoolWrapper builds a Pool.
type PoolWrapper struct{ v1alpha1.Pool }

// MakePool starts a pool of generation 1 that keeps one to three pods warm, of at most ten, each with one
// container.
func MakePool(namespace, name string) *PoolWrapper {
	p := &PoolWrapper{v1alpha1.Pool{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec: v1alpha1.PoolSpec{
			CapacitySpec: v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 3, PoolMin: 0, PoolMax: 10},
		},
	}}
	return p.Template(`{"spec":{"containers":[{"name":"sandbox","image":"ubuntu:latest"}]}}`)
}

// Buffer sets bufferMin and bufferMax.
func (p *PoolWrapper) Buffer(least, most int32) *PoolWrapper {
	p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = least, most
	return p
}

// Size sets poolMin and poolMax.
func (p *PoolWrapper) Size(least, most int32) *PoolWrapper {
	p.Spec.CapacitySpec.PoolMin, p.Spec.CapacitySpec.PoolMax = least, most
	return p
}

// Template sets the pod template, as JSON.
func (p *PoolWrapper) Template(json string) *PoolWrapper {
	p.Spec.Template = &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
	return p
}

// MaxUnavailable sets scaleStrategy.maxUnavailable: a number, or a percentage such as "10%".
func (p *PoolWrapper) MaxUnavailable(value string) *PoolWrapper {
	v := intstr.Parse(value)
	p.Spec.ScaleStrategy = &v1alpha1.ScaleStrategy{MaxUnavailable: &v}
	return p
}

// Finalizer adds the finalizer that the controller puts on every pool.
func (p *PoolWrapper) Finalizer() *PoolWrapper {
	p.Finalizers = append(p.Finalizers, v1alpha1.PoolAllocationFinalizer)
	return p
}

// Obj returns the pool.
func (p *PoolWrapper) Obj() *v1alpha1.Pool { return p.DeepCopy() }
