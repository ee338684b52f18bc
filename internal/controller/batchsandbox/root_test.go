// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

// refuses has the executor at this address refuse every call.
func (w *world) refuses(ip string) {
	e := w.executor(ip)
	e.change(func() { e.down = &taskexecutor.StatusError{Status: http.StatusUnauthorized} })
}

// What can't be told to end its tasks, or to exit, is deleted the moment it is released, however the pool recycles.
func TestAReleasedPodOfAnotherRootIsDeletedAtOnce(t *testing.T) {
	for _, how := range []v1alpha1.RecycleType{"", v1alpha1.RecycleRestart, v1alpha1.RecycleNoop, v1alpha1.RecycleDelete} {
		t.Run("type "+string(how), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addRestartable(how, func(p *corev1.Pod) { podtemplate.AddRoot(&p.Spec, "lost") })
				w.root = "present"
				w.refuses("10.0.0.10")
				w.create(pooledBatch(1).Task("true").Obj())
				w.settled()
				time.Sleep(2 * unknownAfter)
				w.settled()
				if got := w.batch().Status.TaskUnknown; got != 1 {
					t.Fatalf("%d tasks are unknown, want 1", got)
				}
				want := "not every task has ended; the task-executor of index 0 refuses the controller, whose root is not the one it got with its pod"
				if c := meta.FindStatusCondition(w.batch().Status.Conditions, v1alpha1.ConditionTasksCompleted); c == nil || c.Message != want {
					t.Errorf("condition %v, want message %q", c, want)
				}
				w.remove()
				start := time.Now()
				w.reconcile()
				if got := w.podNames(); got != "" || !w.gone() {
					t.Errorf("pods %q, batch gone: %t, after %s", got, w.gone(), time.Since(start))
				}
			})
		})
	}
}

func TestAPodOfNoRootOrOfTheRightOneIsRecycledAsEver(t *testing.T) {
	for name, root := range map[string]string{"no root": "", "the right one": "present"} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addRestartable(v1alpha1.RecycleRestart, func(p *corev1.Pod) { podtemplate.AddRoot(&p.Spec, root) })
				w.root = "present"
				w.create(pooledBatch(1).Obj())
				w.settled()
				w.remove()
				w.reconcile()
				if got := w.recyclingMark(); got == "" || got == "no pod" || !w.gone() {
					t.Errorf("mark %q, gone: %t", got, w.gone())
				}
			})
		})
	}
}

func TestTheTasksOfABatchWithoutPoolEndWithItsPodsWhereTheRootWasLost(t *testing.T) {
	inWorld(t, func(w *world) {
		w.root = "lost"
		w.create(wrappers.MakeBatch(namespace, "b").Container(v1alpha1.TaskExecutorContainer).Task("true").Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.10") }, w.podNames())
		w.refuses("10.0.0.10")
		w.root = "present"
		w.settled()
		w.remove()
		w.reconcile()
		if got := w.podNames(); got != "" || !w.gone() {
			t.Errorf("pods %q, batch gone: %t", got, w.gone())
		}
	})
}
