// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// kind is a kind of object that the API server has.
type kind int

const (
	kindPod kind = iota
	kindBatch
	kindPool
	kindNamespace
	numKinds
)

func (k kind) String() string { return [...]string{"pod", "batch", "pool", "namespace"}[k] }

func (k kind) resource() schema.GroupResource {
	return [...]schema.GroupResource{
		{Resource: "pods"},
		{Group: v1alpha1.GroupVersion.Group, Resource: "batchsandboxes"},
		{Group: v1alpha1.GroupVersion.Group, Resource: "pools"},
		{Resource: "namespaces"},
	}[k]
}

func kindOf(obj any) kind {
	switch obj.(type) {
	case *corev1.Pod, *corev1.PodList:
		return kindPod
	case *v1alpha1.BatchSandbox, *v1alpha1.BatchSandboxList:
		return kindBatch
	case *v1alpha1.Pool, *v1alpha1.PoolList:
		return kindPool
	case *corev1.Namespace:
		return kindNamespace
	default:
		panic(fmt.Sprintf("the API server has no %T", obj))
	}
}

// change is one event of a watch. A nil before is an object that appears, a nil after one that goes.
type change struct{ before, after client.Object }

func (c change) name() string {
	if c.after != nil {
		return c.after.GetName()
	}
	return c.before.GetName()
}

// server is an API server and its etcd: objects of one namespace, what happened to them in order, and the rules that
// every write has to obey. Objects that it has given away are never changed. One goroutine uses it at a time.
type server struct {
	version int64
	uids    int
	objects [numKinds]map[string]client.Object
	log     [numKinds][]change

	// continued are the lists that were begun, by the token that goes on with them.
	continued map[string][]client.Object

	// gone is told of every object that goes, before anybody else.
	gone func(obj client.Object)

	// written is told of every change that has landed.
	written func(by *call, k kind, c change)
}

func newServer() *server {
	s := &server{version: 100, continued: map[string][]client.Object{}}
	for k := range s.objects {
		s.objects[k] = map[string]client.Object{}
	}
	s.objects[kindNamespace][namespace] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: "uid-" + namespace, ResourceVersion: "1"}}
	return s
}

func (s *server) get(k kind, name string) (client.Object, error) {
	if obj, ok := s.objects[k][name]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(k.resource(), name)
}

// list returns all objects of a kind in the order of their names.
func (s *server) list(k kind) []client.Object {
	return sorted(s.objects[k])
}

func sorted(objects map[string]client.Object) []client.Object {
	all := make([]client.Object, 0, len(objects))
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		all = append(all, objects[name])
	}
	return all
}

func (s *server) nextVersion() string {
	s.version++
	return fmt.Sprint(s.version)
}

// commit puts a new state of an object into etcd; a nil after removes it.
func (s *server) commit(by *call, k kind, before, after client.Object) {
	c := change{before: before, after: after}
	if after != nil {
		after.SetResourceVersion(s.nextVersion())
		s.objects[k][after.GetName()] = after
	} else {
		s.gone(before)
		delete(s.objects[k], before.GetName())
		last := clone(before)
		last.SetResourceVersion(s.nextVersion())
		c.before = last
	}
	s.log[k] = append(s.log[k], c)
	s.written(by, k, c)
}

func clone(obj client.Object) client.Object {
	return obj.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy has the type of the original
}

func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

func (s *server) create(by *call, obj client.Object) (client.Object, error) {
	k := kindOf(obj)
	if _, taken := s.objects[k][obj.GetName()]; taken {
		return nil, apierrors.NewAlreadyExists(k.resource(), obj.GetName())
	}
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	created := clone(obj)
	s.uids++
	created.SetUID(types.UID(fmt.Sprintf("uid-%d", s.uids)))
	created.SetCreationTimestamp(now())
	created.SetGeneration(1)
	if pod, ok := created.(*corev1.Pod); ok {
		pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	}
	s.commit(by, k, nil, created)
	return created, nil
}

// remove is a DELETE: it removes an object that nothing keeps, and marks others.
func (s *server) remove(by *call, k kind, name string, pre *metav1.Preconditions) error {
	obj, err := s.get(k, name)
	if err != nil {
		return err
	}
	if pre != nil && pre.UID != nil && *pre.UID != obj.GetUID() {
		return apierrors.NewConflict(k.resource(), name, errors.New("the UID in the precondition differs"))
	}
	if pre != nil && pre.ResourceVersion != nil && *pre.ResourceVersion != obj.GetResourceVersion() {
		return apierrors.NewConflict(k.resource(), name, errors.New("the resourceVersion in the precondition differs"))
	}
	if obj.GetDeletionTimestamp() != nil {
		return nil
	}
	if len(obj.GetFinalizers()) == 0 && !needsGrace(obj) {
		s.commit(by, k, obj, nil)
		return nil
	}
	going := clone(obj)
	at := now()
	going.SetDeletionTimestamp(&at)
	going.SetGeneration(obj.GetGeneration() + 1)
	s.commit(by, k, obj, going)
	return nil
}

// needsGrace says that the kubelet has to end a pod before it can go.
func needsGrace(obj client.Object) bool {
	pod, ok := obj.(*corev1.Pod)
	return ok && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded
}

// update changes an object as users and the kubelet do. A change of the spec makes a new generation.
func (s *server) update(k kind, name string, changeIt func(obj client.Object) (spec bool)) {
	before := s.objects[k][name]
	after := clone(before)
	if changeIt(after) {
		after.SetGeneration(before.GetGeneration() + 1)
	}
	s.replace(nil, k, before, after)
}

// replace commits a state, unless nothing differs, and lets an object go that nothing keeps any more.
func (s *server) replace(by *call, k kind, before, after client.Object) {
	if equality.Semantic.DeepEqual(before, after) {
		return
	}
	if after.GetDeletionTimestamp() != nil && len(after.GetFinalizers()) == 0 && len(before.GetFinalizers()) > 0 && !needsGrace(after) {
		s.commit(by, k, after, nil)
		return
	}
	s.commit(by, k, before, after)
}

// kill ends a pod that is being deleted, as the kubelet does.
func (s *server) kill(name string) {
	pod := s.objects[kindPod][name]
	if len(pod.GetFinalizers()) == 0 {
		s.commit(nil, kindPod, pod, nil)
	}
}

// patchBody is what controllers may write in a merge patch. Anything else fails the test.
type patchBody struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   patchedMetadata `json:"metadata"`
	Status     json.RawMessage `json:"status"`
}

type patchedMetadata struct {
	UID             *types.UID      `json:"uid"`
	ResourceVersion *string         `json:"resourceVersion"`
	Annotations     json.RawMessage `json:"annotations"`
	Labels          json.RawMessage `json:"labels"`
	Finalizers      json.RawMessage `json:"finalizers"`
	OwnerReferences json.RawMessage `json:"ownerReferences"`
}

// patch applies a JSON merge patch to an object, or to its status alone.
func (s *server) patch(by *call, target patchTarget, data []byte) (client.Object, error) {
	var body patchBody
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		panic(fmt.Sprintf("the API server doesn't know this patch: %v: %s", err, data))
	}
	before, err := s.get(target.kind, target.name)
	if err != nil {
		return nil, err
	}
	resource, m := target.kind.resource(), body.Metadata
	if m.UID != nil && *m.UID != before.GetUID() {
		return nil, apierrors.NewConflict(resource, target.name, errors.New("the UID in the precondition differs"))
	}
	if m.ResourceVersion != nil && *m.ResourceVersion != before.GetResourceVersion() {
		return nil, apierrors.NewConflict(resource, target.name, errors.New("the object has been modified"))
	}
	after := clone(before)
	if target.status {
		mergeStatus(after, body.Status)
	} else if err := mergeMetadata(target, after, m); err != nil {
		return nil, err
	}
	s.replace(by, target.kind, before, after)
	return after, nil
}

// patchTarget is what a patch is for.
type patchTarget struct {
	kind   kind
	name   string
	status bool
}

func mergeMetadata(target patchTarget, obj client.Object, m patchedMetadata) error {
	obj.SetAnnotations(mergeStrings(obj.GetAnnotations(), m.Annotations))
	obj.SetLabels(mergeStrings(obj.GetLabels(), m.Labels))
	if m.OwnerReferences != nil {
		var owners []metav1.OwnerReference
		mustDecode(m.OwnerReferences, &owners)
		obj.SetOwnerReferences(owners)
	}
	if m.Finalizers == nil {
		return nil
	}
	var finalizers []string
	mustDecode(m.Finalizers, &finalizers)
	if obj.GetDeletionTimestamp() != nil {
		for _, f := range finalizers {
			if !slices.Contains(obj.GetFinalizers(), f) {
				return apierrors.NewInvalid(schema.GroupKind{Kind: target.kind.String()}, target.name, field.ErrorList{
					field.Forbidden(field.NewPath("metadata", "finalizers"), "no new finalizers can be added if the object is being deleted"),
				})
			}
		}
	}
	if len(finalizers) == 0 {
		finalizers = nil
	}
	obj.SetFinalizers(finalizers)
	return nil
}

// mergeStrings is a merge patch of labels or annotations.
func mergeStrings(have map[string]string, patch json.RawMessage) map[string]string {
	if patch == nil {
		return have
	}
	var changes map[string]*string
	mustDecode(patch, &changes)
	if changes == nil {
		return nil
	}
	merged := maps.Clone(have)
	if merged == nil {
		merged = map[string]string{}
	}
	for key, value := range changes {
		if value == nil {
			delete(merged, key)
		} else {
			merged[key] = *value
		}
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

func mergeStatus(obj client.Object, patch json.RawMessage) {
	if patch == nil {
		return
	}
	switch o := obj.(type) {
	case *v1alpha1.BatchSandbox:
		o.Status = mergeInto(o.Status, patch)
	case *v1alpha1.Pool:
		o.Status = mergeInto(o.Status, patch)
	default:
		panic(fmt.Sprintf("a controller writes the status of a %T", obj))
	}
}

func mergeInto[T any](status T, patch json.RawMessage) T {
	data, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	var have, changes map[string]any
	mustDecode(data, &have)
	mustDecode(patch, &changes)
	data, err = json.Marshal(merge(have, changes))
	if err != nil {
		panic(err)
	}
	var merged T
	mustDecode(data, &merged)
	return merged
}

// merge is RFC 7386.
func merge(have, changes map[string]any) map[string]any {
	if have == nil {
		have = map[string]any{}
	}
	for key, value := range changes {
		switch v := value.(type) {
		case nil:
			delete(have, key)
		case map[string]any:
			inner, _ := have[key].(map[string]any)
			have[key] = merge(inner, v)
		default:
			have[key] = v
		}
	}
	return have
}

func mustDecode(data []byte, into any) {
	if err := json.Unmarshal(data, into); err != nil {
		panic(fmt.Sprintf("%v: %s", err, data))
	}
}
