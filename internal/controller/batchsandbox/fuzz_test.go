// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// Whatever a user writes into the annotation, it is pods that can be written and read again, or an error.
func FuzzParseAllocStatus(f *testing.F) {
	for _, seed := range []string{`{"pods":["a","",""]}`, `{"pods":null}`, `{}`, `null`, `[]`, `{"pods":["a","a"]}`, `{"pods":[1]}`, ``, `{"Pods":["\u0000"]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		pods, err := parseAllocStatus(makeBatch("b").AllocStatus(value).Obj())
		if err != nil {
			return
		}
		named := slices.DeleteFunc(slices.Clone(pods), func(s string) bool { return s == "" })
		slices.Sort(named)
		if len(slices.Compact(slices.Clone(named))) != len(named) {
			t.Fatalf("%q names a pod twice: %q", value, pods)
		}
		again, err := parseAllocStatus(makeBatch("b").AllocStatus(formatAllocStatus(pods)).Obj())
		if err != nil || !slices.Equal(pods, again) {
			t.Fatalf("wrote %q, read %q, %v", pods, again, err)
		}
	})
}

// Whatever stands in a patch, the pod is still the batch's, or there is a problem that says what to change.
func FuzzPatchPod(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"spec":{"containers":[{"name":"sandbox","env":[{"name":"A","value":"2"}]}]}}`,
		`{"spec":{"containers":[{"$patch":"delete","name":"task-executor"}]}}`, `{"spec":{"$patch":"replace"}}`, `{"$patch":"delete"}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"x"}],"containers":[{"name":"x"}]}}`, `{"spec":{"$retainKeys":["x"]}}`,
		`{"metadata":{"name":null,"labels":{"a":null},"$deleteFromPrimitiveList/finalizers":["f/f"]}}`, `{"spec":{"containers":null}}`,
		`{"spec":{"containers":[{"name":{}}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		sb := makeBatch("b").Template(richTemplate).Obj()
		sb.Spec.ShardPatches = []v1alpha1.RawObject{{RawExtension: runtime.RawExtension{Raw: patch}}}
		pod, problem := desiredPod(sb, 0, "b-0")
		if problem != nil {
			if problem.message == "" || problem.reason != v1alpha1.ReasonInvalidShardPatch {
				t.Fatalf("problem %+v", *problem)
			}
			return
		}
		if pod.Name != "b-0" || pod.Namespace != namespace || !metav1.IsControlledBy(pod, sb) || len(pod.OwnerReferences) != 1 ||
			pod.Labels[v1alpha1.BatchNameLabel] != "b" || pod.Labels[v1alpha1.PodIndexLabel] != "0" || pod.Labels[v1alpha1.PoolNameLabel] != "" {
			t.Fatalf("patch %s makes it somebody else's: %+v", patch, pod.ObjectMeta)
		}
		if len(pod.Spec.Containers) == 0 || podutil.Container(&pod.Spec, v1alpha1.TaskExecutorContainer) == nil {
			t.Fatalf("patch %s removes what it must not: %+v", patch, pod.Spec.Containers)
		}
		again, _ := desiredPod(sb, 0, "b-0")
		if diff := cmp.Diff(pod, again); diff != "" {
			t.Fatalf("patch %s is applied differently the second time:\n%s", patch, diff)
		}
	})
}

// Whatever stands in a patch, the task can be handed to an executor, or there is a problem.
func FuzzPatchTask(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"spec":{"process":{"command":["sh"],"args":["-c","x"]},"timeoutSeconds":5}}`,
		`{"spec":{"process":{"env":[{"name":"A","$patch":"delete"},{"name":"B","value":"3"}]}}}`, `{"spec":null}`,
		`{"spec":{"process":{"env":[{"$patch":"replace"}]}}}`, `{"spec":{"process":{"$setElementOrder/env":[{"name":"B"}]}}}`,
		`{"spec":{"process":{"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['a']"}}}]}}}`,
		`{"spec":{"process":{"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"['"}}},{"name":"B","valueFrom":{}}]}}}`,
		`{"spec":{"process":{"env":{"$patch":"delete"}}}}`, `{"spec":{"timeoutSeconds":1e99}}`,
		`{"spec":{"process":{"env":[{"name":{}}]}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		sb := taskBatch().Obj()
		sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{{RawExtension: runtime.RawExtension{Raw: patch}}}
		task, fields, problem := desiredTask(sb, 0, 1)
		if problem != nil {
			if problem.message == "" || problem.reason != v1alpha1.ReasonInvalidTask {
				t.Fatalf("problem %+v", *problem)
			}
			return
		}
		for _, ref := range fields {
			task.Process.Env[ref.entry].Value += fieldOf(&corev1.Pod{}, ref.path)
		}
		if err := taskexecutor.ValidateSet([]taskexecutor.Task{task}); err != nil || task.Name != "uid-b-0-1" {
			t.Fatalf("patch %s makes a task that no executor takes: %+v: %v", patch, task, err)
		}
	})
}

// Whatever a user writes into the lists of an older controller, it is what can be read again, or an error and no pod is taken out of service.
func FuzzGivenBackPods(f *testing.F) {
	f.Add(`{"pods":["a"]}`, `{"pods":["b","a"]}`)
	f.Add(`{"pods":["a"]}`, `{"pods":`)
	f.Add(`null`, `[]`)
	f.Add(``, `{"pods":[""]}`)
	f.Fuzz(func(t *testing.T, release, released string) {
		sb := makeBatch("b").Pool("p").Obj()
		sb.Annotations = map[string]string{v1alpha1.AllocReleaseAnnotation: release, v1alpha1.AllocReleasedAnnotation: released}
		given, err := givenBackPods(sb)
		obs := &observed{sb: sb, sandboxes: []sandbox{readySandbox("a"), {}, readySandbox("b")}}
		observeGivenBack(obs)
		if (obs.problem != nil) != (err != nil) {
			t.Fatalf("problem %v for error %v", obs.problem, err)
		}
		for i, s := range obs.sandboxes {
			if s.givenBack != (s.podName != "" && given[s.podName]) || s.givenBack != s.lost {
				t.Fatalf("%q and %q, read as %v, make of sandbox %d %+v", release, released, given, i, s)
			}
		}
		if keys := leftoverAnnotations(obs); len(keys) > 0 && (err != nil || given["a"] || given["b"]) {
			t.Fatalf("would remove %v though %v, %v", keys, given, err)
		}
	})
}

// Whatever a user writes into the addresses of a batch without pool, what can be read is read as it would be written.
func FuzzOwnEndpoints(f *testing.F) {
	for _, seed := range []string{`["10.0.0.1",""]`, `[]`, `null`, `{}`, `[1]`, ``, `["\u0000"]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		sb := makeBatch("b").Obj()
		sb.Annotations = map[string]string{v1alpha1.EndpointsAnnotation: value}
		ips := ownEndpoints(sb)
		sb.Annotations[v1alpha1.EndpointsAnnotation] = formatEndpoints(ips)
		if again := ownEndpoints(sb); !slices.Equal(ips, again) {
			t.Fatalf("%q is read as %q, and that as %q", value, ips, again)
		}
	})
}

// Whatever stands in the count of a pod, it is a count that quarantines no sooner than it should, and a holder counts once.
func FuzzFailuresOf(f *testing.F) {
	for _, seed := range []string{`{"count":1,"last":"u/0"}`, `{"count":-1}`, `{"count":9223372036854775807}`, `{"count":1e3}`, `null`, `[]`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		before := failuresOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.TaskFailuresAnnotation: value}}})
		if before.Count < 0 || before.Count > v1alpha1.MaxTaskFailures {
			t.Fatalf("%q counts %d", value, before.Count)
		}
		written := failuresOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.TaskFailuresAnnotation: mustJSON(before)}}})
		if written != before {
			t.Fatalf("%+v is read back as %+v", before, written)
		}
		once := before.after("holder", verdictFailed)
		if twice := once.after("holder", verdictFailed); twice != once || once.Count > before.Count+1 {
			t.Fatalf("%+v, then %+v, then %+v", before, once, twice)
		}
	})
}

// Whatever stands in a template, its pods are the batch's, or there is a problem that says what to change.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		richTemplate, `{}`, `null`, `[]`, `{"spec":{"containers":[]}}`, `{"spec":{"containers":[{}]}}`,
		`{"metadata":{"name":"x","namespace":"y","uid":"z","ownerReferences":[{"kind":"BatchSandbox","name":"other"}],"labels":{"` +
			v1alpha1.BatchNameLabel + `":"other","` + v1alpha1.PoolNameLabel + `":"p"}},"spec":{"containers":[{"name":"c"}]}}`,
		`{"spec":{"containers":[{"name":"task-executor"},{"name":"task-executor","volumeMounts":[{"name":"x","mountPath":"/var/lib/sandbox/tasks"}]}]}}`,
		`{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1e99"}}}]}}`, `{"spec":{"containers":[{"name":"c","ports":[{"containerPort":1e99}]}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, template []byte) {
		sb := makeBatch("b").Template(string(template)).Obj()
		if problem := validate(sb); problem != nil {
			return
		}
		pod, problem := desiredPod(sb, 3, "b-3")
		if problem != nil {
			if problem.message == "" || problem.reason != v1alpha1.ReasonInvalidTemplate {
				t.Fatalf("problem %+v", *problem)
			}
			return
		}
		if pod.Name != "b-3" || pod.Namespace != namespace || pod.UID != "" || !metav1.IsControlledBy(pod, sb) || len(pod.OwnerReferences) != 1 ||
			pod.Labels[v1alpha1.BatchNameLabel] != "b" || pod.Labels[v1alpha1.PodIndexLabel] != "3" || pod.Labels[v1alpha1.PoolNameLabel] != "" {
			t.Fatalf("template %s makes it somebody else's: %+v", template, pod.ObjectMeta)
		}
		podtemplate.AddRoot(&pod.Spec, "root")
		if executor := podutil.Container(&pod.Spec, v1alpha1.TaskExecutorContainer); executor != nil && podtemplate.RootOf(&pod.Spec) != "root" {
			t.Fatalf("template %s makes its executor believe %q", template, podtemplate.RootOf(&pod.Spec))
		}
	})
}

// Whatever index a pod claims, every pod stands for one index or none, and the list stays as short as the pods are few.
func FuzzSortOwnPods(f *testing.F) {
	f.Add("0", "1", "1", 2)
	f.Add("99999999999", "-1", "", 1)
	f.Add("2147483647", "3", "0x1", 0)
	f.Fuzz(func(t *testing.T, a, b, c string, replicas int) {
		if replicas < 0 || replicas > 1000 {
			return
		}
		pods := make([]corev1.Pod, 3)
		for i, index := range []string{a, b, c} {
			pods[i].Name, pods[i].Labels = string(rune('a'+i)), map[string]string{v1alpha1.PodIndexLabel: index}
		}
		sandboxes, surplus := sortOwnPods(pods, replicas, nil)
		found := len(surplus)
		for _, s := range sandboxes {
			if s.podName != "" {
				found++
			}
		}
		if found != len(pods) || len(sandboxes) > replicas+len(pods) || len(sandboxes) < replicas {
			t.Fatalf("%d of %d pods, %d sandboxes for %d replicas", found, len(pods), len(sandboxes), replicas)
		}
	})
}

// Whatever a batch says, looking at it does no harm: it is served or told, and once it is at rest nothing is written any more.
func FuzzReconcile(f *testing.F) {
	for _, seed := range []string{
		`{"spec":{"poolRef":"p","replicas":2}}`,
		`{"spec":{"poolRef":"p","replicas":2147483647}}`,
		`{"spec":{"poolRef":"p","replicas":3,"minAvailable":2,"priority":-5,"allocationTimeoutSeconds":-1}}`,
		`{"spec":{"poolRef":"p","allocationTimeoutSeconds":9223372036854775807,"ttlSecondsAfterFinished":-1}}`,
		`{"spec":{"replicas":2,"template":` + richTemplate + `,"shardPatches":[{"metadata":{"labels":null}},{"spec":{"containers":[{"name":"task-executor","$patch":"delete"}]}}]}}`,
		`{"spec":{"poolRef":"p","taskTemplate":{"spec":{"process":{"command":["true"]},"timeoutSeconds":-1,"backoffLimit":9}},"shardTaskPatches":[{}]}}`,
		`{"metadata":{"annotations":{"` + v1alpha1.AllocStatusAnnotation + `":"{\"pods\":[\"p-0\",\"x\",\"\"]}"}},"spec":{"poolRef":"p"}}`,
		`{"metadata":{"annotations":{"` + v1alpha1.AllocReleaseAnnotation + `":"{\"pods\":[\"p-0\"]}","` + v1alpha1.AllocStatusAnnotation + `":"{\"pods\":[\"p-0\"]}"}},"spec":{"poolRef":"p"}}`,
		`{"spec":{"poolRef":"p","taskTemplate":{"spec":{"process":{"command":["true"]}}},"taskResourcePolicyWhenCompleted":"Release"},` +
			`"status":{"completedIndexes":"0-99","failedIndexes":"0","taskTries":[{"index":-1,"failed":-9}],"queue":{"position":-1},"failedReasons":[{"reason":"","indexes":"9-1"}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		sb := &v1alpha1.BatchSandbox{}
		if err := json.Unmarshal(object, sb); err != nil || sb.DeletionTimestamp != nil || sb.Spec.ExpireTime != nil || (sb.Spec.Replicas != nil && *sb.Spec.Replicas > 5 && *sb.Spec.Replicas < 5000) {
			return // what no API server has, what ends by itself, and what only takes long
		}
		sb.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "b", Annotations: sb.Annotations}
		inWorld(t, func(w *world) { w.mustComeToRest(sb) })
	})
}

// mustComeToRest makes a batch beside a pool of three pods, and looks at it until nothing is to be done about it.
func (w *world) mustComeToRest(sb *v1alpha1.BatchSandbox) {
	w.t.Helper()
	w.addPool(v1alpha1.RecycleNoop, 3)
	status := sb.Status
	if err := w.client.Create(w.t.Context(), sb); err != nil {
		return
	}
	sb.Status = status
	if err := w.client.Status().Update(w.t.Context(), sb); err != nil {
		return
	}
	const looks = 40
	for range looks {
		res, err := w.tryReconcile()
		if err != nil && !apierrors.IsInvalid(err) {
			w.t.Fatalf("look at %+v: %v", sb, err)
		}
		if len(w.takeWrites()) == 0 && res.RequeueAfter == 0 {
			return
		}
		time.Sleep(max(res.RequeueAfter, time.Second))
	}
	w.t.Fatalf("after %d looks there is still something to do about %s", looks, mustJSON(sb))
}
