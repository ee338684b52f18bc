// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"opensandbox.io/controller/api/v1alpha1"
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
