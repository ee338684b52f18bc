// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	systemNamespace = "opensandbox-system"
	systemAccount   = "system:serviceaccount:" + systemNamespace + ":opensandbox-controller-manager"
)

// rendered are the objects of a kustomization under config/, as users apply them.
func (s *space) rendered(dir string) []*unstructured.Unstructured {
	s.t.Helper()
	path, err := exec.CommandContext(s.ctx, "../../hack/tools/tool.sh", "kustomize").Output()
	s.must(err)
	build := exec.CommandContext(s.ctx, strings.TrimSpace(string(path)), "build", "../../config/"+dir)
	var problems bytes.Buffer
	build.Stderr = &problems
	out, err := build.Output()
	if err != nil {
		s.t.Fatalf("kustomize build config/%s: %v\n%s", dir, err, &problems)
	}
	var objects []*unstructured.Unstructured
	for document := range strings.SplitSeq(string(out), "\n---\n") {
		obj := &unstructured.Unstructured{}
		s.must(yaml.Unmarshal([]byte(document), &obj.Object))
		objects = append(objects, obj)
	}
	return objects
}

// deployRights makes what `make deploy` does about the rights of the controller's account.
func (s *space) deployRights() {
	s.t.Helper()
	var kinds []string
	for _, obj := range s.rendered("default") {
		switch obj.GetKind() {
		case "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding":
		default:
			continue
		}
		if obj.GetName() == systemNamespace || strings.HasPrefix(obj.GetName(), "opensandbox-") {
			kinds = append(kinds, obj.GetKind())
		}
		s.apply(obj)
	}
	for _, kind := range []string{"Namespace", "ServiceAccount", "ClusterRoleBinding", "Role", "RoleBinding"} {
		if !strings.Contains(strings.Join(kinds, " "), kind) {
			s.t.Errorf("config/default has no %s of the controller; there are %v", kind, kinds)
		}
	}
}

// apply makes an object as it is, whatever an earlier run has left of it.
func (s *space) apply(obj *unstructured.Unstructured) {
	s.t.Helper()
	err := s.client.Create(s.ctx, obj)
	if apierrors.IsAlreadyExists(err) {
		existing := obj.DeepCopy()
		s.must(s.client.Get(s.ctx, client.ObjectKeyFromObject(obj), existing))
		obj.SetResourceVersion(existing.GetResourceVersion())
		err = s.client.Update(s.ctx, obj)
	}
	s.must(err)
}

// clientOf returns a client with the rights of a service account.
func (s *space) clientOf(account string) client.Client {
	s.t.Helper()
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: account, Groups: groupsOf(account)}
	c, err := client.New(config, client.Options{Scheme: s.client.Scheme()})
	s.must(err)
	return c
}

// groupsOf are those that every token of a service account, system:serviceaccount:NAMESPACE:NAME, is of.
func groupsOf(account string) []string {
	namespace := strings.Split(account, ":")[2]
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
}

// kubeconfigOf writes a kubeconfig with the rights of a service account.
func (s *space) kubeconfigOf(account string) string {
	s.t.Helper()
	config, err := clientcmd.LoadFromFile(s.kubeconfig)
	s.must(err)
	for _, user := range config.AuthInfos {
		user.Impersonate, user.ImpersonateGroups = account, groupsOf(account)
	}
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	s.must(clientcmd.WriteToFile(*config, path))
	return path
}

func secretNamed(namespace, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// The account of config/default is enough for the controller to make its root, and for it to read no other Secret.
func TestTheControllersAccountMayReadItsOwnSecretAndNoOther(t *testing.T) {
	s := newSpace(t)
	s.deployRights()
	own := secretNamed(systemNamespace, v1alpha1.RootSecretName)
	s.must(client.IgnoreNotFound(s.client.Delete(s.ctx, own)))
	others := []*corev1.Secret{secretNamed(systemNamespace, "another"), secretNamed(s.name, v1alpha1.RootSecretName)}
	for _, other := range others {
		if err := s.client.Create(s.ctx, other); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	s.startExecutors()
	s.startController(s.kubeconfigOf(systemAccount), "--namespace="+systemNamespace)
	s.create(taskPool("p", 1))
	s.create(makeTaskBatch("b", "p", "true", 1))
	if st := s.tasksEnded("b").Status; st.TaskSucceed != 1 {
		t.Errorf("status %+v, want 1 succeeded", st)
	}

	c := s.clientOf(systemAccount)
	got := secretNamed(systemNamespace, v1alpha1.RootSecretName)
	if err := c.Get(s.ctx, client.ObjectKeyFromObject(got), got); err != nil || len(got.Data[corev1.TLSPrivateKeyKey]) == 0 {
		t.Errorf("its own Secret: %v, members %d", err, len(got.Data))
	}
	forbidden := map[string]error{
		"update its own":          c.Update(s.ctx, got),
		"delete its own":          c.Delete(s.ctx, got),
		"list Secrets":            c.List(s.ctx, &corev1.SecretList{}, client.InNamespace(systemNamespace)),
		"list Secrets everywhere": c.List(s.ctx, &corev1.SecretList{}),
		"create one elsewhere":    c.Create(s.ctx, secretNamed(s.name, "made")),
	}
	for _, other := range others {
		forbidden["get "+client.ObjectKeyFromObject(other).String()] = c.Get(s.ctx, client.ObjectKeyFromObject(other), &corev1.Secret{})
	}
	for what, err := range forbidden {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", what, err)
		}
	}
}

// The policies let nobody but the controller's pods reach a sandbox, on the executor's port; every pod that the controller
// makes is one of exactly one policy.
func TestNetworkPoliciesCoverEverySandboxOnce(t *testing.T) {
	s := newSpace(t)
	var policies []*networkingv1.NetworkPolicy
	for _, obj := range s.rendered("network-policy-sandboxes") {
		if obj.GetNamespace() != "" {
			t.Errorf("%s %s has namespace %s, and can't be applied elsewhere", obj.GetKind(), obj.GetName(), obj.GetNamespace())
		}
		obj.SetNamespace(s.name)
		s.must(s.client.Create(s.ctx, obj, client.FieldValidation(metav1.FieldValidationStrict)))
		policy := &networkingv1.NetworkPolicy{}
		s.must(s.client.Get(s.ctx, client.ObjectKeyFromObject(obj), policy))
		policies = append(policies, policy)
	}
	s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	s.create(makeBatch("pooled", "p", 1))
	s.create(makeBatch("own", "", 1))
	s.delivered("pooled", 1)
	s.delivered("own", 1)
	eventually(t, "label the pod that is held", func() error {
		for _, pod := range s.pods() {
			if pod.Labels[v1alpha1.PoolNameLabel] != "" && pod.Labels[v1alpha1.BatchNameLabel] != "" {
				return nil
			}
		}
		return errors.New("none has both labels")
	})
	for _, pod := range s.pods() {
		var chosen []string
		for _, p := range policies {
			selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
			s.must(err)
			if selector.Matches(labels.Set(pod.Labels)) {
				chosen = append(chosen, p.Name)
			}
		}
		if len(chosen) != 1 {
			t.Errorf("pod %s with labels %v is one of %v, want one policy", pod.Name, pod.Labels, chosen)
		}
	}

	manager := s.managerLabels()
	for _, p := range policies {
		if diff := cmp.Diff([]networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, p.Spec.PolicyTypes); diff != "" {
			t.Errorf("types (-want +got):\n%s", diff)
		}
		if len(p.Spec.Ingress) != 1 || len(p.Spec.Ingress[0].From) != 1 || len(p.Spec.Ingress[0].Ports) != 1 {
			t.Fatalf("ingress %+v, want one peer and one port", p.Spec.Ingress)
		}
		peer, port := p.Spec.Ingress[0].From[0], p.Spec.Ingress[0].Ports[0]
		if got := fmt.Sprint(port.Port, " ", *port.Protocol); got != "5758 TCP" {
			t.Errorf("port %s, want 5758 TCP", got)
		}
		pods, err := metav1.LabelSelectorAsSelector(peer.PodSelector)
		s.must(err)
		namespaces, err := metav1.LabelSelectorAsSelector(peer.NamespaceSelector)
		s.must(err)
		if !pods.Matches(labels.Set(manager)) || pods.Empty() {
			t.Errorf("peer %s doesn't choose the controller's pods, %v", pods, manager)
		}
		if !namespaces.Matches(labels.Set{corev1.LabelMetadataName: systemNamespace}) || namespaces.Matches(labels.Set{corev1.LabelMetadataName: s.name}) {
			t.Errorf("peer %s doesn't choose the controller's namespace alone", namespaces)
		}
	}
}

// managerLabels are those of the controller's own pods.
func (s *space) managerLabels() map[string]string {
	s.t.Helper()
	for _, obj := range s.rendered("default") {
		if obj.GetKind() != "Deployment" {
			continue
		}
		found, ok, err := unstructured.NestedStringMap(obj.Object, "spec", "template", "metadata", "labels")
		if err != nil || !ok {
			s.t.Fatalf("the Deployment's pods have no labels (%v)", err)
		}
		return found
	}
	s.t.Fatal("config/default has no Deployment")
	return nil
}
