// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

// told are the notes of the events of one reason since the last call.
func (w *world) told(reason string) []string {
	var notes []string
	for {
		select {
		case e := <-w.recorder.Events:
			if fields := strings.SplitN(e, " ", 3); fields[1] == reason {
				notes = append(notes, fields[2])
			}
		default:
			return notes
		}
	}
}

func (w *world) wantTold(reason string, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.told(reason)); diff != "" {
		w.t.Errorf("events %s (-want +got):\n%s", reason, diff)
	}
}

func failedStatus(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed} }

func evictedStatus(int) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}
}

func TestLostSandboxesAreToldOnceTogether(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 5)
		w.create(pooledBatch(5).Obj())
		w.settled()
		w.setPods(failedStatus, "p-0")
		w.setPods(evictedStatus, "p-2")
		for _, pod := range []string{"p-1", "p-3"} {
			w.removePod(pod)
		}
		w.toldEvents()
		w.reconcile()
		w.wantTold("SandboxLost", "Lost 4 sandboxes: p-0 (failed), p-1 (deleted), p-2 (evicted) and 1 more")
		w.settled() // the two that were still there are deleted
		w.addPoolPod(9)
		w.settled()
		w.wantTold("SandboxLost")
	})
}

func TestALossIsToldAfterTheWriteThatReplacesTheSandbox(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.removePod("p-0")
		w.toldEvents()
		w.onPatch = func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return apierrors.NewServiceUnavailable("down")
		}
		if _, err := w.tryReconcile(); err == nil {
			t.Error("a patch that fails is no error")
		}
		w.wantTold("SandboxLost")
		w.onPatch = nil
		w.settled()
		w.wantTold("SandboxLost", "Lost 1 sandbox: p-0 (deleted)")
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
	})
}

func TestALostPodOfABatchWithoutPoolIsTold(t *testing.T) {
	cases := map[string]struct {
		lose func(w *world)
		want []string
	}{
		"gone before it was seen to go": {func(w *world) { w.removePod("b-1") }, []string{"Lost 1 sandbox: b-1 (deleted)"}},
		"failed":                        {func(w *world) { w.setPods(failedStatus, "b-1") }, []string{"Lost 1 sandbox: b-1 (failed)"}},
		"not when it is not wanted any more": {func(w *world) {
			w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		}, nil},
		"not when it is wanted again while it goes": {func(w *world) {
			w.hold("b-1")
			w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
			w.settled()
			w.edit(func(sb *v1alpha1.BatchSandbox) { two := int32(2); sb.Spec.Replicas = &two })
		}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(2).Obj())
				w.settled()
				w.setPods(func(i int) corev1.PodStatus { return readyStatus(fmt.Sprintf("10.0.0.%d", i)) }, "b-0", "b-1")
				w.settled()
				w.toldEvents()
				c.lose(w)
				w.settled()
				w.wantTold("SandboxLost", c.want...)
			})
		})
	}
}

// hold keeps a pod as an object when it is deleted, as a kubelet does while its containers end.
func (w *world) hold(name string) {
	w.t.Helper()
	pod := &corev1.Pod{}
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if err := w.client.Get(w.t.Context(), key, pod); err != nil {
		w.t.Fatal(err)
	}
	pod.Finalizers = []string{"test/kubelet"}
	if err := w.client.Update(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
}

func TestAPodOnItsWayOutIsGivenBackOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(2).Obj())
		w.settled()
		w.hold("b-1")
		w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		w.settled()
		w.settled()
		w.wantTold("Released", "Gave 1 sandboxes back")
	})
}

// A status whose answer is lost has landed or not; either way a lost try counts once.
func TestALostTryCountsOnceWhateverTheAnswers(t *testing.T) {
	lost := func() error { return apierrors.NewTimeoutError("the answer is lost", 1) }
	cases := map[string]func(w *world){
		"the answer is lost after the write has landed": func(w *world) { w.statusIs = lost },
		"the write is lost":                             func(w *world) { w.onStatus = lost },
		"the answer is lost, and the cache is behind": func(w *world) {
			w.cached = w.batch()
			w.statusIs = lost
		},
	}
	for name, fail := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				w.create(pooledBatch(1).Task("true").Obj())
				w.reconcile()
				w.executor("10.0.0.10").becomes(running)
				w.settled()
				w.setPods(failedStatus, "p-0")
				fail(w)
				for range 3 {
					if _, err := w.tryReconcile(); err == nil {
						break
					}
				}
				w.statusIs, w.onStatus, w.cached = nil, nil, nil
				time.Sleep(time.Second)
				w.settled()
				if diff := cmp.Diff([]v1alpha1.TaskTries{{Index: 0, Lost: 1, LostWith: "p-0"}}, w.batch().Status.TaskTries); diff != "" {
					t.Errorf("tries (-want +got):\n%s", diff)
				}
				w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
				if sets := w.executor("10.0.0.11").told(); len(sets) != 1 || sets[0][0].Name != "uid-b-0-2" {
					t.Errorf("told %v, want the second try", sets)
				}
			})
		})
	}
}

// restartedStatus is a Ready pod whose sandbox container restarted n times, and its executor many times.
func restartedStatus(n int32) func(int) corev1.PodStatus {
	return func(int) corev1.PodStatus {
		status := readyStatus("10.0.0.10")
		status.ContainerStatuses = []corev1.ContainerStatus{
			{Name: "sandbox", RestartCount: n}, {Name: v1alpha1.TaskExecutorContainer, RestartCount: 100},
		}
		return status
	}
}

func TestRestartsAreCountedWhileTheSandboxIsHeld(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.setPods(restartedStatus(7), "p-0") // of its recycling
		w.create(pooledBatch(1).Obj())
		w.settled()
		want := func(restarts int32, notes ...string) {
			t.Helper()
			if got := w.batch().Status.Restarts; got != restarts {
				t.Errorf("%d restarts, want %d", got, restarts)
			}
			w.wantTold("SandboxRestarted", notes...)
		}
		want(0)
		w.takeWrites()
		w.setPods(restartedStatus(8), "p-0")
		time.Sleep(statusPace)
		w.reconcile()
		if diff := cmp.Diff([]string{"patch status b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		want(1, "Containers restarted in 1 sandbox: p-0")
		w.setPods(restartedStatus(10), "p-0")
		w.statusIs = func() error { return apierrors.NewTimeoutError("the answer is lost", 1) }
		time.Sleep(statusPace)
		if _, err := w.tryReconcile(); err == nil {
			t.Error("a lost answer is no error")
		}
		w.statusIs = nil
		w.settled()
		want(3, "Containers restarted in 1 sandbox: p-0")

		w.startAgain()
		w.settled()
		want(3)
		w.setPods(restartedStatus(11), "p-0")
		time.Sleep(statusPace)
		w.settled()
		want(4, "Containers restarted in 1 sandbox: p-0")
	})
}

// The pod of an index is another one: what that one had before is not the batch's.
func TestRestartsOfAReplacementBeginAtNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.setPods(restartedStatus(5), "p-1")
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.setPods(restartedStatus(1), "p-0")
		w.settled()
		w.removePod("p-0")
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1"]}`)
		if got := w.batch().Status.Restarts; got != 1 {
			t.Errorf("%d restarts, want the 1 of the first pod", got)
		}
	})
}

func TestRestartsOfABatchWithoutPoolAreCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(1).Obj())
		w.settled()
		for n := range int32(3) {
			w.setPods(restartedStatus(n), "b-0")
			time.Sleep(statusPace)
			w.settled()
		}
		if got := w.batch().Status.Restarts; got != 2 {
			t.Errorf("%d restarts, want 2", got)
		}
	})
}

func TestASentenceNamesTheFirstAndCountsTheRest(t *testing.T) {
	for n, want := range map[int]string{
		1: "1 sandbox: p-0 (failed)",
		3: "3 sandboxes: p-0 (failed), p-1 (failed), p-2 (failed)",
		5: "5 sandboxes: p-0 (failed), p-1 (failed), p-2 (failed) and 2 more",
	} {
		var all []mishap
		for i := range n {
			all = append(all, mishap{pod: fmt.Sprintf("p-%d", i), why: "failed"})
		}
		if got := sentence(all); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A pod that becomes NotReady, or is lost, takes phase, counts and conditions down, and up again when it is back.
func TestPhaseAndCountsFollowTheTruthBothWays(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Obj())
		w.settled()
		want := func(phase v1alpha1.BatchSandboxPhase, replicas, allocated, ready int32, allocatedIs, readyIs string) {
			t.Helper()
			time.Sleep(time.Second)
			w.settled()
			s := w.batch().Status
			got := fmt.Sprint(s.Phase, s.Replicas, s.Allocated, s.Ready)
			if wanted := fmt.Sprint(phase, replicas, allocated, ready); got != wanted {
				t.Errorf("phase, replicas, allocated, ready: %s, want %s", got, wanted)
			}
			w.wantCondition(v1alpha1.ConditionAllocated, allocatedIs)
			w.wantCondition(v1alpha1.ConditionReady, readyIs)
		}
		want(v1alpha1.PhaseSucceed, 2, 2, 2, "True/Allocated", "True/PodsReady")
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.10"} }, "p-0")
		want(v1alpha1.PhasePending, 2, 2, 1, "True/Allocated", "False/PodsNotReady")
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.10") }, "p-0")
		want(v1alpha1.PhaseSucceed, 2, 2, 2, "True/Allocated", "True/PodsReady")
		w.removePod("p-1")
		want(v1alpha1.PhasePending, 1, 1, 1, "False/WaitingForPool", "False/PodsNotReady")
		w.addPoolPod(5)
		want(v1alpha1.PhaseSucceed, 2, 2, 2, "True/Allocated", "True/PodsReady")
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = `x` })
		want(v1alpha1.PhaseFailed, 2, 2, 2, "False/InvalidAnnotation", "False/InvalidAnnotation")
		w.edit(func(sb *v1alpha1.BatchSandbox) {
			sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-0","p-5"]}`
		})
		want(v1alpha1.PhaseSucceed, 2, 2, 2, "True/Allocated", "True/PodsReady")
	})
}

func TestScalingDownWhileATaskRunsStopsItFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).Task("sleep", "1000").Obj())
		w.reconcile()
		for _, ip := range []string{"10.0.0.10", "10.0.0.11"} {
			w.executor(ip).becomes(running)
		}
		w.settled()
		w.executor("10.0.0.11").keeps = true
		w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0","p-1"]}`)
		if c := w.counts(); c.Held != 2 {
			t.Errorf("counts %+v: a sandbox was given back while its task ran", c)
		}
		w.executor("10.0.0.11").change(func() { w.executor("10.0.0.11").tasks = nil })
		time.Sleep(time.Second)
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.10"]`)
		if c := w.counts(); c.Held != 1 || c.Idle != 1 {
			t.Errorf("counts %+v", c)
		}
		if s := w.batch().Status; s.TaskRunning != 1 || s.Replicas != 1 || s.Phase != v1alpha1.PhaseSucceed {
			t.Errorf("status %+v", s)
		}
		if sets := w.executor("10.0.0.10").told(); len(sets) != 1 || slices.ContainsFunc(sets, func(s []taskexecutor.Task) bool { return len(s) == 0 }) {
			t.Errorf("the other task was told %v", sets)
		}
	})
}

// Every delete takes a second of the bubble's time.
func TestSandboxesThatAreLostTogetherAreDeletedTogether(t *testing.T) {
	const n = 40
	failed := func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed} }
	cases := map[string]func(w *world){
		"made by the batch, and failed": func(w *world) {
			w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(n).Obj())
			w.settled()
			w.setPods(failed, strings.Fields(w.podNames())...)
		},
		"of a pool, and failed": func(w *world) {
			w.addPool(v1alpha1.RecycleNoop, n)
			w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 2 * n })
			w.create(pooledBatch(n).Obj())
			w.settled()
			w.setPods(failed, strings.Fields(w.podNames())...)
		},
		"of a pool, on a lost node": func(w *world) {
			w.addPool(v1alpha1.RecycleNoop, n)
			w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 2 * n })
			w.create(pooledBatch(n).Obj())
			w.settled()
			w.ledger.ObserveNode("n", scheduler.NodeLost)
			for i := range n {
				name := fmt.Sprintf("q-%d", i)
				w.create(&corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{v1alpha1.PoolNameLabel: "p"}},
					Spec:       corev1.PodSpec{NodeName: "other", Containers: []corev1.Container{{Name: "sandbox"}}}, Status: readyStatus(fmt.Sprintf("10.0.1.%d", i)),
				})
			}
			w.news()
		},
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				lose(w)
				w.takeWrites()
				w.onDelete = func() error { time.Sleep(time.Second); return nil }
				began := time.Now()
				w.reconcile()
				deletes := slices.DeleteFunc(w.takeWrites(), func(write string) bool { return !strings.HasPrefix(write, "delete ") })
				if took := time.Since(began); len(deletes) != n || took > 7*time.Second {
					t.Errorf("%d deletes in %s, want %d in the time of 6", len(deletes), took, n)
				}
			})
		})
	}
}
