// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// template is that of all pods: one container, whose image nobody pulls.
const template = `{"spec":{"containers":[{"name":"sandbox","image":"none"}]}}`

func templateObject() *v1alpha1.RawObject { return rawObject(template) }

func rawObject(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

// uniqueName is a name that no earlier object had.
func uniqueName(kind string) string { return kind + "-" + strings.ToLower(rand.Text()[:8]) }

// batchOf asks for so many sandboxes of a pool; of none if pool is "".
func batchOf(name, pool string, replicas int) *v1alpha1.BatchSandbox {
	n := int32(replicas) //nolint:gosec // a number of pods
	sb := &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: name},
		Spec:       v1alpha1.BatchSandboxSpec{Replicas: &n, PoolRef: pool},
	}
	if pool == "" {
		sb.Spec.Template = templateObject()
	}
	return sb
}

// fixedPool has so many pods, in use or not.
func fixedPool(name string, pods int, recycle v1alpha1.RecycleType) *v1alpha1.Pool {
	n := int32(pods) //nolint:gosec // a number of pods
	return poolOf(name, v1alpha1.CapacitySpec{BufferMax: n, PoolMin: n, PoolMax: n}, recycle)
}

// refilledPool has so many pods that nobody uses, and up to most in all.
func refilledPool(name string, pods, most int) *v1alpha1.Pool {
	n := int32(pods)                                                                                                     //nolint:gosec // a number of pods
	return poolOf(name, v1alpha1.CapacitySpec{BufferMin: n, BufferMax: n, PoolMax: int32(most)}, v1alpha1.RecycleDelete) //nolint:gosec // the same
}

func poolOf(name string, c v1alpha1.CapacitySpec, recycle v1alpha1.RecycleType) *v1alpha1.Pool {
	return &v1alpha1.Pool{
		ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: name},
		Spec:       v1alpha1.PoolSpec{Template: templateObject(), CapacitySpec: c, RecycleStrategy: &v1alpha1.RecycleStrategy{Type: recycle}},
	}
}

// warm makes pools and waits until each has so many pods ready.
func (e *env) warm(ctx context.Context, pods int, pools ...*v1alpha1.Pool) error {
	for _, pool := range pools {
		if err := e.cluster.Client.Create(ctx, pool); err != nil {
			return fmt.Errorf("make pool %s: %w", pool.Name, err)
		}
	}
	return e.whole(ctx, pods, pools...)
}

// fresh clears what is there, and then makes pools and waits until each has so many pods ready.
func (e *env) fresh(ctx context.Context, pods int, pools ...*v1alpha1.Pool) error {
	if err := e.clear(ctx); err != nil {
		return err
	}
	return e.warm(ctx, pods, pools...)
}

// whole waits until each pool has so many pods ready that nobody uses.
func (e *env) whole(ctx context.Context, pods int, pools ...*v1alpha1.Pool) error {
	for i, pool := range pools {
		key, now := client.ObjectKeyFromObject(pool), &v1alpha1.Pool{}
		err := e.until(ctx, stepTimeout, "pool "+pool.Name+" is warm", func() (bool, string) {
			err := e.cluster.Client.Get(ctx, key, now)
			s := now.Status
			return err == nil && int(s.Available) == pods && int(s.Total-s.Allocated) == pods,
				fmt.Sprintf("%d of %d are available, pool %d of %d", s.Available, pods, i+1, len(pools))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// clear deletes all batches and then all pools, and waits until they and their pods are gone. The controller must run.
func (e *env) clear(ctx context.Context) error {
	for _, step := range []struct {
		object client.Object
		kind   string
	}{{&v1alpha1.BatchSandbox{}, "BatchSandbox"}, {&v1alpha1.Pool{}, "Pool"}} {
		if err := e.cluster.Client.DeleteAllOf(ctx, step.object, client.InNamespace(benchNamespace)); err != nil {
			return fmt.Errorf("delete what a scenario made: %w", err)
		}
		if err := e.none(ctx, v1alpha1.GroupVersion.String(), step.kind); err != nil {
			return err
		}
	}
	return e.none(ctx, "v1", "Pod")
}

// none waits until there is no object of a kind.
func (e *env) none(ctx context.Context, version, kind string) error {
	return e.noneIn(ctx, benchNamespace, version, kind)
}

func (e *env) noneIn(ctx context.Context, namespace, version, kind string) error {
	return e.until(ctx, stepTimeout, "every "+kind+" is gone", func() (bool, string) {
		list := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: kind + "List"}}
		if err := e.cluster.Client.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
			return false, err.Error()
		}
		left := int64(len(list.Items))
		if list.RemainingItemCount != nil {
			left += *list.RemainingItemCount
		}
		return left == 0, fmt.Sprintf("%d left", left)
	})
}

// bareOwner owns what bare clients make, which would have an owner if the controller had made it: the namespace.
func (e *env) bareOwner(ctx context.Context) (metav1.OwnerReference, error) {
	namespace := &corev1.Namespace{}
	if err := e.cluster.Client.Get(ctx, types.NamespacedName{Name: benchNamespace}, namespace); err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("find the namespace: %w", err)
	}
	return *metav1.NewControllerRef(namespace, corev1.SchemeGroupVersion.WithKind("Namespace")), nil
}

// barePods makes pods as a controller made one.
type barePods struct {
	e     *env
	model *corev1.Pod
	owner metav1.OwnerReference
}

func (e *env) barePodsLike(ctx context.Context, model *corev1.Pod) (barePods, error) {
	if model == nil {
		return barePods{}, fmt.Errorf("no pod was shown that bare clients could make again")
	}
	owner, err := e.bareOwner(ctx)
	return barePods{e, model, owner}, err
}

// make makes a pod with the model's metadata, and with what a controller writes into its spec.
func (b barePods) make(ctx context.Context, name string) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: benchNamespace, Name: name, Labels: b.model.Labels, Annotations: b.model.Annotations,
			OwnerReferences: []metav1.OwnerReference{b.owner},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox", Image: "none", Env: b.model.Spec.Containers[0].Env}}},
	}
	if err := b.e.cluster.Client.Create(ctx, pod); err != nil {
		return fmt.Errorf("make pod %s: %w", name, err)
	}
	return nil
}

func (b barePods) remove(ctx context.Context, name string) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: name}}
	if err := b.e.cluster.Client.Delete(ctx, pod); err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return nil
}

// clearBare deletes what bare clients made, and waits until it is gone. No controller may run: it would act on it.
func (e *env) clearBare(ctx context.Context) error {
	batches := &v1alpha1.BatchSandboxList{}
	if err := e.cluster.Client.List(ctx, batches, client.InNamespace(benchNamespace)); err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	err := inParallel(ctx, 16, len(batches.Items), func(ctx context.Context, i int) error {
		sb := &batches.Items[i]
		if err := e.letGo(ctx, sb); err != nil {
			return err
		}
		return client.IgnoreNotFound(e.cluster.Client.Delete(ctx, sb))
	})
	if err != nil {
		return err
	}
	if err := e.cluster.Client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(benchNamespace)); err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	if err := e.none(ctx, v1alpha1.GroupVersion.String(), "BatchSandbox"); err != nil {
		return err
	}
	return e.none(ctx, "v1", "Pod")
}

// letGo removes the finalizers of a batch, as the controller does in the end.
func (e *env) letGo(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
	err := e.cluster.Client.Patch(ctx, sb, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`)))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let batch %s go: %w", sb.Name, err)
	}
	return nil
}

// podOf returns any pod of a pool.
func (e *env) podOf(ctx context.Context, pool *v1alpha1.Pool) (*corev1.Pod, error) {
	pods := &corev1.PodList{}
	err := e.cluster.Client.List(ctx, pods, client.InNamespace(pool.Namespace), client.MatchingLabels{v1alpha1.PoolNameLabel: pool.Name}, client.Limit(1))
	if err != nil {
		return nil, fmt.Errorf("list the pods of pool %s: %w", pool.Name, err)
	}
	if len(pods.Items) == 0 {
		return nil, nil
	}
	return &pods.Items[0], nil
}
