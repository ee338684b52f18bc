// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/recycling"
)

// addRestartable makes a pool that recycles so, with pod p-0, which can be restarted unless change says otherwise.
func (w *world) addRestartable(how v1alpha1.RecycleType, change func(*corev1.Pod)) {
	w.t.Helper()
	w.addPool(how, 0)
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "sandbox"}, {Name: v1alpha1.TaskExecutorContainer}}},
	}
	pod.Namespace, pod.Name, pod.UID = namespace, "p-0", "uid-p-0"
	pod.Labels = map[string]string{v1alpha1.PoolNameLabel: "p"}
	recycling.AddRestartRules(&pod.Spec)
	pod.Status = readyStatus("10.0.0.10")
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "sandbox", ContainerID: "c://s1"}, {Name: v1alpha1.TaskExecutorContainer, ContainerID: "c://e1"},
	}
	if change != nil {
		change(pod)
	}
	w.create(pod)
	w.news()
}

func (w *world) recyclingMark() string {
	w.t.Helper()
	pods := w.pods()
	if len(pods) == 0 {
		return "no pod"
	}
	return pods[0].Annotations[v1alpha1.RecyclingAnnotation]
}

func TestAReleasedPodIsMarkedAndNeverHandedOutWhileItIs(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable(v1alpha1.RecycleRestart, nil)
		w.create(pooledBatch(1).Obj())
		w.reconcile()
		time.Sleep(labelDelay)
		w.settled() // and the labels are on
		uid := w.batch().UID
		w.remove()
		w.reconcile()
		if !w.gone() {
			t.Fatal("the finalizer is still there")
		}
		want := `{"batch":"` + string(uid) + `","containers":{"sandbox":"c://s1","task-executor":"c://e1"},"since":"` +
			time.Now().UTC().Format(time.RFC3339) + `"}`
		if got := w.recyclingMark(); got != want {
			t.Errorf("mark %s, want %s", got, want)
		}
		if pod := w.pods()[0]; pod.Labels[v1alpha1.BatchNameLabel] != "" || len(pod.OwnerReferences) != 0 {
			t.Errorf("it keeps labels %v, owners %v", pod.Labels, pod.OwnerReferences)
		}
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, "")

		// The controller is killed and starts again.
		w.startController()
		if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, "")
		if c := w.counts(); c.Starting != 1 || c.Idle != 0 || c.Held != 0 || c.Waiting != 1 {
			t.Errorf("counts %+v", c)
		}
		if got := w.ledger.Recycling(types.NamespacedName{Namespace: namespace, Name: "p"}); len(got) != 1 {
			t.Errorf("the pool is told of %v, want the marked pod", got)
		}
	})
}

// Who asked for the restart is warned, once per release. Under the default deletion is as good.
func TestAPodThatARestartCantCleanIsDeleted(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"made without restart rules": func(p *corev1.Pod) { recycling.RemoveRestartRules(&p.Spec) },
		"without an executor":        func(p *corev1.Pod) { p.Spec.Containers[1].Name = "other" },
		"with a writable volume": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		},
	} {
		for _, how := range []v1alpha1.RecycleType{"", v1alpha1.RecycleRestart} {
			t.Run(name+", type "+string(how), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.addRestartable(how, change)
					w.create(pooledBatch(1).Obj())
					w.settled()
					w.toldEvents()
					w.remove()
					w.reconcile()
					if got := w.podNames(); got != "" || !w.gone() {
						t.Errorf("pods %q, gone %t", got, w.gone())
					}
					told := w.toldEvents()
					if got, want := slices.Contains(told, "PodNotRecycled"), how == v1alpha1.RecycleRestart; got != want {
						t.Errorf("events %q; told that the pod was not restarted: %t, want %t", told, got, want)
					}
					if taken := w.ledger.TakeReleased(poolKey(pooledBatch(1).Obj())); taken != (scheduler.Released{Replaced: 1}) {
						t.Errorf("counted %+v, want one pod replaced", taken)
					}
				})
			})
		}
	}
}

func TestUnderTheDefaultAPodThatCanBeProvenCleanIsMarked(t *testing.T) {
	for name, strategy := range map[string]*v1alpha1.RecycleStrategy{"no strategy": nil, "a strategy without a type": {}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addRestartable("", nil)
				pool := &v1alpha1.Pool{}
				if err := w.client.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: "p"}, pool); err != nil {
					t.Fatal(err)
				}
				pool.Spec.RecycleStrategy = strategy
				if err := w.client.Update(context.Background(), pool); err != nil {
					t.Fatal(err)
				}
				w.holdOnce(nil)
				if mark := w.recyclingMark(); !strings.Contains(mark, `"sandbox":"c://s1"`) {
					t.Errorf("mark %q", mark)
				}
				if taken := w.ledger.TakeReleased(poolKey(pooledBatch(1).Obj())); taken != (scheduler.Released{}) {
					t.Errorf("counted %+v before anything is proven", taken)
				}
			})
		})
	}
}

func TestReleasedPodsAreCountedByWhatBecameOfThem(t *testing.T) {
	for how, want := range map[v1alpha1.RecycleType]scheduler.Released{
		v1alpha1.RecycleNoop: {Recycled: 2}, v1alpha1.RecycleDelete: {Replaced: 2}, "Unheard": {Replaced: 2},
	} {
		inWorld(t, func(w *world) {
			w.addPool(how, 3)
			w.create(pooledBatch(3).Obj())
			w.settled()
			w.removePod("p-2") // it was never released
			w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas = new(int32(1)) })
			w.settled()
			w.remove()
			w.settled()
			if got := w.ledger.TakeReleased(poolKey(pooledBatch(1).Obj())); got != want {
				t.Errorf("type %s: counted %+v, want %+v", how, got, want)
			}
		})
	}
}

// The time of a recycling counts from the mark, but the pool can't begin before the batch has let the pod go.
func TestABatchThatGoesMarksItsPodsWhenAllHaveStopped(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable("", nil)
		w.addPoolPod(1)
		w.create(pooledBatch(2).Task("sleep", "1000").Obj())
		w.reconcile()
		w.executor("10.0.0.10").becomes(running)
		w.executor("10.0.0.11").becomes(running)
		w.settled()
		w.executor("10.0.0.11").change(func() { w.executor("10.0.0.11").keeps = true })
		w.remove()
		for range 3 {
			w.reconcile()
			time.Sleep(time.Second)
		}
		if w.gone() || w.recyclingMark() != "" {
			t.Fatalf("gone %t, mark %s while a task still stops", w.gone(), w.recyclingMark())
		}
		w.executor("10.0.0.11").change(func() { w.executor("10.0.0.11").tasks = nil })
		w.reconcile()
		if mark := w.recyclingMark(); !w.gone() || !strings.Contains(mark, time.Now().UTC().Format(time.RFC3339)) {
			t.Errorf("gone %t, mark %s at %v", w.gone(), mark, time.Now().UTC())
		}
	})
}

func TestAPodWhoseTasksCannotBeStoppedIsDeletedUnderRestartToo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable(v1alpha1.RecycleRestart, nil)
		executor := w.executor("10.0.0.10")
		w.create(pooledBatch(1).Task("sleep", "1000").Obj())
		w.reconcile()
		executor.becomes(running)
		w.settled()
		executor.change(func() { executor.down = errors.New("no route to host") })
		w.remove()
		w.reconcile()
		time.Sleep(2 * unreachableAfter)
		w.reconcile()
		if got := w.podNames(); got != "" || !w.gone() {
			t.Errorf("pods %q, gone %t", got, w.gone())
		}
	})
}

// Whatever becomes of the write of the mark, the batch keeps the pod until it or the deletion has landed.
func TestABatchKeepsItsPodUntilTheMarkHasLanded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable(v1alpha1.RecycleRestart, nil)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if _, ok := obj.(*corev1.Pod); ok {
				return apierrors.NewConflict(corev1.Resource("pods"), obj.GetName(), errors.New("changed"))
			}
			return c.Patch(ctx, obj, p)
		}
		w.remove()
		if _, err := w.tryReconcile(); err != nil && !apierrors.IsConflict(err) {
			t.Errorf("reconcile: %v", err)
		}
		if w.gone() || w.recyclingMark() != "" || w.counts().Held != 1 {
			t.Fatalf("gone %t, mark %q, counts %+v", w.gone(), w.recyclingMark(), w.counts())
		}

		// The mark lands, but not the removal of the finalizer, and the controller is killed.
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if _, ok := obj.(*corev1.Pod); !ok {
				return errors.New("killed")
			}
			return c.Patch(ctx, obj, p)
		}
		_, _ = w.tryReconcile() // it fails, as said
		mark := w.recyclingMark()
		if w.gone() || mark == "" {
			t.Fatalf("gone %t, mark %q", w.gone(), mark)
		}
		w.onPatch = nil
		w.startController()
		if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.settled()
		if got := w.recyclingMark(); !w.gone() || got != mark {
			t.Errorf("gone %t, mark %s, want the one before: %s", w.gone(), got, mark)
		}
		if c := w.counts(); c != (scheduler.Counts{Starting: 1, Updated: c.Updated}) {
			t.Errorf("counts %+v", c)
		}
	})
}

// A container that was restarted meanwhile would pass for one that the recycling has made.
func TestTheMarkHasTheContainersThatThePodHasAtThatMoment(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable(v1alpha1.RecycleRestart, nil)
		w.create(pooledBatch(1).Obj())
		w.settled()
		restarted := false
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if _, ok := obj.(*corev1.Pod); ok && !restarted {
				restarted = true
				w.setPods(func(int) corev1.PodStatus {
					status := readyStatus("10.0.0.10")
					status.ContainerStatuses = []corev1.ContainerStatus{
						{Name: "sandbox", ContainerID: "c://s2"}, {Name: v1alpha1.TaskExecutorContainer, ContainerID: "c://e1"},
					}
					return status
				}, "p-0")
			}
			return c.Patch(ctx, obj, p)
		}
		w.remove()
		for range 2 {
			if _, err := w.tryReconcile(); err != nil && !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
		if got := w.recyclingMark(); !w.gone() || !strings.Contains(got, `"sandbox":"c://s2"`) {
			t.Errorf("gone %t, mark %s", w.gone(), got)
		}
	})
}

// As after a release whose last write was lost, and an edit that wants the index again.
func TestAHeldPodThatIsMarkedIsNoSandboxAnyMore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addRestartable(v1alpha1.RecycleRestart, nil)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.addPoolPod(1)
		pod := w.pods()[0]
		pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: recycling.MarkOf(&pod, w.batch().UID, time.Now()).Encode()}
		if err := w.client.Update(context.Background(), &pod); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		if c := w.counts(); c.Held != 1 || c.Idle != 0 || c.Unusable != 1 {
			t.Errorf("counts %+v, want the marked pod left to the pool to delete", c)
		}
	})
}
