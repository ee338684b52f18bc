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
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/recycling"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

func TestPlanRecycle(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := recycleMemory{seen: now}
	pausing := recycleMemory{seen: now, askAt: now.Add(2 * time.Second), checkAt: now.Add(3 * time.Second)}
	clean := &taskexecutor.RecycleState{ID: "batch", Clean: true}
	for name, c := range map[string]struct {
		facts      recycleFacts
		want       recycleAction
		wantReason string
		wantWait   time.Duration
	}{
		"mark unreadable":                           {recycleFacts{markErr: errors.New("no mark"), memory: fresh}, recycleDelete, "no mark", 0},
		"just marked":                               {recycleFacts{memory: fresh}, recycleAsk, "", recycleLimit},
		"asked a moment ago":                        {recycleFacts{memory: pausing}, recycleWait, "", 2 * time.Second},
		"its executor alone was restarted":          {recycleFacts{memory: fresh, progress: recycling.Alone}, recycleDelete, "alone", 0},
		"restarting":                                {recycleFacts{memory: fresh, progress: recycling.Restarting}, recycleWait, "", recycleLimit},
		"restarted":                                 {recycleFacts{memory: fresh, progress: recycling.Restarted}, recycleCheck, "", recycleLimit},
		"checked a moment ago":                      {recycleFacts{memory: pausing, progress: recycling.Restarted}, recycleWait, "", 3 * time.Second},
		"asked, then restarted":                     {recycleFacts{memory: recycleMemory{seen: now, askAt: now.Add(askAgain)}, progress: recycling.Restarted}, recycleCheck, "", recycleLimit},
		"proven clean":                              {recycleFacts{memory: fresh, progress: recycling.Restarted, report: clean}, recycleUnmark, "", 0},
		"clean, says a container the last user had": {recycleFacts{memory: fresh, report: clean}, recycleAsk, "", recycleLimit},
		"clean, by another recycling": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "older", Clean: true},
		}, recycleDelete, "did not come back", 0},
		"unclean": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "batch", Reasons: []string{"a", "b"}},
		}, recycleDelete, "a; b", 0},
		"clean, but with reasons why not": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{ID: "batch", Clean: true, Reasons: []string{"a"}},
		}, recycleDelete, "a", 0},
		"an empty report": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{},
		}, recycleDelete, "did not come back", 0},
		"clean, by no recycling": {recycleFacts{
			memory: fresh, progress: recycling.Restarted, report: &taskexecutor.RecycleState{Clean: true},
		}, recycleDelete, "did not come back", 0},
		"too late by its mark, though just seen": {recycleFacts{
			mark: recycling.Mark{Since: now.Add(-recycleLimit)}, memory: fresh, progress: recycling.Restarted, report: clean,
		}, recycleDelete, "within", 0},
		"half of its time is over by its mark": {recycleFacts{
			mark: recycling.Mark{Since: now.Add(-recycleLimit / 2)}, memory: fresh, progress: recycling.Restarting,
		}, recycleWait, "", recycleLimit / 2},
		"its executor obeys another root": {recycleFacts{disobeys: true, memory: fresh}, recycleDelete, "another root", 0},
		"its executor obeys another root since its restart": {
			recycleFacts{disobeys: true, memory: pausing, progress: recycling.Restarting}, recycleDelete, "another root", 0,
		},
		"its executor knows nothing of it": {recycleFacts{memory: recycleMemory{seen: now, refused: true}}, recycleDelete, "doesn't know how", 0},
		"too late":                         {recycleFacts{memory: recycleMemory{seen: now.Add(-recycleLimit)}, progress: recycling.Restarting}, recycleDelete, "within 1m0s", 0},
		"too late, though clean":           {recycleFacts{memory: recycleMemory{seen: now.Add(-recycleLimit)}, progress: recycling.Restarted, report: clean}, recycleDelete, "within", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c.facts.now, c.facts.mark.Batch = now, "batch"
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
	w.answeredBy(executor)
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
	pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: recycling.MarkOf(pod, "batch", w.clock.Now()).Encode()}
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
	if s := w.pool().Status; s.Available != 1 || s.Recycled != 1 || s.Replaced != 0 || w.deletes != 0 || w.creates != 1 {
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
		"restarted by a node that knows no rules": {func(w *world, _ *fakeExecutor) {
			w.setStatus(func(pod *corev1.Pod) { pod.Status.ContainerStatuses[1].ContainerID = "c://task-executor2" })
		}, "task-executor alone"},
		"marked a minute ago, before this controller started": {func(w *world, _ *fakeExecutor) {
			w.live("2")
			w.after(recycleLimit)
		}, "within 1m0s"},
		"an executor that answers nonsense": {func(w *world, e *fakeExecutor) {
			e.state = taskexecutor.RecycleState{Clean: true}
			w.live("2")
		}, "did not come back"},
		"an executor that agrees and never exits": {func(w *world, _ *fakeExecutor) {
			for range 6 {
				w.reconcile()
				w.after(askAgain)
			}
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
			if s := w.pool().Status; s.Recycled != 0 || s.Replaced != 1 {
				t.Errorf("status %+v, want one pod replaced and none recycled", s)
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
			w.answeredBy(executor)
			w.news()
			if c := w.ledger.Counts(w.key); c.Idle != 0 || c.Starting != 1 {
				t.Fatalf("counts %+v", c)
			}
			w.reconcile()
			w.live("2")
			w.settled()
			if executor.checked == 0 || w.marked() || w.pool().Status.Available != 1 {
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

// stuckExecutor never answers before the test says so.
type stuckExecutor struct{ free chan struct{} }

func (e stuckExecutor) Recycle(context.Context, string) error { <-e.free; return nil }
func (e stuckExecutor) Recycled(context.Context) (taskexecutor.RecycleState, error) {
	<-e.free
	return taskexecutor.RecycleState{}, errors.New("too late")
}

func TestAnExecutorThatDoesNotAnswerDelaysNothing(t *testing.T) {
	w, _ := markedWorld(t)
	w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax, p.Spec.CapacitySpec.PoolMin = 2, 2 })
	stuck := stuckExecutor{free: make(chan struct{})}
	w.answeredBy(stuck)
	if _, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.key}); err != nil { // and it comes back
		t.Fatal(err)
	}
	if s := w.pool().Status; w.creates != 2 || s.Total != 2 || s.Starting != 2 {
		t.Errorf("%d creates, status %+v", w.creates, s)
	}
	close(stuck.free)
	w.calls.Wait()
}

func TestReleasedPodsAreCountedOnce(t *testing.T) {
	shown := func(recycled, replaced int64) *v1alpha1.Pool {
		return &v1alpha1.Pool{Status: v1alpha1.PoolStatus{Recycled: recycled, Replaced: replaced}}
	}
	var m memory
	for _, step := range []struct {
		what     string
		status   *v1alpha1.Pool // as the cache shows it
		since    scheduler.Released
		unmarked int64
		want     scheduler.Released
	}{
		{"after a start the status counts on", shown(5, 7), scheduler.Released{}, 0, scheduler.Released{Recycled: 5, Replaced: 7}},
		{"one is restarted, one handed on, one deleted", shown(5, 7), scheduler.Released{Recycled: 1, Replaced: 1}, 1, scheduler.Released{Recycled: 7, Replaced: 8}},
		{"the write failed", shown(5, 7), scheduler.Released{}, 0, scheduler.Released{Recycled: 7, Replaced: 8}},
		{"it landed after all", shown(7, 8), scheduler.Released{}, 0, scheduler.Released{Recycled: 7, Replaced: 8}},
		{"the cache is behind again", shown(5, 7), scheduler.Released{Replaced: 1}, 0, scheduler.Released{Recycled: 7, Replaced: 9}},
		{"another controller counted in between", shown(20, 30), scheduler.Released{}, 1, scheduler.Released{Recycled: 21, Replaced: 30}},
	} {
		m.unmarked += step.unmarked
		if got := m.countReleased(step.status, step.since); got != step.want {
			t.Errorf("%s: %+v, want %+v", step.what, got, step.want)
		}
	}
}

func TestACountThatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	w, _ := markedWorld(t)
	w.live("2")
	failed := 0
	w.onStatus = func() error {
		if failed++; failed > 3 {
			return nil
		}
		return apierrors.NewServerTimeout(v1alpha1.GroupVersion.WithResource("pools").GroupResource(), "patch", 1)
	}
	for range 8 {
		_, _ = w.tryReconcile() // some fail, as said
		w.news()
		w.after(statusPace)
	}
	if s := w.pool().Status; s.Recycled != 1 || s.Replaced != 0 || failed < 4 {
		t.Errorf("status %+v after %d writes", s, failed)
	}
}

// Without somebody who asked for it, that a pod is deleted is nothing to warn of.
func TestUnderTheDefaultAPodThatIsReplacedIsNoWarning(t *testing.T) {
	for how, want := range map[v1alpha1.RecycleType]string{"": "Normal", v1alpha1.RecycleRestart: "Warning"} {
		w, executor := markedWorld(t)
		w.edit(func(p *v1alpha1.Pool) { p.Spec.RecycleStrategy.Type = how })
		executor.state = taskexecutor.RecycleState{ID: "batch", Reasons: []string{"/etc/hosts was changed"}}
		w.live("2")
		w.settled()
		if told := strings.Join(w.told(), "\n"); !strings.Contains(told, want+" PodNotRecycled") {
			t.Errorf("type %q: events %q, want the kind %s", how, told, want)
		}
	}
}
