// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// run lets time pass a second at a time. A kubelet gives new pods their status, and the pool reconciles when it is woken or
// asked to be, as it would at work. It returns the number of reconciles.
func (w *world) run(d time.Duration, kubelet func(*corev1.Pod)) (reconciles int) {
	w.t.Helper()
	due := w.clock.Now()
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); w.after(time.Second) {
		for range 20 {
			if !w.woken && (due.IsZero() || w.clock.Now().Before(due)) {
				break
			}
			w.woken, due = false, time.Time{}
			reconciles++
			res, err := w.tryReconcile()
			switch {
			case err != nil:
				due = w.clock.Now().Add(time.Second)
			case res.RequeueAfter > 0:
				due = w.clock.Now().Add(res.RequeueAfter)
			}
			w.setStatus(kubelet)
		}
	}
	return reconciles
}

// cannotStart is a kubelet whose pods stay with this word.
func cannotStart(reason string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}},
		}}}
	}
}

// unschedulable is a scheduler that finds no node.
func unschedulable(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available",
	}}}
}

func (w *world) failing() string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.pool().Status.Conditions, v1alpha1.ConditionPodsFailing)
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%s/%s %s", c.Status, c.Reason, c.Message)
}

func TestPodsThatCanNotStartAreToldAtOnceInTheSameWords(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(3, 3).Obj())
	w.reconcile()
	w.told()
	waiting := func(reason, message string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			if pod.Name == "p-00001" {
				return // this one may yet start
			}
			pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
				Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			}}}
		}
	}
	w.woken = false
	w.setStatus(waiting("ErrImagePull", "no such image"))
	if !w.woken {
		t.Fatal("the pool is not woken by the first sign")
	}
	w.reconcile()
	want := "True/ErrImagePull pod p-00002: container sandbox: no such image"
	if got := w.failing(); got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
	patches := w.patches
	w.woken = false
	for range 5 { // the kubelet alternates
		w.setStatus(waiting("ImagePullBackOff", "back-off pulling image"))
		w.setStatus(waiting("ErrImagePull", "no such image"))
	}
	if w.woken {
		t.Error("the pool is woken by the same trouble in other words")
	}
	w.reconcile()
	if got := w.failing(); got != want || w.patches != patches {
		t.Errorf("PodsFailing is %s after %d writes, want %s after none", got, w.patches-patches, want)
	}
	if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning PodsFailing ErrImagePull: pod p-00002") {
		t.Errorf("events %q, want one about p-00002", told)
	}
	w.setStatus(func(pod *corev1.Pod) { pod.Status = readyStatus(w.clock.Now()) })
	w.after(time.Second)
	w.settled()
	if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
}

func TestPoolThatCanNotStartItsPodsMakesNoChurn(t *testing.T) {
	tests := map[string]struct {
		kubelet     func(*corev1.Pod)
		want        string
		wantCreates int // beside the first fill, in 5 minutes and in 60
		wantInAnHour,
		mostReconciles int
	}{
		"its image can't be pulled":       {cannotStart("ErrImagePull"), "True/ErrImagePull", 2, 8, 40},
		"its containers can't be created": {cannotStart("CreateContainerConfigError"), "True/CreateContainerConfigError", 2, 8, 40},
		"its containers crash":            {cannotStart("CrashLoopBackOff"), "True/CrashLoopBackOff", 2, 8, 40},
		"it is bigger than the cluster":   {unschedulable, "True/Unschedulable", 0, 0, 12},
		"nobody knows":                    {cannotStart("ContainerCreating"), "True/ProgressDeadlineExceeded", 0, 8, 40},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(5, 5).
				Template(`{"spec":{"nodeName":"n","containers":[{"name":"sandbox"}]}}`).Obj())
			reconciles := w.run(31*time.Second, tt.kubelet)
			if got := w.failing(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("PodsFailing after 30 s is %s, want %s", got, tt.want)
			}
			if w.creates != 5 {
				t.Fatalf("%d creates for the first fill, want 5", w.creates)
			}
			reconciles += w.run(5*time.Minute-31*time.Second, tt.kubelet)
			if got := w.creates - 5; got != tt.wantCreates || len(w.pods()) != 5 {
				t.Errorf("%d creates in 5 minutes for %d pods, want %d for 5", got, len(w.pods()), tt.wantCreates)
			}
			reconciles += w.run(55*time.Minute, tt.kubelet)
			if got := w.creates - 5; got != tt.wantInAnHour || w.deletes != got || len(w.pods()) != 5 {
				t.Errorf("%d creates and %d deletes in an hour for %d pods, want %d each for 5", got, w.deletes, len(w.pods()), tt.wantInAnHour)
			}
			if reconciles > tt.mostReconciles {
				t.Errorf("%d reconciles in an hour, want at most %d", reconciles, tt.mostReconciles)
			}
			if got := w.failing(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("PodsFailing after an hour is %s, want %s", got, tt.want)
			}
			events := strings.Join(w.told(), "\n")
			if got := strings.Count(events, "Warning PodsFailing"); got != 1 {
				t.Errorf("%d events say that pods fail, want 1:\n%s", got, events)
			}

			w.setStatus(func(pod *corev1.Pod) { pod.Status = readyStatus(w.clock.Now()) })
			w.run(time.Minute, w.becomeReady)
			if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
				t.Errorf("PodsFailing once they start is %s, want %s", got, want)
			}
			if got := w.run(time.Hour, w.becomeReady); got > 1 {
				t.Errorf("%d reconciles at rest, want none beside the first", got)
			}
		})
	}
}

func TestReplacementOfAPodThatCanNotStart(t *testing.T) {
	onlyFirst := func(w *world) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			if pod.Name == "p-00001" {
				cannotStart("ErrImagePull")(pod)
				return
			}
			w.becomeReady(pod)
		}
	}
	t.Run("it is another pod, after a minute", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 3).Obj())
		w.run(59*time.Second, onlyFirst(w))
		if got, want := w.podNames(), "p-00001 p-00002"; got != want {
			t.Fatalf("pods before: %q, want %q", got, want)
		}
		w.run(5*time.Second, onlyFirst(w))
		if got, want := w.podNames(), "p-00002 p-00003"; got != want {
			t.Errorf("pods after: %q, want %q, though the buffer was in its band", got, want)
		}
		if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
			t.Errorf("PodsFailing is %s, want %s", got, want)
		}
		if got, want := w.pool().Status.LastScaleReason, "create 1 pod: in place of pod p-00001, which can't start: ErrImagePull"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
		if told := strings.Join(w.told(), "\n"); !strings.Contains(told, "Normal Replacing Deleted pod p-00001, which can't start (ErrImagePull)") {
			t.Errorf("events %q, want one about the replacement", told)
		}
	})
	t.Run("there is one at a time, and the next comes a minute after one that became Ready", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(4, 4).Obj())
		kubelet := func(pod *corev1.Pod) { // a bad node has the first four; those in their place start within 20 s
			if pod.Name <= "p-00004" {
				cannotStart("CreateContainerError")(pod)
				return
			}
			if w.clock.Now().Sub(pod.CreationTimestamp.Time) >= 20*time.Second {
				w.becomeReady(pod)
			}
		}
		var at []time.Duration
		began := w.clock.Now()
		for w.clock.Now().Sub(began) < 10*time.Minute {
			if before := w.deletes; w.run(time.Second, kubelet) > 0 && w.deletes > before {
				at = append(at, w.clock.Now().Sub(began)-time.Second)
			}
			w.after(4 * time.Second) // the kubelet looks at its pods every 5 s
			w.setStatus(kubelet)
		}
		if len(at) != 4 {
			t.Fatalf("replaced after %v, want 4 of them", at)
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap < time.Minute || gap > 65*time.Second {
				t.Errorf("replaced after %v, want a minute between two", at)
			}
		}
		if n := w.ledger.Counts(w.key); n.Idle != 4 {
			t.Errorf("%+v, want 4 idle", n)
		}
	})
	t.Run("the pod in its place gets its chance before the trouble counts as gone", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
		kubelet := func(pod *corev1.Pod) {
			if pod.Name == "p-00001" {
				cannotStart("ErrImagePull")(pod)
			}
		}
		w.run(70*time.Second, kubelet)
		if got, want := w.podNames(), "p-00002"; got != want {
			t.Fatalf("pods %q, want %q", got, want)
		}
		if got, want := w.condition(v1alpha1.ConditionPodsFailing), "True/ErrImagePull"; got != want {
			t.Errorf("PodsFailing is %s, want %s", got, want)
		}
		w.setStatus(w.becomeReady)
		w.run(time.Second, w.becomeReady)
		if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
			t.Errorf("PodsFailing once it is Ready is %s, want %s", got, want)
		}
	})
	t.Run("being Ready until the next crash is no success", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
		kubelet := func(pod *corev1.Pod) {
			if w.clock.Now().Sub(pod.CreationTimestamp.Time) < 10*time.Second {
				w.becomeReady(pod)
				return
			}
			cannotStart("CrashLoopBackOff")(pod)
		}
		began := w.clock.Now()
		for w.clock.Now().Sub(began) < time.Hour {
			w.run(time.Second, kubelet)
			w.after(4 * time.Second)
			w.setStatus(kubelet)
		}
		if w.creates < 8 || w.creates > 9 {
			t.Errorf("%d creates in an hour, want the first and 7 or 8 more", w.creates)
		}
	})
	t.Run("an edit of the pool begins anew", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
		w.run(5*time.Minute, cannotStart("ErrImagePull"))
		creates := w.creates
		w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax++ })
		w.woken = true
		w.run(65*time.Second, cannotStart("ErrImagePull"))
		if w.creates != creates+1 {
			t.Errorf("%d creates in the minute after the edit, want 1", w.creates-creates)
		}
	})
	t.Run("a delete that fails is tried again later", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.onDelete = func(*corev1.Pod) error { return context.DeadlineExceeded }
		w.run(3*time.Minute, cannotStart("ErrImagePull"))
		if n := w.ledger.Counts(w.key); w.creates != 2 || n.Starting != 2 || w.deletes > 8 {
			t.Errorf("%d creates, %d deletes and %+v, want 2, no more than 8 and 2 starting", w.creates, w.deletes, n)
		}
		w.onDelete = nil
		w.run(3*time.Minute, cannotStart("ErrImagePull"))
		if w.creates < 3 || w.creates > 4 {
			t.Errorf("%d creates once deletes work, want 3 or 4", w.creates)
		}
	})
	t.Run("one that stays terminating takes its place under poolMax", func(t *testing.T) {
		pool := wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 2).
			Template(`{"metadata":{"finalizers":["example.com/slow"]},"spec":{"containers":[{"name":"sandbox"}]}}`).Obj()
		w := newWorld(t, pool)
		w.run(time.Hour, func(pod *corev1.Pod) {
			if pod.DeletionTimestamp == nil {
				cannotStart("ErrImagePull")(pod)
			}
		})
		if w.creates != 2 || w.deletes != 1 || len(w.pods()) != 2 {
			t.Errorf("%d creates and %d deletes for %d pods, want 2 and 1 for 2", w.creates, w.deletes, len(w.pods()))
		}
	})
}

func TestStartTimeAndClaimsSetTheTarget(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(10, 40).Size(0, 200).Obj())
	w.run(time.Second, func(*corev1.Pod) {})
	w.after(5*time.Minute - time.Second)
	w.setStatus(w.becomeReady)
	if got := w.ledger.Activity(w.key).StartTime; got != 5*time.Minute {
		t.Fatalf("measured start time %v, want 5 m", got)
	}
	w.reconcile()
	w.after(statusPace)
	w.hold("b", 16) // 25 were idle
	w.reconcile()
	want := "create 31 pods: buffer 9 is below bufferMin 10, target is 40 (0.18 claims/s x 5m0s to start)"
	if got := w.pool().Status.LastScaleReason; got != want {
		t.Errorf("lastScaleReason %q, want %q", got, want)
	}

	w.setStatus(w.becomeReady)
	w.after(time.Hour) // what was claimed then tells nothing now
	w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 42, 50 })
	w.reconcile()
	want = "create 6 pods: buffer 40 is below bufferMin 42, target is 46"
	if got := w.pool().Status.LastScaleReason; got != want {
		t.Errorf("lastScaleReason an hour later %q, want %q", got, want)
	}
}

func TestCandidateOf(t *testing.T) {
	now := time.Unix(10_000, 0)
	pod := func(name, node string, age time.Duration, reason string) *scheduler.Pod {
		return &scheduler.Pod{Name: name, UID: "u", Node: node, Since: now.Add(-age), Failure: scheduler.StartFailure{Reason: reason}}
	}
	first := repairs{stuckSince: now}
	tests := map[string]struct {
		failing   scheduler.Failing
		repairs   repairs
		startTime time.Duration
		want      candidate
	}{
		"none": {scheduler.Failing{}, first, 0, candidate{}},
		"containers that can't start, a minute after the first sign": {
			scheduler.Failing{Stuck: pod("s", "n", 0, "ErrImagePull"), Quiet: pod("q", "n", time.Hour, "")}, first, 0,
			candidate{"s", "u", "ErrImagePull", now.Add(time.Minute)},
		},
		"not those that no node takes": {
			scheduler.Failing{Unschedulable: pod("u", "", time.Hour, "Unschedulable")}, first, 0, candidate{},
		},
		"one without a word after 5 minutes": {
			scheduler.Failing{Quiet: pod("q", "n", time.Minute, "")}, repairs{}, 0,
			candidate{"q", "u", "ProgressDeadlineExceeded", now.Add(4 * time.Minute)},
		},
		"or 50 times what others took": {
			scheduler.Failing{Quiet: pod("q", "n", time.Minute, "")}, repairs{}, time.Minute,
			candidate{"q", "u", "ProgressDeadlineExceeded", now.Add(49 * time.Minute)},
		},
		"not one without a node": {scheduler.Failing{Quiet: pod("q", "", time.Hour, "")}, repairs{}, 0, candidate{}},
		"2 minutes after the first repair": {
			scheduler.Failing{Stuck: pod("s", "n", 0, "ErrImagePull")}, repairs{stuckSince: now.Add(-time.Hour), last: now, failures: 1}, 0,
			candidate{"s", "u", "ErrImagePull", now.Add(2 * time.Minute)},
		},
		"8 minutes after the third": {
			scheduler.Failing{Stuck: pod("s", "n", 0, "ErrImagePull")}, repairs{stuckSince: now.Add(-time.Hour), last: now, failures: 3}, 0,
			candidate{"s", "u", "ErrImagePull", now.Add(8 * time.Minute)},
		},
		"10 minutes after the hundredth": {
			scheduler.Failing{Stuck: pod("s", "n", 0, "ErrImagePull")}, repairs{stuckSince: now.Add(-time.Hour), last: now, failures: 100}, 0,
			candidate{"s", "u", "ErrImagePull", now.Add(10 * time.Minute)},
		},
		"a minute after one that helped": {
			scheduler.Failing{Stuck: pod("s", "n", 0, "ErrImagePull")}, repairs{stuckSince: now.Add(-time.Hour), last: now}, 0,
			candidate{"s", "u", "ErrImagePull", now.Add(time.Minute)},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := candidateOf(tt.failing, tt.repairs, tt.startTime)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(candidate{})); diff != "" {
				t.Errorf("candidate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanRepair(t *testing.T) {
	now := time.Unix(10_000, 0)
	pool := wrappers.MakePool(namespace, "p").Buffer(2, 4).Obj()
	due := observed{
		now: now, template: &corev1.PodTemplateSpec{}, counts: scheduler.Counts{Starting: 3},
		candidate: candidate{name: "a", uid: "u", reason: "ErrImagePull", due: now},
	}
	tests := map[string]struct {
		change func(*observed)
		want   repairPlan
	}{
		"it is time": {func(*observed) {}, repairPlan{pod: "a", uid: "u", reason: "replace pod a, which can't start: ErrImagePull"}},
		"no pod":     {func(o *observed) { o.candidate = candidate{} }, repairPlan{}},
		"it is not time yet": {
			func(o *observed) { o.candidate.due = now.Add(time.Second) }, repairPlan{wait: time.Second},
		},
		"the spec is invalid":        {func(o *observed) { o.invalid = &problem{} }, repairPlan{}},
		"the template is invalid":    {func(o *observed) { o.template = nil }, repairPlan{}},
		"creates fail":               {func(o *observed) { o.creates.failing = true }, repairPlan{wait: time.Minute}},
		"pods end after their start": {func(o *observed) { o.endings.failing = true }, repairPlan{}},
		"deletes fail":               {func(o *observed) { o.deletes.wait = time.Second }, repairPlan{}},
		"some are owed":              {func(o *observed) { o.owed = 1 }, repairPlan{}},
		"the last is under way":      {func(o *observed) { o.repairing = true }, repairPlan{}},
		"there are too many":         {func(o *observed) { o.counts.Starting = 5 }, repairPlan{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := due
			tt.change(&obs)
			if diff := cmp.Diff(tt.want, planRepair(pool, obs), cmp.AllowUnexported(repairPlan{})); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFailureOf(t *testing.T) {
	now := time.Unix(10_000, 0)
	pod := func(name, reason string, age time.Duration) *scheduler.Pod {
		return &scheduler.Pod{Name: name, Since: now.Add(-age), Failure: scheduler.StartFailure{Reason: reason, Message: "m"}}
	}
	tests := map[string]struct {
		failing   scheduler.Failing
		startTime time.Duration
		want      string
	}{
		"all may start yet":             {scheduler.Failing{Quiet: pod("q", "", 29*time.Second)}, 0, ""},
		"one has been starting for 30s": {scheduler.Failing{Quiet: pod("q", "", 30*time.Second)}, 0, "ProgressDeadlineExceeded"},
		"others take a minute":          {scheduler.Failing{Quiet: pod("q", "", 299*time.Second)}, time.Minute, ""},
		"five times as long":            {scheduler.Failing{Quiet: pod("q", "", 300*time.Second)}, time.Minute, "ProgressDeadlineExceeded"},
		"one no node takes":             {scheduler.Failing{Unschedulable: pod("u", "Unschedulable", 0), Quiet: pod("q", "", time.Hour)}, 0, "Unschedulable"},
		"one whose containers can't start is told first": {
			scheduler.Failing{Unschedulable: pod("u", "Unschedulable", 0), Stuck: pod("s", "ErrImagePull", 0)}, 0, "ErrImagePull",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := failureOf(tt.failing, observed{now: now, activity: scheduler.Activity{StartTime: tt.startTime}})
			if (got == nil) != (tt.want == "") || (got != nil && got.reason != tt.want) {
				t.Errorf("failure %+v, want %q", got, tt.want)
			}
		})
	}
}

func TestLastScaleReasonTellsWhyNothingIsDone(t *testing.T) {
	reason := func(w *world) string { return w.pool().Status.LastScaleReason }
	t.Run("creates fail", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.onCreate = forbiddenPod
		w.run(time.Minute, w.becomeReady)
		if got, want := reason(w), "create no pods: buffer 0 is below bufferMin 2, but the last could not be created: the pool waits before it tries again"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
	})
	t.Run("deletes fail", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.run(time.Second, w.becomeReady)
		w.onDelete = func(*corev1.Pod) error { return apierrors.NewInternalError(context.Canceled) }
		w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 0, 0 })
		w.woken = true
		w.run(time.Minute, w.becomeReady)
		if got, want := reason(w), "delete no pods: buffer 2 is above bufferMax 0, but the last could not be deleted: the pool waits before it tries again"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
	})
	t.Run("the pool is full", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 2).Obj())
		w.run(time.Second, w.becomeReady)
		w.hold("b", 2)
		w.run(time.Second, w.becomeReady)
		if got, want := reason(w), "create no pods: buffer 0 is below bufferMin 2, limited by poolMax 2"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
	})
	t.Run("the template is invalid", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Template(`{}`).Obj())
		w.run(time.Second, w.becomeReady)
		if got, want := reason(w), "create no pods: buffer 0 is below bufferMin 2, but the template is invalid"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
	})
	t.Run("the pods end", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.run(time.Second, func(pod *corev1.Pod) {
			pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, StartTime: &metav1.Time{Time: w.clock.Now()}}
		})
		if got, want := reason(w), "create no pods: buffer 0 is below bufferMin 2, but the last ended soon after their start: the pool waits before it tries again"; got != want {
			t.Errorf("lastScaleReason %q, want %q", got, want)
		}
	})
}
