// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/recycling"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func TestPlanRecycle(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := recycleMemory{since: now}
	pausing := recycleMemory{since: now, askAt: now.Add(2 * time.Second), checkAt: now.Add(3 * time.Second)}
	clean := &taskexecutor.RecycleState{ID: "batch", Clean: true}
	for name, c := range map[string]struct {
		facts      recycleFacts
		want       recycleAction
		wantReason string
		wantWait   time.Duration
	}{
		"mark unreadable":       {recycleFacts{markErr: errors.New("no mark"), memory: fresh}, recycleDelete, "no mark", 0},
		"just marked":           {recycleFacts{memory: fresh}, recycleAsk, "", 0},
		"asked a moment ago":    {recycleFacts{memory: pausing}, recycleWait, "", 2 * time.Second},
		"restarting":            {recycleFacts{memory: fresh, progress: recycling.Restarting}, recycleWait, "", recycleLimit},
		"restarted":             {recycleFacts{memory: fresh, progress: recycling.Restarted}, recycleCheck, "", 0},
		"checked a moment ago":  {recycleFacts{memory: pausing, progress: recycling.Restarted}, recycleWait, "", 3 * time.Second},
		"asked, then restarted": {recycleFacts{memory: recycleMemory{since: now, askAt: now.Add(askAgain)}, progress: recycling.Restarted}, recycleCheck, "", 0},
		"proven clean":          {recycleFacts{memory: fresh, progress: recycling.Restarted, report: clean}, recycleUnmark, "", 0},
		"clean, says a container the last user had": {recycleFacts{memory: fresh, report: clean}, recycleAsk, "", 0},
		"clean, by another recycling": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "older", Clean: true},
		}, recycleDelete, "did not come back", 0},
		"unclean": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "batch", Reasons: []string{"a", "b"}},
		}, recycleDelete, "a; b", 0},
		"clean, but with reasons why not": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "other", Reasons: []string{"a"}},
		}, recycleDelete, "a", 0},
		"its executor knows nothing of it": {recycleFacts{memory: recycleMemory{since: now, refused: true}}, recycleDelete, "doesn't know how", 0},
		"too late":                         {recycleFacts{memory: recycleMemory{since: now.Add(-recycleLimit)}, progress: recycling.Restarting}, recycleDelete, "within 1m0s", 0},
		"too late, though clean":           {recycleFacts{memory: recycleMemory{since: now.Add(-recycleLimit)}, progress: recycling.Restarted, report: clean}, recycleDelete, "within", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c.facts.now, c.facts.mark = now, recycling.Mark{Batch: "batch"}
			got := planRecycle(c.facts)
			if got.action != c.want || !strings.Contains(got.reason, c.wantReason) || got.wait != c.wantWait {
				t.Errorf("step %+v, want %d for %q after %v", got, c.want, c.wantReason, c.wantWait)
			}
		})
	}
}

// fakeExecutor answers what the test says and counts what it was asked.
type fakeExecutor struct {
	asked, checked int
	refuse         error
	state          taskexecutor.RecycleState
	silent         error
}

func (f *fakeExecutor) Recycle(context.Context, string) error { f.asked++; return f.refuse }
func (f *fakeExecutor) Recycled(context.Context) (taskexecutor.RecycleState, error) {
	f.checked++
	return f.state, f.silent
}

const restartable = `{"spec":{"containers":[{"name":"sandbox","image":"i"},{"name":"task-executor","image":"e"}]}}`

// markedWorld has a pool of one pod, which a batch has released and marked.
func markedWorld(t *testing.T) (*world, *fakeExecutor) {
	t.Helper()
	pool := wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(1, 1).Template(restartable).Obj()
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleRestart}
	w := newWorld(t, pool)
	executor := &fakeExecutor{state: taskexecutor.RecycleState{ID: "batch", Clean: true}}
	w.r.dial = func(string) Executor { return executor }
	w.reconcile()
	w.live("1")
	w.settled()
	if s := w.pool().Status; s.Available != 1 {
		t.Fatalf("status %+v", s)
	}
	pod := w.pods()[0]
	if obstacle := recycling.Obstacle(pod); obstacle != "" {
		t.Fatal(obstacle)
	}
	pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: recycling.MarkOf(pod, "batch").Encode()}
	if err := w.client.Update(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	w.news()
	return w, executor
}

// live gives every container of every pod the ID of this life, running and Ready.
func (w *world) live(life string) {
	w.t.Helper()
	w.setStatus(func(pod *corev1.Pod) {
		pod.Status = readyStatus(w.clock.Now())
		for _, c := range pod.Spec.Containers {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
				Name: c.Name, ContainerID: "c://" + c.Name + life, Ready: true,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			})
		}
	})
}

func (w *world) marked() bool {
	_, marked := w.pods()[0].Annotations[v1alpha1.RecyclingAnnotation]
	return marked
}

func TestAMarkedPodIsRestartedProvenAndUnmarked(t *testing.T) {
	w, executor := markedWorld(t)
	for range 3 {
		w.reconcile()
		w.after(time.Second)
	}
	if executor.asked != 1 || executor.checked != 0 || !w.marked() {
		t.Errorf("asked %d times, checked %d times, marked %t; want one question until the containers are new",
			executor.asked, executor.checked, w.marked())
	}
	if s := w.pool().Status; s.Available != 0 || s.Starting != 1 || s.Total != 1 {
		t.Errorf("status while it is recycled: %+v", s)
	}
	w.live("2")
	w.settled()
	if executor.asked != 1 || executor.checked != 1 || w.marked() {
		t.Errorf("asked %d times, checked %d times, marked %t", executor.asked, executor.checked, w.marked())
	}
	if s := w.pool().Status; s.Available != 1 || w.deletes != 0 || w.creates != 1 {
		t.Errorf("status %+v, %d deletes, %d creates", s, w.deletes, w.creates)
	}
	if w.r.memories.of(w.pool()).recycling != nil && len(w.r.memories.of(w.pool()).recycling) > 0 {
		t.Error("it is remembered for ever")
	}
}

func TestAPodThatComesBackUncleanOrNotAtAllIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(w *world, e *fakeExecutor)
		want    string
	}{
		"unclean": {func(w *world, e *fakeExecutor) {
			e.state = taskexecutor.RecycleState{ID: "batch", Reasons: []string{"/etc/hosts was changed"}}
			w.live("2")
		}, "/etc/hosts was changed"},
		"an executor that knows nothing of it": {func(_ *world, e *fakeExecutor) {
			e.refuse = &taskexecutor.StatusError{Status: http.StatusNotFound}
		}, "doesn't know how"},
		"not restarted in time": {func(w *world, _ *fakeExecutor) {
			w.reconcile()
			w.after(recycleLimit)
		}, "within 1m0s"},
		"nobody answers": {func(w *world, e *fakeExecutor) {
			e.silent = errors.New("no route to host")
			w.live("2")
			w.reconcile()
			w.after(recycleLimit)
		}, "within 1m0s"},
		"a mark that can't be read": {func(w *world, _ *fakeExecutor) {
			pod := w.pods()[0]
			pod.Annotations[v1alpha1.RecyclingAnnotation] = "{}"
			if err := w.client.Update(context.Background(), pod); err != nil {
				w.t.Fatal(err)
			}
			w.news()
		}, "names no batch"},
	} {
		t.Run(name, func(t *testing.T) {
			w, executor := markedWorld(t)
			before := w.podNames()
			c.happens(w, executor)
			w.settled()
			told := strings.Join(w.told(), "\n")
			if after := w.podNames(); after == before || after == "" || w.deletes != 1 {
				t.Errorf("pods %q, were %q; %d deletes", after, before, w.deletes)
			}
			if !strings.Contains(told, "PodNotRecycled Deleted pod "+before) || !strings.Contains(told, c.want) {
				t.Errorf("events %q, want the reason %q", told, c.want)
			}
		})
	}
}

// What is known of a recycling in memory may be lost at any moment.
func TestAControllerThatStartsInTheMiddleOfARecyclingEndsIt(t *testing.T) {
	for name, life := range map[string]string{"before the restart": "1", "after the restart": "2"} {
		t.Run(name, func(t *testing.T) {
			w, executor := markedWorld(t)
			w.reconcile()
			w.live(life)
			w.ledger = scheduler.NewLedger(w)
			w.r.ledger, w.r.memories = w.ledger, newMemories()
			w.news()
			if c := w.ledger.Counts(w.key); c.Idle != 0 || c.Starting != 1 {
				t.Fatalf("counts %+v", c)
			}
			w.reconcile()
			w.live("2")
			w.settled()
			if executor.checked != 1 || w.marked() || w.pool().Status.Available != 1 {
				t.Errorf("checked %d times, marked %t, status %+v", executor.checked, w.marked(), w.pool().Status)
			}
		})
	}
}

func TestAPodThatChangedAsItWasUnmarkedIsLookedAtAgain(t *testing.T) {
	w, executor := markedWorld(t)
	w.live("2")
	w.onCached = func(obj client.Object) {
		if pod, ok := obj.(*corev1.Pod); ok {
			w.onCached = nil
			w.setStatus(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ContainerID = "c://sandbox3" })
			_ = pod // it is what the cache had before
		}
	}
	w.reconcile()
	if !w.marked() {
		t.Fatal("a pod was unmarked by what it was before")
	}
	w.settled()
	if w.marked() || executor.checked < 2 {
		t.Errorf("marked %t, checked %d times", w.marked(), executor.checked)
	}
}

func TestPodsAreMadeWithoutRestartRulesWhereTheAPIServerRefusesThem(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(1, 1).Template(restartable).Obj()
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleRestart}
	w := newWorld(t, pool)
	w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		if len(pod.Spec.Containers[1].RestartPolicyRules) == 0 {
			return c.Create(ctx, pod)
		}
		err := apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), pod.Name, nil)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Field: "spec.containers[1].restartPolicyRules[0].action"}}
		return err
	}
	w.reconcile()
	pods := w.pods()
	if len(pods) != 1 || pods[0].Spec.Containers[1].RestartPolicy != nil || w.creates != 2 {
		t.Errorf("%d pods after %d creates: %+v", len(pods), w.creates, pods)
	}
}

func TestOnlyTheTypeRestartGivesRestartRules(t *testing.T) {
	for how, want := range map[v1alpha1.RecycleType]bool{"": false, v1alpha1.RecycleDelete: false, v1alpha1.RecycleNoop: false, v1alpha1.RecycleRestart: true} {
		pool := wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(1, 1).Template(restartable).Obj()
		pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: how}
		w := newWorld(t, pool)
		w.reconcile()
		if got := len(w.pods()[0].Spec.Containers[1].RestartPolicyRules) > 0; got != want {
			t.Errorf("type %q: rules %t, want %t", how, got, want)
		}
	}
}

func TestAPodThatIsRestartedOnPurposeFailsNot(t *testing.T) {
	w, _ := markedWorld(t)
	w.setStatus(func(pod *corev1.Pod) {
		pod.Status.Conditions = nil
		pod.Status.ContainerStatuses[0] = corev1.ContainerStatus{
			Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		}
	})
	w.reconcile()
	w.after(time.Second)
	w.reconcile()
	if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
}
