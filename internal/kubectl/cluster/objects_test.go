// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/api/v1alpha1"
)

func pod(name string, labels map[string]string, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "here", Name: name, Labels: labels}}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{UID: "uid-1", Name: owner, Controller: ptr.To(true)}}
	}
	return p
}

func own(index, name string) *corev1.Pod {
	return pod(name, map[string]string{v1alpha1.BatchNameLabel: "b", v1alpha1.PodIndexLabel: index}, "b")
}

func names(pods []*corev1.Pod) []string {
	all := make([]string, len(pods))
	for i, p := range pods {
		if p != nil {
			all[i] = p.Name
		}
	}
	return all
}

func TestPods(t *testing.T) {
	var many []string
	var manyPods []client.Object
	list := ""
	for i := range fewPods + 1 {
		name := fmt.Sprint("m-", i)
		many = append(many, name)
		manyPods = append(manyPods, pod(name, map[string]string{v1alpha1.PoolNameLabel: "small"}, ""))
		list += fmt.Sprintf("%q,", name)
	}
	going := own("0", "b-0")
	going.DeletionTimestamp, going.Finalizers = &metav1.Time{Time: time.Unix(1, 0)}, []string{"x/y"}
	stranger := own("2", "b-2")
	stranger.OwnerReferences = nil
	cases := map[string]struct {
		pool, alloc string
		pods        []client.Object
		want        []string
	}{
		"a pooled batch has the pods of its list": {
			"small", `{"pods":["p-b","","p-a","gone"]}`,
			[]client.Object{pod("p-a", nil, ""), pod("p-b", nil, ""), pod("p-c", map[string]string{v1alpha1.BatchNameLabel: "b"}, "")},
			[]string{"p-b", "", "p-a", ""},
		},
		"many are listed together":           {"small", `{"pods":[` + list + `"gone"]}`, manyPods, append(many, "")},
		"a pooled batch that waits has none": {"small", "", []client.Object{own("0", "b-0")}, []string{}},
		"its own pods are known by label and owner, a successor before one that goes": {
			"", `{"pods":["p-a"]}`, []client.Object{going, own("0", "b-0-x"), own("1", "b-1"), stranger, own("nonsense", "b-n"), pod("p-a", nil, "")},
			[]string{"b-0-x", "b-1"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			scheme, err := Scheme()
			if err != nil {
				t.Fatal(err)
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(tc.pods...).Build()
			sb := &v1alpha1.BatchSandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "here", Name: "b", UID: "uid-1"}, Spec: v1alpha1.BatchSandboxSpec{PoolRef: tc.pool},
			}
			if tc.alloc != "" {
				sb.Annotations = map[string]string{v1alpha1.AllocStatusAnnotation: tc.alloc}
			}
			pods, err := Pods(t.Context(), c, sb)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, names(pods)); diff != "" {
				t.Error(diff)
			}
			for index, want := range append(tc.want, "") {
				one, err := Pod(t.Context(), c, sb, index)
				if err != nil {
					t.Fatal(err)
				}
				if got := names([]*corev1.Pod{one})[0]; got != want {
					t.Errorf("index %d has pod %q, want %q", index, got, want)
				}
			}
		})
	}
}

func TestSandboxContainer(t *testing.T) {
	marked := corev1.Container{Name: "second", Env: []corev1.EnvVar{{Name: v1alpha1.MainContainerEnv, Value: "second"}}}
	executor := corev1.Container{Name: v1alpha1.TaskExecutorContainer, Env: marked.Env}
	for want, containers := range map[string][]corev1.Container{
		"first":         {executor, {Name: "first"}, {Name: "other"}},
		"second":        {{Name: "first"}, marked, executor},
		"task-executor": {executor},
		"":              nil,
	} {
		if got := SandboxContainer(&corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestTheClientKnowsWhereKindsAreServed without a server to ask.
func TestTheClientKnowsWhereKindsAreServed(t *testing.T) {
	c, err := connect(&rest.Config{Host: "http://127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"BatchSandbox": "batchsandboxes", "Pool": "pools"} {
		mapping, err := c.client.RESTMapper().RESTMapping(v1alpha1.GroupVersion.WithKind(kind).GroupKind(), "v1alpha1")
		if err != nil || mapping.Resource.Resource != want {
			t.Errorf("%s: %v (%v), want %s", kind, mapping, err, want)
		}
	}
}
