// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// startingPod has been starting since the second given, for the reason given.
func startingPod(name string, since int64, reason string) Pod {
	return Pod{
		Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1", Revision: "r1", State: PodStarting, Node: "n",
		Since: time.Unix(since, 0), Failure: StartFailure{Reason: reason},
	}
}

// drawStart gives a starting pod a failure, or none, or the mark of being recycled.
func drawStart(t *rapid.T, pod *Pod) {
	if pod.State != PodStarting {
		return
	}
	pod.Failure.Reason = rapid.SampledFrom([]string{"", "", "ErrImagePull", "CrashLoopBackOff", "Unschedulable"}).Draw(t, "failure")
	pod.Recycling = rapid.IntRange(0, 4).Draw(t, "recycling") == 0
	if second := rapid.Int64Range(0, 5).Draw(t, "since"); second > 0 {
		pod.Since = time.Unix(second, 0)
	}
}

// mustIndexStartingPods compares the index with a look at every pod.
func mustIndexStartingPods(t *rapid.T, p *pool) {
	stuck, unschedulable, crashing, starting, unusable := 0, 0, 0, 0, 0
	quiet := map[*entry]bool{}
	for _, e := range p.pods {
		switch e.class {
		case classUnusable:
			unusable++
		case classStarting:
			starting++
		}
		reason := e.pod.Failure.Reason
		switch {
		case e.class != classStarting, e.pod.Recycling:
		case reason == "Unschedulable":
			unschedulable++
		case reason != "":
			stuck++
			if reason == crashLoop && p.isUpdated(e.pod) {
				crashing++
			}
		case !e.pod.Since.IsZero():
			quiet[e] = true
		}
	}
	got := []int{p.starts.stuck.Len(), p.starts.unschedulable.Len(), p.starts.crashing, len(p.starts.quiet), len(p.starting), len(p.unusable)}
	want := []int{stuck, unschedulable, crashing, len(quiet), starting, unusable}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("index of stuck, unschedulable, crashing, quiet, starting and unusable pods (-want +got):\n%s", diff)
	}
	for i, e := range p.starts.quiet {
		if !quiet[e] || e.start.quietAt != i+1 || p.starts.quiet.Less(i, 0) {
			t.Fatalf("pod %s is at %d of the quiet ones, and thinks at %d", e.pod.Name, i+1, e.start.quietAt)
		}
	}
}

func name(pod *Pod) string {
	if pod == nil {
		return ""
	}
	return pod.Name
}

func TestFailingNamesThePodWithTheLongestTrouble(t *testing.T) {
	l, _ := newPool(2)
	told := func() string {
		f := l.Failing(poolP)
		return fmt.Sprintf("stuck %s, unschedulable %s, quiet %s, crashing %d", name(f.Stuck), name(f.Unschedulable), name(f.Quiet), f.Crashing)
	}
	expect := func(what, want string) {
		t.Helper()
		if got := told(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("nothing starts", "stuck , unschedulable , quiet , crashing 0")
	l.ExpectPod(poolP, "unseen", "r1")
	expect("no watch has shown it", "stuck , unschedulable , quiet , crashing 0")
	l.ObservePod(poolP, startingPod("young", 20, ""))
	l.ObservePod(poolP, startingPod("old", 10, ""))
	l.ObservePod(poolP, startingPod("z", 10, "ErrImagePull"))
	l.ObservePod(poolP, startingPod("a", 5, "CrashLoopBackOff"))
	l.ObservePod(poolP, startingPod("u", 1, "Unschedulable"))
	expect("one of each", "stuck z, unschedulable u, quiet old, crashing 1")
	recycled := startingPod("old", 10, "")
	recycled.ResourceVersion, recycled.Recycling = "2", true
	l.ObservePod(poolP, recycled)
	expect("one is recycled", "stuck z, unschedulable u, quiet young, crashing 1")
	l.RemovePod(poolP, "z", "uid-z")
	expect("one went", "stuck a, unschedulable u, quiet young, crashing 1")
	l.ObservePool(poolP, "r2")
	expect("the template changed", "stuck a, unschedulable u, quiet young, crashing 0")
	l.ObservePool(poolP, "r1")
	expect("and back", "stuck a, unschedulable u, quiet young, crashing 1")
	if got := l.RetireStarting(poolP, "a", "uid-other"); len(got) != 0 {
		t.Errorf("retired %v, which is another pod", got)
	}
	if got := l.RetireStarting(poolP, "p-0", "uid-p-0"); len(got) != 0 {
		t.Errorf("retired %v, which is idle", got)
	}
	if got := l.RetireStarting(poolP, "a", "uid-a"); len(got) != 1 || got[0].Name != "a" {
		t.Errorf("retired %v, want a", got)
	}
	expect("one is being deleted", "stuck , unschedulable u, quiet young, crashing 0")
}

func TestPoolIsWokenWhenAStartFailureChanges(t *testing.T) {
	l, rec := newPool(0)
	version := 1
	observe := func(state PodState, reason, message string) (woken int) {
		version++
		*rec = recorder{}
		pod := startingPod("a", 10, reason)
		pod.ResourceVersion, pod.State, pod.Failure.Message = fmt.Sprint(version), state, message
		l.ObservePod(poolP, pod)
		return len(rec.pools)
	}
	observe(PodStarting, "", "")
	for _, step := range []struct {
		state           PodState
		reason, message string
		want            int
	}{
		{PodStarting, "", "", 0},
		{PodStarting, "ErrImagePull", "no such image", 1},
		{PodStarting, "ImagePullBackOff", "back-off", 0},
		{PodStarting, "ErrImagePull", "no such image", 0},
		{PodStarting, "CrashLoopBackOff", "ends", 1},
		{PodStarting, "", "", 0}, // it runs until the next crash
		{PodReady, "", "", 1},
		{PodStarting, "CrashLoopBackOff", "ends", 1},
	} {
		if got := observe(step.state, step.reason, step.message); got != step.want {
			t.Errorf("%q %q wakes the pool %d times, want %d", step.reason, step.message, got, step.want)
		}
	}
	observe(PodReady, "", "")
	l.Assume(demand("b", 0, 0))
	l.Confirm(key("b"))
	if got := observe(PodStarting, "CrashLoopBackOff", "ends"); got != 0 {
		t.Errorf("the trouble of a held pod wakes the pool %d times, want 0", got)
	}
	if f := l.Failing(poolP); f.Stuck != nil {
		t.Errorf("held pod %s counts as failing", f.Stuck.Name)
	}
}

// BenchmarkFailingPod is news of one pod that can't start, in pools of several sizes where no pod can.
func BenchmarkFailingPod(b *testing.B) {
	for _, n := range poolSizes {
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			l := NewLedger(silent{})
			l.ObservePool(poolP, "r1")
			reasons := []string{"ErrImagePull", ""}
			for i := range n {
				l.ObservePod(poolP, startingPod(fmt.Sprintf("p-%d", i), int64(i), reasons[i%2]))
			}
			b.ReportAllocs()
			version := 1
			for b.Loop() {
				version++
				pod := startingPod("p-7", int64(version%n), reasons[version%2])
				pod.ResourceVersion = fmt.Sprint(version)
				l.ObservePod(poolP, pod)
				l.Failing(poolP)
			}
		})
	}
}
