// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// namespaced are the objects of config/namespaced for these two namespaces, with the controller in another one.
func (s *space) namespaced(system, first, second string) []*unstructured.Unstructured {
	s.t.Helper()
	names := strings.NewReplacer(systemNamespace, system, "team-a", first, "team-b", second)
	objects := s.rendered("namespaced")
	for _, obj := range objects {
		text, err := json.Marshal(obj)
		s.must(err)
		s.must(json.Unmarshal([]byte(names.Replace(string(text))), obj))
	}
	return objects
}

// deploymentArgs are the arguments of the controller in a Deployment.
func (s *space) deploymentArgs(deployment *unstructured.Unstructured) []string {
	s.t.Helper()
	containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	s.must(err)
	manager, ok := containers[0].(map[string]any)
	if !ok || len(containers) != 1 {
		s.t.Fatalf("the Deployment has the containers %v, want one", containers)
	}
	args, _, err := unstructured.NestedStringSlice(manager, "args")
	s.must(err)
	return args
}

// The Roles of config/namespaced are enough for all that a controller does in its namespaces, and for nothing elsewhere.
func TestAControllerWithRolesInItsNamespacesAloneDoesItsWorkThereAndTouchesNoOther(t *testing.T) {
	first, second, other := newSpace(t), newSpace(t), newSpace(t)
	system := newSpace(t).name
	var args []string
	for _, obj := range first.namespaced(system, first.name, second.name) {
		switch {
		case !slices.Contains([]string{system, first.name, second.name}, obj.GetNamespace()):
			t.Errorf("config/namespaced has %s %s, which is in none of its namespaces", obj.GetKind(), obj.GetName())
		case obj.GetKind() == "Deployment":
			args = first.deploymentArgs(obj)
		default:
			first.must(first.client.Create(first.ctx, obj, client.FieldValidation(metav1.FieldValidationStrict)))
		}
	}
	if want := "--watch-namespaces=" + first.name + "," + second.name; !slices.Contains(args, want) || !slices.Contains(args, "--leader-elect") {
		t.Fatalf("the Deployment's arguments are %q, want %s and --leader-elect among them", args, want)
	}
	account := "system:serviceaccount:" + system + ":opensandbox-controller-manager"
	metrics := freeAddress(t)
	controller := first.startController(first.kubeconfigOf(account), append(args, "--namespace="+system,
		"--metrics-bind-address="+metrics, "--health-probe-bind-address=0")...) // the Deployment's ports may be taken

	other.create(makeBatch("untouched", "", 1))
	other.create(makePool("untouched", 1, 1, 1, 1))
	for _, s := range []*space{first, second} {
		s.startExecutors()
		s.create(taskPool("p", 2))
		s.create(makeTaskBatch("tasks", "p", "true", 2))
		if st := s.tasksEnded("tasks").Status; st.TaskSucceed != 2 {
			t.Errorf("status %+v, want 2 succeeded", st)
		}
		s.create(makeBatch("own", "", 1))
		s.delivered("own", 1)
		expires := makeBatch("expires", "p", 1)
		expires.Spec.ExpireTime = &metav1.Time{Time: time.Now().Add(2 * time.Second)}
		s.create(expires)
		s.gone(expires)
		for _, name := range []string{"tasks", "own"} {
			s.delete(name)
			s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		s.idle("p", 2) // those that were given back
		s.wantEvent("TasksSucceeded", "")
		pool := s.pool("p")
		s.must(s.client.Delete(s.ctx, pool))
		s.gone(pool)
		eventually(t, "delete the pods of the pool", func() error {
			if left := len(s.pods()); left > 0 {
				return fmt.Errorf("%d are left", left)
			}
			return nil
		})
	}
	if sb := other.batch("untouched"); len(sb.Finalizers) > 0 || len(sb.Annotations) > 0 || sb.Status.ObservedGeneration != 0 || len(other.pods()) > 0 {
		t.Errorf("a batch of another namespace was touched: %+v, %d pods", sb, len(other.pods()))
	}
	if pool := other.pool("untouched"); len(pool.Finalizers) > 0 || pool.Status.ObservedGeneration != 0 {
		t.Errorf("a pool of another namespace was touched: %+v", pool)
	}

	lease := &coordinationv1.Lease{}
	first.must(first.client.Get(first.ctx, client.ObjectKey{Namespace: system, Name: v1alpha1.LeaderElectionID}, lease))
	first.must(first.client.Get(first.ctx, client.ObjectKey{Namespace: system, Name: v1alpha1.RootSecretName}, &corev1.Secret{}))
	if n := strings.Count(controller.log.String(), "may not watch nodes"); n != 1 {
		t.Errorf("the log says %d times that nodes can't be watched, want once", n)
	}
	if log := controller.log.String(); strings.Contains(log, "forbidden") {
		t.Errorf("the controller asks for what it may not have:\n%s", log)
	}
	c := first.clientOf(account)
	for what, err := range map[string]error{
		"list nodes":                       c.List(first.ctx, &corev1.NodeList{}),
		"list pods everywhere":             c.List(first.ctx, &corev1.PodList{}),
		"list batches everywhere":          c.List(first.ctx, &v1alpha1.BatchSandboxList{}),
		"list pods elsewhere":              c.List(first.ctx, &corev1.PodList{}, client.InNamespace(other.name)),
		"list Secrets of its namespaces":   c.List(first.ctx, &corev1.SecretList{}, client.InNamespace(first.name)),
		"create Secrets in its namespaces": c.Create(first.ctx, secretNamed(first.name, "made")),
		"read another namespace":           c.Get(first.ctx, client.ObjectKey{Name: other.name}, &corev1.Namespace{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", what, err)
		}
	}
}
