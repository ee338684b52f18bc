// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// bindTo binds every pod that is bound to nothing yet, as the scheduler does, and lets it become Ready.
func (w *world) bindTo(node string) {
	w.t.Helper()
	for _, pod := range w.pods() {
		if pod.Spec.NodeName != "" {
			continue
		}
		pod.Spec.NodeName = node
		if err := w.client.Update(context.Background(), pod); err != nil {
			w.t.Fatal(err)
		}
	}
	w.setStatus(w.becomeReady)
}

func noNodeForIt(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		pod.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "no node",
		}}}
	}
}

func (w *world) wantWrites(creates, deletes int) {
	w.t.Helper()
	if w.creates != creates || w.deletes != deletes {
		w.t.Errorf("%d creates and %d deletes, want %d and %d", w.creates, w.deletes, creates, deletes)
	}
}

func TestAPoolWithRoomKeepsStrandedPodsAndMakesOthers(t *testing.T) {
	for _, state := range []scheduler.NodeState{scheduler.NodeCordoned, scheduler.NodeNotReady, scheduler.NodeLost} {
		t.Run(state.String(), func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 4).Size(0, 10).Obj())
			w.settled()
			w.bindTo("n")
			w.settled()
			w.wantWrites(3, 0)
			w.ledger.ObserveNode("n", state)
			w.settled()
			w.wantWrites(6, 0)
			ready := meta.FindStatusCondition(w.pool().Status.Conditions, v1alpha1.ConditionReady)
			if ready.Reason != v1alpha1.ReasonBufferLow || !strings.Contains(ready.Message, "the nodes of 3 other pods are") {
				t.Errorf("Ready says %s: %s", ready.Reason, ready.Message)
			}
			w.bindTo("m")
			w.settled()
			if got := w.condition(v1alpha1.ConditionReady); got != "True/BufferReady" {
				t.Errorf("Ready is %s with the others there", got)
			}
			w.ledger.ObserveNode("n", scheduler.NodeFit)
			w.settled()
			w.wantWrites(6, 2) // 6 idle ones are more than bufferMax
			if st := w.pool().Status; st.Available != 4 || st.Total != 4 {
				t.Errorf("status %+v, want 4 pods, all available", st)
			}
		})
	}
}

func TestAFullPoolMovesItsPodsFromACordonedNodeAQuarterAtATime(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(8, 8).Size(0, 8).Obj())
	w.settled()
	w.bindTo("n")
	w.settled()
	w.ledger.ObserveNode("n", scheduler.NodeCordoned)
	for moved := 2; moved <= 8; moved += 2 {
		w.settled()
		w.wantWrites(8+moved, moved)
		w.bindTo("m")
	}
	w.settled()
	w.wantWrites(16, 8)
	if st := w.pool().Status; st.Available != 8 || st.Total != 8 {
		t.Errorf("status %+v, want 8 pods, all available", st)
	}
}

func TestAFullPoolKeepsItsPodsOnACordonedNodeWhileOthersCantStart(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(8, 8).Size(0, 8).Obj())
	w.settled()
	w.bindTo("n")
	w.settled()
	w.ledger.ObserveNode("n", scheduler.NodeCordoned)
	w.settled()
	w.setStatus(noNodeForIt)
	for range 60 { // 5 minutes
		w.after(5 * time.Second)
		w.settled()
	}
	w.wantWrites(10, 2)
	if got := w.condition(v1alpha1.ConditionPodsFailing); got != "True/Unschedulable" {
		t.Errorf("PodsFailing is %s", got)
	}
}

func TestAFullPoolKeepsItsPodsOnANodeThatIsNotReady(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 2).Obj())
	w.settled()
	w.bindTo("n")
	w.settled()
	w.ledger.ObserveNode("n", scheduler.NodeLost)
	w.settled()
	w.wantWrites(2, 0)
	if got := w.condition(v1alpha1.ConditionReady); got != "False/BufferLow" {
		t.Errorf("Ready is %s", got)
	}
	if got := w.condition(v1alpha1.ConditionScalingLimited); got != "True/PoolMaxReached" {
		t.Errorf("ScalingLimited is %s", got)
	}
	if res := w.reconcile(); res.RequeueAfter != 0 {
		t.Errorf("the next look is in %v, want none: the node's news wake the pool", res.RequeueAfter)
	}
}

func TestADeletedPoolDeletesItsStrandedPods(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 4).Obj())
	w.settled()
	w.bindTo("n")
	w.settled()
	w.ledger.ObserveNode("n", scheduler.NodeCordoned)
	if err := w.client.Delete(context.Background(), w.pool()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	w.news()
	if got := w.podNames(); got != "" {
		t.Errorf("pods %q are left", got)
	}
	w.reconcile()
	if err := w.client.Get(context.Background(), w.key, &v1alpha1.Pool{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pool is still there (%v)", err)
	}
}

func TestEvictedPodsAreReplaced(t *testing.T) {
	cases := map[string]func(w *world, pod *corev1.Pod){
		"by the kubelet": func(w *world, pod *corev1.Pod) {
			pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
			if err := w.client.Status().Update(context.Background(), pod); err != nil {
				w.t.Fatal(err)
			}
		},
		"by a drain": func(w *world, pod *corev1.Pod) {
			if err := w.client.Delete(context.Background(), pod); err != nil {
				w.t.Fatal(err)
			}
		},
	}
	for name, evict := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(0, 4).Obj())
			w.settled()
			w.bindTo("n")
			w.settled()
			w.after(time.Hour)
			evicted := w.pods()[0]
			evict(w, evicted)
			w.news()
			w.settled()
			left := w.pods()
			if len(left) != 1 || left[0].Name == evicted.Name {
				t.Fatalf("pods %q, want another one than %s", w.podNames(), evicted.Name)
			}
			if w.creates != 2 {
				t.Errorf("%d creates, want 2", w.creates)
			}
		})
	}
}

func TestNoPodMovesWhileAnythingIsKnownToFail(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Buffer(8, 8).Size(0, 8).Obj()
	counts := scheduler.Counts{Unusable: 8, Cordoned: 8}
	tests := map[string]struct {
		change func(*observed)
		want   int
	}{
		"nothing fails":                     {func(*observed) {}, 2},
		"a pod can't become ready":          {func(o *observed) { o.failing = &problem{reason: "Unschedulable"} }, 0},
		"pods end soon after their start":   {func(o *observed) { o.endings.failing = true }, 0},
		"the API server refused the last":   {func(o *observed) { o.creates.failing = true }, 0},
		"deletes wait after a failure":      {func(o *observed) { o.deletes.wait = time.Second }, 0},
		"the template can't be read at all": {func(o *observed) { o.template = nil }, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := observed{template: &corev1.PodTemplateSpec{}, counts: counts}
			tt.change(&obs)
			if got := planPool(pool, obs).DeleteStranded; got != tt.want {
				t.Errorf("%d stranded pods are deleted, want %d", got, tt.want)
			}
		})
	}
}

func TestStrandedNote(t *testing.T) {
	cases := map[string]struct {
		counts scheduler.Counts
		want   string
	}{
		"none":     {scheduler.Counts{Unusable: 3}, ""},
		"cordoned": {scheduler.Counts{Cordoned: 1}, "; the nodes of 1 other pod are cordoned: uncordon them, or add nodes"},
		"away":     {scheduler.Counts{Away: 2}, "; the nodes of 2 other pods are not Ready"},
		"both":     {scheduler.Counts{Cordoned: 1, Away: 2}, "; the nodes of 3 other pods are cordoned or not Ready"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := strandedNote(c.counts); got != c.want {
				t.Errorf("note %q, want %q", got, c.want)
			}
		})
	}
}
