// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/test/wrappers"
)

// rootWorld is a pool of 6 Ready pods that were made under the first root.
func rootWorld(t *testing.T, root string) *world {
	t.Helper()
	w := newWorld(t, updatePool(6, 6, 10, "2"))
	w.root = root
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.after(time.Second)
	w.settled()
	w.creates, w.deletes = 0, 0
	w.told()
	return w
}

func (w *world) roots() map[string]int {
	roots := map[string]int{}
	for _, pod := range w.pods() {
		roots[podtemplate.RootOf(&pod.Spec)]++
	}
	return roots
}

func TestALostRootReplacesIdlePodsWithinTheBudget(t *testing.T) {
	w := rootWorld(t, "first")
	w.root = "second"
	if least := w.updated(); least != 4 {
		t.Errorf("%d idle at the least, want 4", least)
	}
	if w.creates != 6 || w.deletes != 6 {
		t.Errorf("%d creates and %d deletes, want 6 of each", w.creates, w.deletes)
	}
	if roots := w.roots(); roots["second"] != 6 || len(roots) != 1 {
		t.Errorf("roots %v, want 6 of the second", roots)
	}
	if told := strings.Join(w.told(), "\n"); !strings.Contains(told, "Normal Updating Deleted 2 pods") || !strings.Contains(told, "another root") {
		t.Errorf("events %q, want one about the root", told)
	}
	if status := w.pool().Status; status.Updated != 6 || !strings.Contains(status.LastScaleReason, "another root") {
		t.Errorf("status: %d updated, reason %q, want 6 and one about the root", status.Updated, status.LastScaleReason)
	}
}

func TestPodsOfNoRootAreAdopted(t *testing.T) {
	w := rootWorld(t, "")
	w.root = "first"
	w.updated()
	if w.creates+w.deletes != 0 {
		t.Errorf("%d creates and %d deletes, want none", w.creates, w.deletes)
	}
	if n := w.ledger.Counts(w.key); n.Idle != 6 || n.Updated != 6 {
		t.Errorf("counts %+v, want 6 idle and updated", n)
	}
}

// What the template itself says of a root in a container that is no executor of ours makes no churn.
func TestAPoolWithoutAnExecutorHasNoRootToLose(t *testing.T) {
	for name, env := range map[string]string{
		"no variables":    `[]`,
		"one of its own":  `[{"name":"SANDBOX_CONTROLLER_ROOT","value":"mine"}]`,
		"both of its own": `[{"name":"SANDBOX_CONTROLLER_ROOT","value":"mine"},{"name":"SANDBOX_POD_UID","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			pool := updatePool(2, 2, 10, "2")
			pool.Spec.Template = wrappers.MakePool(namespace, "p").Template(
				`{"spec":{"containers":[{"name":"a","image":"i","env":` + env + `},{"name":"b","image":"i"}]}}`).Spec.Template
			w := newWorld(t, pool)
			w.root = "first"
			w.updated()
			w.creates, w.deletes = 0, 0
			w.root = "second"
			w.updated()
			if n := w.ledger.Counts(w.key); w.creates+w.deletes != 0 || n.Idle != 2 {
				t.Errorf("%d creates and %d deletes, want none; counts %+v", w.creates, w.deletes, n)
			}
		})
	}
}

// A webhook that adds a container makes of the only container one of two.
func TestAPodThatGotAnotherContainerKeepsItsRoot(t *testing.T) {
	w := newWorld(t, updatePool(2, 2, 10, "2"))
	w.root = "first"
	w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "mesh", Image: "i"})
		return c.Create(ctx, pod)
	}
	w.updated()
	w.creates, w.deletes = 0, 0
	if w.updated(); w.creates+w.deletes != 0 {
		t.Errorf("%d creates and %d deletes, want none", w.creates, w.deletes)
	}
	w.root = "second"
	if w.updated(); w.creates != 2 || w.deletes != 2 {
		t.Errorf("%d creates and %d deletes after the root was lost, want 2 of each", w.creates, w.deletes)
	}
}

// The held pod is left alone, and what its batch marked before the root was lost doesn't wait until its time is over.
func TestAMarkedPodOfAnotherRootIsDeletedAtOnce(t *testing.T) {
	w := rootWorld(t, "first")
	executor := &fakeExecutor{}
	w.answeredBy(executor)
	w.hold("b", 1)
	batch := types.NamespacedName{Namespace: namespace, Name: "b"}
	held := w.ledger.Holdings(batch, "b")[0].PodName
	w.root = "second"
	w.updated()
	if !strings.Contains(w.podNames(), held) {
		t.Fatalf("held pod %s is gone", held)
	}
	for _, pod := range w.pods() {
		if pod.Name == held {
			w.mark(pod)
		}
	}
	w.ledger.ReleaseAll(batch)
	w.reconcile()
	w.news()
	if strings.Contains(w.podNames(), held) || executor.asked > 0 {
		t.Errorf("pods %s; its executor was asked %d times", w.podNames(), executor.asked)
	}
	if told := strings.Join(w.told(), "\n"); !strings.Contains(told, "PodNotRecycled Deleted pod "+held+": its executor obeys another root") {
		t.Errorf("events %q", told)
	}
}

// mark marks a pod as being recycled, as its batch does.
func (w *world) mark(pod *corev1.Pod) {
	w.t.Helper()
	pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: `{"batch":"b","containers":{"sandbox":"c://1"}}`}
	if err := w.client.Update(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
	w.news()
}
