// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func podOfRoot(name, root string, state PodState) Pod {
	pod := readyPod(name)
	pod.Root, pod.State = root, state
	return pod
}

func TestPodsOfAnotherRootAreLikeThoseOfAnOldRevision(t *testing.T) {
	l, _ := newPool(0)
	for _, pod := range []Pod{
		podOfRoot("lost", "lost", PodReady), podOfRoot("lost-starting", "lost", PodStarting), podOfRoot("lost-held", "lost", PodReady),
		podOfRoot("none", "", PodReady), podOfRoot("none-starting", "", PodStarting),
		podOfRoot("now", "now", PodReady), podOfRoot("now-starting", "now", PodStarting),
	} {
		l.ObservePod(poolP, pod)
	}
	l.Settle(Settlement{Batch: key("b"), UID: "uid-b", Pool: "p", Pods: []string{"lost-held"}})
	want := Counts{Idle: 3, Starting: 3, Held: 1, Updated: 7}
	if diff := cmp.Diff(want, l.Counts(poolP)); diff != "" {
		t.Errorf("counts before the root is known (-want +got):\n%s", diff)
	}

	l.ObserveRoot(poolP, "now")
	want.Updated, want.StaleIdle, want.StaleStarting, want.OtherRoot = 4, 1, 1, 2
	if diff := cmp.Diff(want, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	var names []string
	for _, pod := range l.RetireStale(poolP, 9) {
		names = append(names, pod.Name)
	}
	if diff := cmp.Diff([]string{"lost-starting", "lost"}, names); diff != "" {
		t.Errorf("to be replaced (-want +got):\n%s", diff)
	}
	if got := l.Counts(poolP); got.OtherRoot != 0 || got.StaleIdle != 0 || got.StaleStarting != 0 {
		t.Errorf("counts at the end %+v", got)
	}
}

func TestPodsOfTheCurrentRootGoFirstThenThoseOfNoneThenThoseOfAnother(t *testing.T) {
	l, _ := newPool(0)
	l.ObserveRoot(poolP, "now")
	old := podOfRoot("old", "now", PodReady)
	old.Revision = "r0"
	for _, pod := range []Pod{podOfRoot("lost", "lost", PodReady), old, podOfRoot("none", "", PodReady), podOfRoot("now", "now", PodReady)} {
		l.ObservePod(poolP, pod)
	}
	if diff := cmp.Diff([]string{"0:now", "1:none", "2:lost", "3:old"}, granted(l.Assume(demand("b", 0, 0, 1, 2, 3)))); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
}

func TestAPoolThatShrinksPartsWithPodsOfAnotherRootFirst(t *testing.T) {
	l, _ := newPool(0)
	l.ObserveRoot(poolP, "now")
	for _, pod := range []Pod{podOfRoot("now", "now", PodReady), podOfRoot("none", "", PodReady), podOfRoot("lost", "lost", PodReady)} {
		l.ObservePod(poolP, pod)
	}
	for _, want := range []string{"lost", "none", "now"} {
		if got := l.Retire(poolP, 1); len(got) != 1 || got[0].Name != want {
			t.Errorf("retired %v, want %s", got, want)
		}
	}
}

// What an old pod does says nothing of the pods that are made now.
func TestAPodOfAnotherRootThatBecomesReadyProvesNothing(t *testing.T) {
	l, _ := newPool(0)
	l.ObserveRoot(poolP, "now")
	for _, root := range []string{"lost", "", "now"} {
		starting := podOfRoot("of-"+root, root, PodStarting)
		l.ObservePod(poolP, starting)
		starting.State, starting.ResourceVersion = PodReady, "2"
		l.ObservePod(poolP, starting)
	}
	if got := l.Activity(poolP).Started; got != 2 {
		t.Errorf("%d started, want 2", got)
	}
}

func TestAPoolSeenAfterTheRootKnowsIt(t *testing.T) {
	l := NewLedger(&recorder{})
	l.ObserveRoot(poolP, "now")
	l.ObservePod(poolP, podOfRoot("lost", "lost", PodReady))
	l.ObservePool(poolP, "r1")
	if got := l.Counts(poolP); got.StaleIdle != 1 || got.OtherRoot != 1 {
		t.Errorf("counts %+v, want 1 pod of another root", got)
	}
}

func TestReasonOfAnUpdateNamesTheRoot(t *testing.T) {
	l := noLimits
	l.MaxReplace = 2
	for name, tt := range map[string]struct {
		counts Counts
		want   string
	}{
		"an old revision": {
			Counts{Idle: 6, StaleIdle: 5}, "replace 2 pods: 5 that no batch holds are of an old revision, at most 2 at once",
		},
		"another root": {
			Counts{Idle: 5, Starting: 1, StaleIdle: 4, StaleStarting: 1, OtherRoot: 5},
			"replace 2 pods: 5 that no batch holds have executors that obey another root than the controller's present one, at most 2 at once",
		},
		"both": {
			Counts{Idle: 6, StaleIdle: 5, OtherRoot: 2},
			"replace 2 pods: 3 that no batch holds are of an old revision, and 2 have executors that obey another root than " +
				"the controller's present one, at most 2 at once",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := PlanUpdate(spec(2, 6, 0, 10), tt.counts, l).Reason; got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}
