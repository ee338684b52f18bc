// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

const richTemplate = `{"metadata":{"labels":{"app":"x"},"annotations":{"note":"n"},"finalizers":["f/f"],"name":"ignored"},
	"spec":{"containers":[
		{"name":"sandbox","image":"ubuntu:latest","env":[{"name":"A","value":"1"},{"name":"B","value":"2"}]},
		{"name":"task-executor","image":"executor"}]}}`

func TestDesiredPodGolden(t *testing.T) {
	sb := makeBatch("b").Template(richTemplate).Replicas(2).
		ShardPatches(`{}`, `{"metadata":{"labels":{"shard":"1"}},"spec":{"containers":[{"name":"sandbox","env":[{"name":"B","value":"3"}]}]}}`).Obj()
	pod, problem := desiredPod(sb, 1, "b-1")
	if problem != nil {
		t.Fatal(problem.message)
	}
	got, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	const want = `apiVersion: v1
kind: Pod
metadata:
  annotations:
    note: "n"
  finalizers:
  - f/f
  labels:
    app: x
    batch-sandbox.sandbox.opensandbox.io/name: b
    batch-sandbox.sandbox.opensandbox.io/pod-index: "1"
    shard: "1"
  name: b-1
  namespace: ns
  ownerReferences:
  - apiVersion: sandbox.opensandbox.io/v1alpha1
    blockOwnerDeletion: true
    controller: true
    kind: BatchSandbox
    name: b
    uid: uid-b
spec:
  containers:
  - env:
    - name: A
      value: "1"
    - name: B
      value: "3"
    image: ubuntu:latest
    name: sandbox
    resources: {}
  - env:
    - name: SANDBOX_SIDECAR_MODE
      value: "true"
    image: executor
    name: task-executor
    resources: {}
    volumeMounts:
    - mountPath: /var/lib/sandbox/tasks
      name: task-executor-records
  volumes:
  - emptyDir: {}
    name: task-executor-records
status: {}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
}

func TestDesiredPodOfAnIndexBeyondThePatchesIsTheTemplate(t *testing.T) {
	sb := makeBatch("b").Template(richTemplate).Replicas(3).ShardPatches(`{"metadata":{"labels":{"app":"patched"}}}`).Obj()
	for index, want := range map[int]string{0: "patched", 1: "x", 2: "x"} {
		pod, problem := desiredPod(sb, index, "b")
		if problem != nil {
			t.Fatal(problem.message)
		}
		if got := pod.Labels["app"]; got != want {
			t.Errorf("index %d has label app=%s, want %s", index, got, want)
		}
	}
}

func TestDesiredPodDecidesWhosePodItIs(t *testing.T) {
	patch := `{"metadata":{"labels":{"batch-sandbox.sandbox.opensandbox.io/name":"other","batch-sandbox.sandbox.opensandbox.io/pod-index":"9",
		"sandbox.opensandbox.io/pool-name":"p","sandbox.opensandbox.io/pool-revision":"r"},
		"uid":"u","resourceVersion":"7","generateName":"g","creationTimestamp":"2026-01-01T00:00:00Z","deletionTimestamp":"2026-01-01T00:00:00Z"}}`
	pod, problem := desiredPod(makeBatch("b").Container("sandbox").ShardPatches(patch).Obj(), 0, "b-0")
	if problem != nil {
		t.Fatal(problem.message)
	}
	want := metav1.ObjectMeta{
		Name: "b-0", Namespace: namespace,
		Labels:          map[string]string{v1alpha1.BatchNameLabel: "b", v1alpha1.PodIndexLabel: "0"},
		OwnerReferences: pod.OwnerReferences,
	}
	if diff := cmp.Diff(want, pod.ObjectMeta); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if owner := metav1.GetControllerOf(pod); owner == nil || owner.UID != "uid-b" || len(pod.OwnerReferences) != 1 {
		t.Errorf("owners %v, want the batch alone", pod.OwnerReferences)
	}
}

func TestDesiredPodRefuses(t *testing.T) {
	patched := func(patch string) *wrappers.BatchWrapper {
		return makeBatch("b").Template(richTemplate).ShardPatches(patch)
	}
	cases := map[string]struct {
		batch  *wrappers.BatchWrapper
		reason string
		want   string // in the message
	}{
		"a template that is no template":         {makeBatch("b").Template(`{"spec":[]}`), v1alpha1.ReasonInvalidTemplate, "template is no pod template"},
		"a template without containers":          {makeBatch("b").Template(`{}`), v1alpha1.ReasonInvalidTemplate, "containers is empty"},
		"a patch that is broken JSON":            {patched(`{"spec":`), v1alpha1.ReasonInvalidShardPatch, "spec.shardPatches[0] is no strategic merge patch"},
		"a patch that is a list":                 {patched(`[]`), v1alpha1.ReasonInvalidShardPatch, "spec.shardPatches[0] is no strategic merge patch"},
		"a patch that is a text":                 {patched(`"x"`), v1alpha1.ReasonInvalidShardPatch, "spec.shardPatches[0] is no strategic merge patch"},
		"a patch that puts a text into a number": {patched(`{"spec":{"priority":"high"}}`), v1alpha1.ReasonInvalidShardPatch, "makes something that is no pod"},
		"a patch that renames the pod":           {patched(`{"metadata":{"name":"other"}}`), v1alpha1.ReasonInvalidShardPatch, "name or namespace"},
		"a patch that moves the pod":             {patched(`{"metadata":{"namespace":"other"}}`), v1alpha1.ReasonInvalidShardPatch, "name or namespace"},
		"a patch that removes all containers":    {patched(`{"spec":{"containers":null}}`), v1alpha1.ReasonInvalidShardPatch, "leaves no container"},
		"a patch that removes the whole pod":     {patched(`{"$patch":"replace"}`), v1alpha1.ReasonInvalidShardPatch, "name or namespace"},
		"a patch that removes the executor": {
			patched(`{"spec":{"containers":[{"$patch":"delete","name":"task-executor"}]}}`), v1alpha1.ReasonInvalidShardPatch, "removes the container task-executor",
		},
		"a patch that adds an owner": {
			patched(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"u"}]}}`),
			v1alpha1.ReasonInvalidShardPatch, "metadata.ownerReferences",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pod, problem := desiredPod(c.batch.Obj(), 0, "b-0")
			if problem == nil {
				t.Fatalf("made %v", pod)
			}
			if problem.condition != v1alpha1.ConditionReady || problem.reason != c.reason || !strings.Contains(problem.message, c.want) {
				t.Errorf("problem %+v, want %s with %q", *problem, c.reason, c.want)
			}
		})
	}
}

func TestPatchPodMayRemoveOneOfSeveralContainers(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
	got, err := patchPod(pod, []byte(`{"spec":{"containers":[{"$patch":"delete","name":"a"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Spec.Containers) != 1 || got.Spec.Containers[0].Name != "b" {
		t.Errorf("containers %v, want b", got.Spec.Containers)
	}
}

func TestAPatchOfNothingChangesNothing(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	for _, patch := range []string{`{}`, `null`} {
		got, err := patchPod(pod, []byte(patch))
		if err != nil {
			t.Errorf("patch %q: %v", patch, err)
		} else if diff := cmp.Diff(pod, got); diff != "" {
			t.Errorf("patch %q (-want +got):\n%s", patch, diff)
		}
	}
}

func TestPodName(t *testing.T) {
	sb := makeBatch("b").Obj()
	cases := map[string]struct {
		lost sandbox
		want string
	}{
		"the first pod has the plain name":                       {sandbox{}, "b-3"},
		"a pod whose predecessor is gone has the plain name":     {goneSandbox("b-3"), "b-3"},
		"beside a lost pod there is a suffix made of its UID":    {sandbox{podName: "b-3", podUID: "one", lost: true}, "b-3-7692c"},
		"the UID of another lost pod makes another suffix":       {sandbox{podName: "b-3", podUID: "two", lost: true}, "b-3-3fc4c"},
		"the lost pod's own suffix doesn't make the name longer": {sandbox{podName: "b-3-7692c", podUID: "two", lost: true}, "b-3-3fc4c"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := podName(sb, 3, c.lost); got != c.want {
				t.Errorf("podName = %s, want %s", got, c.want)
			}
		})
	}
}

func TestSortOwnPods(t *testing.T) {
	pod := func(name, index string, change ...func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{v1alpha1.PodIndexLabel: index}, CreationTimestamp: metav1.NewTime(noon),
		}}
		for _, f := range change {
			f(&p)
		}
		return p
	}
	isReady := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	older := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon.Add(-time.Hour)) }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	succeeded := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	going := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }
	cases := map[string]struct {
		pods        []corev1.Pod
		replicas    int
		want        []string // pod names by index, "!" before a lost one
		wantSurplus []string
	}{
		"no pods leave every index empty": {replicas: 2, want: []string{"", ""}},
		"each pod stands for its index":   {[]corev1.Pod{pod("b", "1"), pod("a", "0")}, 2, []string{"a", "b"}, nil},
		"indexes above replicas are listed": {
			[]corev1.Pod{pod("a", "0"), pod("b", "1"), pod("c", "2")}, 1, []string{"a", "b", "c"}, nil,
		},
		"a living pod beats a lost one, which is deleted": {
			[]corev1.Pod{pod("a", "0", failed, older), pod("b", "0")}, 1, []string{"b"}, []string{"a"},
		},
		"a lost pod on its way out is no surplus": {[]corev1.Pod{pod("a", "0", going), pod("b", "0")}, 1, []string{"b"}, nil},
		"a Ready pod beats an older one":          {[]corev1.Pod{pod("a", "0", older), pod("b", "0", isReady)}, 1, []string{"b"}, []string{"a"}},
		"the older of two beats the younger":      {[]corev1.Pod{pod("a", "0"), pod("b", "0", older)}, 1, []string{"b"}, []string{"a"}},
		"of two alike the name decides":           {[]corev1.Pod{pod("b", "0"), pod("a", "0")}, 1, []string{"a"}, []string{"b"}},
		"a failed pod is lost":                    {[]corev1.Pod{pod("a", "0", failed)}, 1, []string{"!a"}, nil},
		"a pod being deleted is lost":             {[]corev1.Pod{pod("a", "0", going)}, 1, []string{"!a"}, nil},
		"a pod that ran to its end is kept":       {[]corev1.Pod{pod("a", "0", succeeded)}, 1, []string{"a"}, nil},
		"labels that are no index make surplus": {
			[]corev1.Pod{pod("a", ""), pod("b", "x"), pod("c", "-1"), pod("d", "2147483647"), pod("e", "99999999999999999999")}, 1,
			nil, []string{"a", "b", "c", "d", "e"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sandboxes, surplus := sortOwnPods(c.pods, c.replicas, nil)
			var got, gotSurplus []string
			for _, s := range sandboxes {
				if s.lost {
					s.podName = "!" + s.podName
				}
				got = append(got, s.podName)
			}
			for _, p := range surplus {
				gotSurplus = append(gotSurplus, p.Name)
			}
			if c.want != nil {
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("sandboxes (-want +got):\n%s", diff)
				}
			} else if len(got) > c.replicas+len(c.pods) {
				t.Errorf("%d entries for %d pods", len(got), len(c.pods))
			}
			if diff := cmp.Diff(c.wantSurplus, gotSurplus); diff != "" {
				t.Errorf("surplus (-want +got):\n%s", diff)
			}
		})
	}
}
