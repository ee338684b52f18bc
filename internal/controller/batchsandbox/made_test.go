// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func podAt(uid types.UID, version string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, ResourceVersion: version}}
}

func TestUnseenPods(t *testing.T) {
	cases := map[string]struct {
		cached []corev1.Pod
		after  time.Duration
		want   []types.UID
	}{
		"a cache without any pod of the batch":                     {want: []types.UID{"a", "b"}},
		"a cache that shows one of them":                           {cached: []corev1.Pod{podAt("a", "11")}, want: []types.UID{"b"}},
		"a cache that shows news of the one, from before the next": {cached: []corev1.Pod{podAt("a", "12")}, want: []types.UID{"b"}},
		"a cache that has passed the making of one":                {cached: []corev1.Pod{podAt("x", "12")}, want: []types.UID{"b"}},
		"a cache that has passed the making of all":                {cached: []corev1.Pod{podAt("x", "5"), podAt("y", "100"), podAt("z", "7")}},
		"a cache that shows older pods alone":                      {cached: []corev1.Pod{podAt("x", "9")}, want: []types.UID{"a", "b"}},
		"versions that can't be compared tell nothing":             {cached: []corev1.Pod{podAt("x", "x1")}, want: []types.UID{"a", "b"}},
		"just within the bound":                                    {after: unseenBound - 1, want: []types.UID{"a", "b"}},
		"when the bound has passed":                                {after: unseenBound},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a, b := podAt("a", "11"), podAt("b", "13")
			made := madePods{"a": {pod: &a, at: noon}, "b": {pod: &b, at: noon}}
			left := made.unseen(tc.cached, noon.Add(tc.after))
			if diff := cmp.Diff(tc.want, slices.Sorted(maps.Keys(left))); diff != "" {
				t.Errorf("unseen (-want +got):\n%s", diff)
			}
			if len(made) != 2 {
				t.Errorf("%d pods are left of what was asked", len(made))
			}
		})
	}
}

func TestUnseenPodsCountUntilTheFirstBoundHasPassed(t *testing.T) {
	if got := (madePods{}).until(); !got.IsZero() {
		t.Errorf("no pods count until %s", got)
	}
	made := madePods{"a": {at: noon.Add(time.Second)}, "b": {at: noon}, "c": {at: noon.Add(time.Minute)}}
	if got := made.until(); !got.Equal(noon.Add(unseenBound)) {
		t.Errorf("they count until %s, want the bound of the first", got)
	}
}

// creates are the pods that were made since the last call, sorted, whether they were there already or not.
func (w *world) creates() []string {
	var names []string
	for _, write := range w.takeWrites() {
		if name, ok := strings.CutPrefix(write, "create "); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) wantCreates(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.creates()); diff != "" {
		w.t.Errorf("creates (-want +got):\n%s", diff)
	}
}

func TestPodsAreMadeOnceHoweverFarTheCacheIsBehind(t *testing.T) {
	const n = 20
	inWorld(t, func(w *world) {
		reads := 0
		w.onRead = func() error { reads++; return nil }
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(n).Obj())
		shown := 0 // of the pods, by index: their news come one by one
		w.unseen = func(pod *corev1.Pod) bool { return indexOf(t, pod) >= shown }
		creates := 0
		for ; shown <= n; shown++ {
			w.reconcile()
			creates += len(w.creates())
			if got := w.batch().Status.Replicas; got != n {
				t.Fatalf("the cache shows %d pods: the status tells of %d, want %d", shown, got, n)
			}
			w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
			time.Sleep(unseenBound / (2 * n))
		}
		if creates != n || reads != 0 {
			t.Errorf("%d creates and %d reads for %d pods", creates, reads, n)
		}
		if res := w.reconcile(); res.RequeueAfter != 0 {
			t.Errorf("looks again after %s, though the cache shows all pods", res.RequeueAfter)
		}
		if told := w.toldEvents(); !slices.Equal(told, []string{"PodsCreated"}) {
			t.Errorf("told %v", told)
		}
	})
}

func indexOf(t *testing.T, pod *corev1.Pod) int {
	t.Helper()
	var index int
	if _, err := fmt.Sscan(pod.Labels[v1alpha1.PodIndexLabel], &index); err != nil {
		t.Fatal(err)
	}
	return index
}

func TestAPodThatGoesBeforeTheCacheShowsItIsReplacedOnceTheCacheHasPassedIt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(2).Obj())
		w.unseen = func(*corev1.Pod) bool { return true }
		w.reconcile()
		w.wantCreates("b-0", "b-1")
		w.removePod("b-0")
		w.reconcile()
		w.wantCreates()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.2") }, "b-1") // its version is newer than both creations
		w.unseen = nil
		w.reconcile()
		w.wantCreates("b-0")
		if told := w.toldEvents(); slices.Contains(told, "SandboxLost") {
			t.Errorf("told %v of a pod that nobody has seen", told)
		}
	})
}

func TestAPodThatNoCacheEverShowsIsReplacedWhenTheBoundHasPassed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Obj())
		w.reconcile()
		w.removePod("b-0")
		w.takeWrites()
		if res := w.reconcile(); res.RequeueAfter != unseenBound {
			t.Errorf("looks again after %s, want %s", res.RequeueAfter, unseenBound)
		}
		time.Sleep(unseenBound)
		w.reconcile()
		w.wantCreates("b-0")
		if got := w.podNames(); got != "b-0" {
			t.Errorf("pods %q", got)
		}
	})
}

func TestACacheThatIsBehindByMoreThanTheBoundCostsOneCallInVain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Obj())
		w.unseen = func(*corev1.Pod) bool { return true }
		w.reconcile()
		time.Sleep(unseenBound)
		for range 3 {
			w.reconcile()
		}
		w.wantCreates("b-0", "b-0") // the first one, and the one that finds it
		if told := w.toldEvents(); slices.Contains(told, "SandboxLost") {
			t.Errorf("told %v of a pod that is there", told)
		}
	})
}

func TestPodsThatWereMadeBeforeARefusalAreNotMadeAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(3).Obj())
		w.unseen = func(*corev1.Pod) bool { return true }
		w.onCreate = func(pod *corev1.Pod) error {
			if pod.Name == "b-2" {
				return errors.New("busy")
			}
			return nil
		}
		if _, err := w.tryReconcile(); err == nil {
			t.Error("a pod that could not be made is no error")
		}
		w.wantCreates("b-0", "b-1", "b-2")
		w.onCreate = nil
		w.reconcile()
		w.wantCreates("b-2")
	})
}

func TestAnUnseenPodAboveReplicasIsDeletedOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Replicas(2).Obj())
		w.unseen = func(*corev1.Pod) bool { return true }
		w.reconcile()
		w.takeWrites()
		w.edit(func(sb *v1alpha1.BatchSandbox) { one := int32(1); sb.Spec.Replicas = &one })
		w.reconcile()
		w.reconcile()
		if diff := cmp.Diff([]string{"delete b-1", "patch status b"}, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

func TestAnUnseenReplacementOfALostPodIsMadeOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(wrappers.MakeBatch(namespace, "b").Container("sandbox").Obj())
		w.settled()
		lost := w.pods()[0]
		lost.Finalizers = []string{"somebody/else"}
		if err := w.client.Update(t.Context(), &lost); err != nil {
			t.Fatal(err)
		}
		w.setPods(func(int) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed} }, "b-0")
		w.reconcile()
		time.Sleep(initialBackoff)
		w.takeWrites()
		w.unseen = func(pod *corev1.Pod) bool {
			pod.ResourceVersion = "1" // from before the replacement
			return pod.Name != "b-0"
		}
		for range 3 {
			w.reconcile()
		}
		w.wantCreates("b-0-" + shortHash(lost.UID))
	})
}
