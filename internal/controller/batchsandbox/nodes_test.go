// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/test/wrappers"
)

func TestSortOwnPodsByNode(t *testing.T) {
	pod := func(name, node string, age time.Duration, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{v1alpha1.PodIndexLabel: "0"}, CreationTimestamp: metav1.NewTime(noon.Add(-age)),
			},
			Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
		}
	}
	const running = corev1.PodRunning
	cases := map[string]struct {
		pods        []corev1.Pod
		want        string // "!" before a lost one
		wantSurplus []string
	}{
		"a pod on a lost node is lost":                            {[]corev1.Pod{pod("a", "lost", 0, running)}, "!a", nil},
		"its replacement stands for the index, and it is surplus": {[]corev1.Pod{pod("a", "lost", time.Hour, running), pod("b", "fit", 0, running)}, "b", []string{"a"}},
		"a failed pod elsewhere is no better":                     {[]corev1.Pod{pod("a", "lost", 0, running), pod("b", "fit", 0, corev1.PodFailed)}, "!b", []string{"a"}},
		"a pod that ran to its end there is kept":                 {[]corev1.Pod{pod("a", "lost", 0, corev1.PodSucceeded)}, "a", nil},
		"a pod on no node is not lost":                            {[]corev1.Pod{pod("a", "", 0, corev1.PodPending)}, "a", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sandboxes, surplus := sortOwnPods(c.pods, 1, map[string]bool{"lost": true})
			got := sandboxes[0].podName
			if sandboxes[0].lost {
				got = "!" + got
			}
			if got != c.want {
				t.Errorf("index 0 is %s, want %s", got, c.want)
			}
			var names []string
			for _, p := range surplus {
				names = append(names, p.Name)
			}
			if diff := cmp.Diff(c.wantSurplus, names); diff != "" {
				t.Errorf("surplus (-want +got):\n%s", diff)
			}
		})
	}
}

func TestASandboxOnALostNodeIsReplacedAndItsTryCountedBefore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.takeWrites()
		w.ledger.ObserveNode("n", scheduler.NodeLost)
		w.settled()
		if writes := w.takeWrites(); len(writes) == 0 || writes[0] != "patch status b" || slices.Contains(writes, "delete p-0") {
			t.Errorf("writes %v, want the try first, and no delete of a pod that may come back", writes)
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `[""]`)
		w.wantCondition(v1alpha1.ConditionAllocated, "False/WaitingForPool")

		w.create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p-9", UID: "uid-p-9", Labels: map[string]string{v1alpha1.PoolNameLabel: "p"}},
			Spec:       corev1.PodSpec{NodeName: "other", Containers: []corev1.Container{{Name: "sandbox"}}}, Status: readyStatus("10.0.0.19"),
		})
		w.news()
		w.onDelete = func() error { return errors.New("not now") }
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the failed delete is no error")
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		if c := w.counts(); c.Held != 1 || c.Idle != 1 {
			t.Errorf("counts %+v: the pod for the replacement must be idle again", c)
		}
		w.onDelete = nil
		w.takeWrites()
		w.settled()
		if writes := w.takeWrites(); len(writes) < 2 || writes[0] != "delete p-0" || writes[1] != "patch b" {
			t.Errorf("writes %v, want the delete before the batch names the pod no more", writes)
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-9"]}`)
		if told := w.toldEvents(); !slices.Contains(told, "SandboxLost") {
			t.Errorf("told %v, want SandboxLost", told)
		}
		if diff := cmp.Diff([]v1alpha1.TaskTries{{Index: 0, Lost: 1, LostWith: "p-0"}}, w.batch().Status.TaskTries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		if sets := w.executor("10.0.0.19").told(); len(sets) != 1 || sets[0][0].Name != "uid-b-0-2" {
			t.Errorf("told %v, want the second try", sets)
		}
		w.ledger.ObserveNode("n", scheduler.NodeFit)
		if c := w.counts(); c.Idle != 0 {
			t.Errorf("counts %+v: the lost pod must not be handed on when its node is back", c)
		}
	})
}

func TestALeaderThatIsNoneDeletesNoPodOnALostNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.settled()
		w.ledger.ObserveNode("n", scheduler.NodeLost)
		w.create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p-9", UID: "uid-p-9", Labels: map[string]string{v1alpha1.PoolNameLabel: "p"}},
			Spec:       corev1.PodSpec{NodeName: "other", Containers: []corev1.Container{{Name: "sandbox"}}}, Status: readyStatus("10.0.0.19"),
		})
		w.news()
		w.deposed = true
		if _, err := w.tryReconcile(); !errors.Is(err, leading.ErrLost) {
			t.Errorf("error %v, want that it does not lead", err)
		}
		if got := w.podNames(); got != "p-0 p-9" {
			t.Errorf("pods %q, want both", got)
		}
	})
}

func TestASandboxThatComesBackWithItsNodeIsTheSameAndItsTaskRunsTheNextTry(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		for try := 2; try <= 3; try++ {
			w.ledger.ObserveNode("n", scheduler.NodeLost)
			w.settled()
			w.ledger.ObserveNode("n", scheduler.NodeFit)
			w.settled()
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
			w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.10"]`)
			sets := w.executor("10.0.0.10").told()
			if got, want := sets[len(sets)-1][0].Name, fmt.Sprintf("uid-b-0-%d", try); got != want {
				t.Errorf("told %s, want %s: no try runs twice", got, want)
			}
		}
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
	})
}

func TestABatchOnALostNodeGoesWithoutWaitingForItsExecutor(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.executor("10.0.0.10").down = errors.New("no route")
		w.ledger.ObserveNode("n", scheduler.NodeLost)
		w.remove()
		w.reconcile()
		if !w.gone() || w.podNames() != "" {
			t.Errorf("gone %v, pods %q; want neither", w.gone(), w.podNames())
		}
	})
}

// ownBatch is a batch without pool whose pods stay as objects after their deletion, as on a node that doesn't answer.
func ownBatch() *v1alpha1.BatchSandbox {
	return wrappers.MakeBatch(namespace, "b").Replicas(1).
		Template(`{"metadata":{"finalizers":["example.com/keep"]},"spec":{"nodeName":"n","containers":[{"name":"sandbox","image":"i"}]}}`).Obj()
}

func TestABatchWithoutPoolDeletesItsPodOnALostNodeBeforeItReplacesIt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(ownBatch())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.10") }, "b-0")
		w.settled()
		w.takeWrites()

		w.ledger.ObserveNode("n", scheduler.NodeLost)
		w.onDelete = func() error { return errors.New("not now") }
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the failed delete is no error")
		}
		if got := w.podNames(); got != "b-0" {
			t.Fatalf("pods %q: one that may come back was replaced", got)
		}
		w.onDelete = nil
		w.takeWrites()
		w.reconcile()
		if writes := w.takeWrites(); !slices.Equal(slices.DeleteFunc(writes, func(s string) bool { return s[:5] == "patch" }),
			[]string{"delete b-0", "create b-0-" + shortHash("uid-1")}) {
			t.Errorf("writes %v, want the delete and then the create", writes)
		}
		second := &corev1.Pod{}
		if err := w.client.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: "b-0-" + shortHash("uid-1")}, second); err != nil {
			t.Fatal(err)
		}
		w.ledger.ObserveNode("n", scheduler.NodeFit)
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.11") }, second.Name)
		w.settled()
		w.wantAnnotation(v1alpha1.EndpointsAnnotation, `["10.0.0.11"]`)
	})
}

func TestWaitingMessageSaysWhatKeepsThePodsOfThePool(t *testing.T) {
	pool := func(status metav1.ConditionStatus) *v1alpha1.Pool {
		p := wrappers.MakePool(namespace, "p").Obj()
		meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionPodsFailing, Status: status, Reason: "Unschedulable",
		})
		return p
	}
	cases := map[string]struct {
		pool   *v1alpha1.Pool
		counts scheduler.Counts
		want   string
	}{
		"nothing known": {nil, scheduler.Counts{}, "waiting for pods of Pool p"},
		"no trouble":    {pool(metav1.ConditionFalse), scheduler.Counts{Starting: 1, Unusable: 1}, "waiting for pods of Pool p"},
		"pods fail":     {pool(metav1.ConditionTrue), scheduler.Counts{}, "waiting for pods of Pool p; its pods don't start: Unschedulable"},
		"cordoned nodes": {
			nil, scheduler.Counts{Cordoned: 2}, "waiting for pods of Pool p; some that nobody holds are on cordoned nodes",
		},
		"nodes that are not Ready": {
			nil, scheduler.Counts{Away: 2}, "waiting for pods of Pool p; some that nobody holds are on nodes that are cordoned or not Ready",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := waitingMessage(&observed{sb: pooledBatch(1).Obj(), pool: c.pool, counts: c.counts}); got != c.want {
				t.Errorf("message %q, want %q", got, c.want)
			}
		})
	}
}

func TestAPoolWhosePodsFailWakesThoseWhoWaitForItAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.create(pooledBatch(1).Obj())
		w.settled()
		pool := wrappers.MakePool(namespace, "p").Obj()
		requests := w.r.waitingFor(context.Background(), pool)
		if len(requests) != 1 || requests[0].NamespacedName != w.key {
			t.Errorf("woken %v, want %v", requests, w.key)
		}
		w.addPoolPod(0)
		w.settled()
		if requests := w.r.waitingFor(context.Background(), pool); len(requests) != 0 {
			t.Errorf("woken %v, want nobody", requests)
		}
	})
	failing := wrappers.MakePool(namespace, "p").Obj()
	meta.SetStatusCondition(&failing.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionPodsFailing, Status: metav1.ConditionTrue, Reason: "Unschedulable", Message: "one",
	})
	again := failing.DeepCopy()
	again.Status.Conditions[0].Message, again.Status.Available = "two", 7
	for what, c := range map[string]struct {
		before, after client.Object
		want          bool
	}{
		"it begins to fail":        {wrappers.MakePool(namespace, "p").Obj(), failing, true},
		"other words, same reason": {failing, again, false},
	} {
		if got := failingChanged().Update(event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after}); got != c.want {
			t.Errorf("%s: looked at %v, want %v", what, got, c.want)
		}
	}
}
