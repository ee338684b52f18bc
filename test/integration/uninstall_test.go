// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// uninstall runs one step of what the chart does about an uninstall, for the test's namespace.
func (s *space) uninstall(args ...string) (string, error) {
	s.t.Helper()
	args = append([]string{"uninstall", "--kubeconfig=" + s.kubeconfig, "--watch-namespaces=" + s.name, "--namespace=" + s.name}, args...)
	out, err := exec.CommandContext(s.ctx, filepath.Join(s.bin, "controller"), args...).CombinedOutput()
	return string(out), err
}

func TestAnUninstallIsRefusedWhileThereAreBatchesOrPoolsAndNothingChanges(t *testing.T) {
	s, other := newSpace(t), newSpace(t)
	other.create(makePool("of-others", 0, 0, 0, 1))
	s.startController("")
	s.create(makePool("p", 1, 1, 1, 2))
	s.create(makeBatch("b", "p", 1))
	s.delivered("b", 1)

	out, err := s.uninstall()
	want := fmt.Sprintf("still there: batchsandboxes %[1]s/b; pools %[1]s/p. Nothing was removed. Delete all batchsandboxes and then all pools in %[1]s", s.name)
	if err == nil || !strings.Contains(out, want) {
		t.Errorf("%v: %q, want an error with %q", err, out, want)
	}
	if sb, pool := s.batch("b"), s.pool("p"); sb.DeletionTimestamp != nil || pool.DeletionTimestamp != nil {
		t.Error("a refused uninstall deletes")
	}

	s.delete("b")
	s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	if out, err := s.uninstall(); err == nil || !strings.Contains(out, "still there: pools "+s.name+"/p. ") {
		t.Errorf("with a pool alone: %v: %q, want a refusal", err, out)
	}
	s.must(s.client.Delete(s.ctx, s.pool("p")))
	if out, err := s.uninstall(); err != nil {
		t.Errorf("with a pool that is being deleted: %v: %s", err, out)
	}
	if left := len(s.pods()); left > 0 {
		t.Errorf("%d pods are left, want the uninstall to wait for them", left)
	}
}

func TestAnUninstallThatDeletesWaitsUntilAllIsGone(t *testing.T) {
	s, other := newSpace(t), newSpace(t)
	other.create(makeBatch("of-others", "", 1))
	s.startController("")
	s.create(makePool("p", 1, 1, 1, 4))
	s.create(makeBatch("pooled", "p", 2))
	s.create(makeBatch("own", "", 2))
	s.delivered("pooled", 2)
	s.delivered("own", 2)
	if out, err := s.uninstall("--policy=Delete"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var batches v1alpha1.BatchSandboxList
	var pools v1alpha1.PoolList
	s.must(s.client.List(s.ctx, &batches, client.InNamespace(s.name)))
	s.must(s.client.List(s.ctx, &pools, client.InNamespace(s.name)))
	if len(batches.Items)+len(pools.Items)+len(s.pods()) > 0 {
		t.Errorf("%d batches, %d pools and %d pods are left", len(batches.Items), len(pools.Items), len(s.pods()))
	}
	if other.batch("of-others").DeletionTimestamp != nil {
		t.Error("a batch of another namespace was deleted")
	}
}

func TestAnUninstallWithoutAControllerSaysWhyItDoesNotEnd(t *testing.T) {
	s := newSpace(t)
	pool := makePool("p", 0, 0, 0, 1)
	pool.Finalizers = []string{"example.com/nobody"}
	s.create(pool)
	out, err := s.uninstall("--policy=Delete", "--timeout=2s")
	s.patch(pool, `{"metadata":{"finalizers":null}}`)
	if want := "pools are not gone in time: " + s.name + "/p. Only a running controller takes off their finalizers"; err == nil || !strings.Contains(out, want) {
		t.Errorf("%v: %q, want an error with %q", err, out, want)
	}
}

func TestWhatAControllerMadeForItselfGoesOnceItHasEnded(t *testing.T) {
	s := newSpace(t)
	s.create(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.LeaderElectionID}})
	s.create(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "of-others"}})
	s.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RootSecretName}})
	pod := func(name, app string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"control-plane": "controller-manager", "app.kubernetes.io/name": app}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "controller"}}},
		}
	}
	controller := pod("controller", "opensandbox-controller")
	s.create(controller)
	s.create(pod("another", "another-controller"))
	there := func(name string, obj client.Object) bool {
		err := s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, obj)
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}

	if out, err := s.uninstall("--after", "--timeout=2s"); err == nil || !strings.Contains(out, "controllers are not gone in time: "+s.name+"/controller") {
		t.Errorf("while a controller runs: %v: %q", err, out)
	}
	if !there(v1alpha1.LeaderElectionID, &coordinationv1.Lease{}) {
		t.Error("the Lease is gone while a controller runs, which may make it anew")
	}
	s.must(s.client.Delete(s.ctx, controller, client.GracePeriodSeconds(0)))
	for _, run := range []string{"first", "second"} { // the second finds nothing, and is fine
		if out, err := s.uninstall("--after", "--timeout="+time.Minute.String()); err != nil {
			t.Errorf("the %s run: %v: %s", run, err, out)
		}
	}
	if there(v1alpha1.LeaderElectionID, &coordinationv1.Lease{}) || there(v1alpha1.RootSecretName, &corev1.Secret{}) {
		t.Error("Lease or Secret are left")
	}
	if !there("of-others", &coordinationv1.Lease{}) {
		t.Error("the Lease of others is gone")
	}
}
