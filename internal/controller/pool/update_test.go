// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/test/wrappers"
)

const (
	oldTemplate   = `{"spec":{"containers":[{"name":"sandbox","image":"ubuntu:latest"}]}}`
	newerTemplate = `{"spec":{"containers":[{"name":"sandbox","image":"ubuntu:newer"}]}}`
)

// updatePool is a pool with this update budget; "" leaves it unset.
func updatePool(bufferMin, bufferMax, poolMax int32, budget string) *v1alpha1.Pool {
	p := wrappers.MakePool(namespace, "p").Buffer(bufferMin, bufferMax).Size(0, poolMax).Template(oldTemplate).Obj()
	if budget != "" {
		v := intstr.Parse(budget)
		p.Spec.UpdateStrategy = &v1alpha1.UpdateStrategy{MaxUnavailable: &v}
	}
	return p
}

// updateWorld is a pool whose pods are Ready.
func updateWorld(t *testing.T, pool *v1alpha1.Pool) *world {
	t.Helper()
	w := newWorld(t, pool)
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.after(time.Second)
	w.settled()
	w.creates, w.deletes = 0, 0
	w.told()
	return w
}

func (w *world) setTemplate(json string) {
	w.t.Helper()
	w.edit(func(p *v1alpha1.Pool) {
		p.Spec.Template = wrappers.MakePool(namespace, "p").Template(json).Spec.Template
	})
}

// updated lets pods become Ready, wave by wave, until the pool rests; it returns the least number of idle pods seen.
func (w *world) updated() int {
	w.t.Helper()
	least := w.ledger.Counts(w.key).Idle
	for range 40 {
		writes := w.creates + w.deletes + w.patches
		w.reconcile()
		w.news()
		least = min(least, w.ledger.Counts(w.key).Idle)
		w.setStatus(w.becomeReady)
		w.after(time.Second)
		if writes == w.creates+w.deletes+w.patches {
			return least
		}
	}
	w.t.Fatal("the pool doesn't settle")
	return 0
}

func TestNewTemplateReplacesIdlePodsWithinTheBudget(t *testing.T) {
	tests := map[string]struct {
		pool      *v1alpha1.Pool
		size      int
		wantLeast int
	}{
		"one at a time":                         {updatePool(6, 6, 10, "1"), 6, 5},
		"a quarter if unset, rounded up":        {updatePool(6, 6, 10, ""), 6, 4},
		"all at once":                           {updatePool(6, 6, 12, "100%"), 6, 0},
		"inside the band, where nothing is low": {updatePool(2, 10, 20, "2"), 6, 4},
		"where the pool has as many as it may":  {updatePool(6, 6, 6, "1"), 6, 5},
		"above a bufferMax that is below poolMin": {func() *v1alpha1.Pool {
			p := updatePool(0, 1, 10, "1")
			p.Spec.CapacitySpec.PoolMin = 6
			return p
		}(), 6, 5},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := updateWorld(t, tt.pool)
			if got := w.ledger.Counts(w.key).Idle; got != tt.size {
				t.Fatalf("%d idle before, want %d", got, tt.size)
			}
			w.setTemplate(newerTemplate)
			least := w.updated()
			if least != tt.wantLeast {
				t.Errorf("%d idle at the least, want %d", least, tt.wantLeast)
			}
			if w.creates != tt.size || w.deletes != tt.size {
				t.Errorf("%d creates and %d deletes, want %d of each", w.creates, w.deletes, tt.size)
			}
			if n := w.ledger.Counts(w.key); n.Idle != tt.size || n.Updated != tt.size {
				t.Errorf("at the end: %+v, want %d idle and updated", n, tt.size)
			}
			if told := strings.Join(w.told(), "\n"); !strings.Contains(told, "Normal Updating Deleted ") {
				t.Errorf("events %q, want one about the update", told)
			}
		})
	}
}

func TestBudgetOfNoneLeavesIdlePodsAlone(t *testing.T) {
	for _, budget := range []string{"0", "0%"} {
		w := updateWorld(t, updatePool(2, 2, 10, budget))
		before := w.podNames()
		w.setTemplate(newerTemplate)
		w.updated()
		if got := w.podNames(); got != before || w.ledger.Counts(w.key).Updated != 0 {
			t.Errorf("budget %s: pods %q, want %q", budget, got, before)
		}
	}
}

func TestHeldPodIsReplacedOnlyAfterItsRelease(t *testing.T) {
	w := updateWorld(t, updatePool(2, 4, 10, "100%"))
	w.hold("b", 2)
	batch := types.NamespacedName{Namespace: namespace, Name: "b"}
	held := w.ledger.Holdings(batch, "b")
	w.setTemplate(newerTemplate)
	w.updated()
	for _, h := range held {
		if !strings.Contains(w.podNames(), h.PodName) {
			t.Fatalf("held pod %s is gone; there are %s", h.PodName, w.podNames())
		}
	}
	w.ledger.ReleaseAll(batch) // as Noop does: the pods are idle again
	w.updated()
	for _, h := range held {
		if strings.Contains(w.podNames(), h.PodName) {
			t.Errorf("released pod %s is still there: %s", h.PodName, w.podNames())
		}
	}
	if n := w.ledger.Counts(w.key); n.StaleIdle != 0 || n.Idle < 2 || n.Idle > 4 {
		t.Errorf("at the end: %+v", n)
	}
}

func TestStartingPodsOfABrokenTemplateAreReplaced(t *testing.T) {
	w := newWorld(t, updatePool(4, 4, 10, "1"))
	w.reconcile()
	w.news()
	crash := func(pod *corev1.Pod) {
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		}}}
	}
	w.setStatus(crash)
	w.settled()
	w.creates, w.deletes = 0, 0
	w.setTemplate(newerTemplate)
	w.updated()
	if n := w.ledger.Counts(w.key); n.Idle != 4 || n.Updated != 4 || w.creates != 4 || w.deletes != 4 {
		t.Errorf("%+v after %d creates and %d deletes, want 4 idle after 4 and 4", n, w.creates, w.deletes)
	}
}

func TestBrokenNewTemplateKeepsTheOldPods(t *testing.T) {
	revision := func(w *world) string { return podtemplate.Revision(w.pool().Spec.Template) }
	// fail gives every pod of the new revision this status.
	fail := func(w *world, status corev1.PodStatus) {
		current := revision(w)
		w.setStatus(func(pod *corev1.Pod) {
			if pod.Labels[v1alpha1.PoolRevisionLabel] == current {
				pod.Status = *status.DeepCopy()
			}
		})
	}
	waiting := corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "sandbox", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
	}}}
	crashed := waiting.DeepCopy()
	crashed.Phase, crashed.ContainerStatuses[0].State.Waiting.Reason = corev1.PodRunning, "CrashLoopBackOff"
	tests := map[string]struct {
		step    func(w *world, round int)
		wantOld int
		most    int // creates in 10 minutes
	}{
		"its image can't be pulled": {func(w *world, _ int) { fail(w, waiting) }, 4, 5},
		"its pods crash, and are Ready for a moment between": {func(w *world, round int) {
			fail(w, *crashed)
			w.reconcile()
			if round%3 == 2 {
				fail(w, readyStatus(w.clock.Now()))
			}
		}, 4, 2},
		"its pods end at once": {func(w *world, _ int) { fail(w, corev1.PodStatus{Phase: corev1.PodFailed}) }, 4, 16},
		"its pods end after a moment of being Ready": {func(w *world, _ int) {
			current := revision(w)
			w.setStatus(func(pod *corev1.Pod) {
				switch {
				case pod.Labels[v1alpha1.PoolRevisionLabel] != current:
				case pod.Status.Phase == corev1.PodRunning:
					pod.Status = corev1.PodStatus{Phase: corev1.PodFailed}
				default:
					pod.Status = readyStatus(w.clock.Now())
				}
			})
		}, 2, 20},
		"its pods are refused": {func(w *world, _ int) { w.onCreate = invalidPod }, 4, 16},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := updateWorld(t, updatePool(2, 10, 20, "2"))
			w.setTemplate(newerTemplate)
			if strings.Contains(name, "refused") {
				tt.step(w, 0)
			}
			for round := range 60 { // 10 minutes
				_, _ = w.tryReconcile() // a refusal is told in the status
				w.news()
				tt.step(w, round)
				w.after(10 * time.Second)
			}
			old := 0
			for _, pod := range w.pods() {
				if pod.Labels[v1alpha1.PoolRevisionLabel] != revision(w) {
					old++
				}
			}
			if old < tt.wantOld || w.creates > tt.most {
				t.Errorf("%d old pods after %d creates, want at least %d after at most %d", old, w.creates, tt.wantOld, tt.most)
			}
			w.onCreate = nil
			w.setTemplate(oldTemplate) // the user takes it back: the old pods are current again
			w.updated()
			if n := w.ledger.Counts(w.key); n.Idle < 5 || n.StaleIdle+n.StaleStarting > 0 {
				t.Errorf("after the template was taken back: %+v, want 6 idle or one less", n)
			}
		})
	}
}

func TestNothingIsReplacedWhileDeletesFail(t *testing.T) {
	w := updateWorld(t, updatePool(4, 4, 10, "1"))
	w.onDelete = func(*corev1.Pod) error { return context.DeadlineExceeded }
	w.setTemplate(newerTemplate)
	if _, err := w.tryReconcile(); err == nil {
		t.Error("no error, want that of the delete")
	}
	for range 3 {
		w.reconcile()
	}
	if n := w.ledger.Counts(w.key); n.Idle != 4 || w.deletes != 1 || w.creates != 0 {
		t.Errorf("%+v after %d deletes and %d creates, want 4 idle after one delete", n, w.deletes, w.creates)
	}
	w.onDelete = nil
	w.after(firstWait)
	w.updated()
	if n := w.ledger.Counts(w.key); n.Idle != 4 || n.Updated != 4 || w.creates != 4 {
		t.Errorf("%+v after %d creates, want 4 updated", n, w.creates)
	}
}

func TestPodsThatAreGoingTakeRoomUnderPoolMax(t *testing.T) {
	pool := updatePool(3, 3, 3, "1")
	pool.Spec.Template = wrappers.MakePool(namespace, "p").
		Template(`{"metadata":{"finalizers":["example.com/slow"]},"spec":{"containers":[{"name":"sandbox"}]}}`).Spec.Template
	w := updateWorld(t, pool)
	w.setTemplate(newerTemplate)
	for range 5 {
		w.reconcile()
		w.news()
		w.after(time.Second)
	}
	if w.creates != 0 || w.deletes != 1 {
		t.Errorf("%d creates and %d deletes while the first pod is going, want 0 and 1", w.creates, w.deletes)
	}
	w.r.memories = newMemories() // a new process knows of no debt, and replaces no second one either
	w.reconcile()
	if w.creates != 0 || w.deletes != 1 {
		t.Errorf("%d creates and %d deletes after a restart, want 0 and 1", w.creates, w.deletes)
	}
	for _, pod := range w.pods() {
		if pod.DeletionTimestamp != nil {
			pod.Finalizers = nil
			if err := w.client.Update(context.Background(), pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.news()
	w.reconcile()
	if w.creates != 1 || w.deletes != 1 {
		t.Errorf("%d creates and %d deletes once it is gone, want 1 and 1", w.creates, w.deletes)
	}
}

func TestPoolOfAnOlderControllerIsAdopted(t *testing.T) {
	foreign := ""
	adopted := func(t *testing.T, observedGeneration int64) *world {
		t.Helper()
		pool := updatePool(3, 3, 10, "1")
		pool.Status.Revision, pool.Status.ObservedGeneration = foreign, observedGeneration
		template, err := podtemplate.Decode(pool.Spec.Template)
		if err != nil {
			t.Fatal(err)
		}
		var pods []*corev1.Pod
		for i := range 3 {
			pod := desiredPod(pool, template, foreign, fmt.Sprintf("p-old%d", i))
			pod.UID, pod.Status = types.UID("uid-"+pod.Name), readyStatus(time.Time{})
			pods = append(pods, pod)
		}
		return newWorld(t, pool, pods...)
	}
	for _, foreign = range []string{"6f9c0d2e", "0123456789"} { // the second looks like one of ours
		t.Run("its idle pods are current, also after a restart and an edit of its size: "+foreign, func(t *testing.T) {
			w := adopted(t, 1)
			w.updated()
			w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 12 })
			w.updated()
			w.r.memories = newMemories()
			w.updated()
			if status := w.pool().Status; w.deletes != 0 || w.creates != 0 || status.Updated != 3 || status.Revision != foreign {
				t.Errorf("%d deletes, %d creates, status %+v, want none and 3 updated of %s", w.deletes, w.creates, status, foreign)
			}
			w.setTemplate(newerTemplate)
			w.updated()
			if n := w.ledger.Counts(w.key); n.Updated != 3 || w.deletes != 3 || w.pool().Status.Revision == foreign {
				t.Errorf("%+v after %d deletes, want 3 updated after 3", n, w.deletes)
			}
		})
	}
	t.Run("a template that comes back has its own revision", func(t *testing.T) {
		w := adopted(t, 1)
		w.updated()
		w.setTemplate(newerTemplate)
		w.updated()
		newer := w.pool().Status.Revision
		w.edit(func(p *v1alpha1.Pool) { p.Spec.Template = updatePool(3, 3, 10, "1").Spec.Template })
		w.updated()
		if status := w.pool().Status; status.Revision == newer || status.Updated != 3 {
			t.Errorf("status %+v, want another revision than %s", status, newer)
		}
	})
	t.Run("not where its spec changed meanwhile", func(t *testing.T) {
		w := adopted(t, 0)
		w.updated()
		if n := w.ledger.Counts(w.key); n.Updated != 3 || w.deletes != 3 {
			t.Errorf("%+v after %d deletes, want 3 updated after 3", n, w.deletes)
		}
	})
}

func TestUpdateBudget(t *testing.T) {
	tests := map[string]struct {
		budget string
		counts scheduler.Counts
		owed   int
		want   int
	}{
		"a quarter if unset": {"", scheduler.Counts{Idle: 8}, 0, 2},
		"rounded up":         {"", scheduler.Counts{Idle: 1}, 0, 1},
		"of those that start and that are owed too": {"50%", scheduler.Counts{Idle: 2, Starting: 2, Held: 9}, 2, 3},
		"a number is itself":                        {"3", scheduler.Counts{Idle: 1}, 0, 3},
		"none":                                      {"0", scheduler.Counts{Idle: 8}, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := updateBudget(updatePool(1, 1, 1, tt.budget), tt.counts, tt.owed); got != tt.want {
				t.Errorf("budget %d, want %d", got, tt.want)
			}
		})
	}
}

func TestPlanUpdateIsHeldBack(t *testing.T) {
	pool := updatePool(4, 4, 10, "1")
	fine := observed{template: &corev1.PodTemplateSpec{}, counts: scheduler.Counts{Idle: 4, StaleIdle: 4}}
	if got := planUpdate(pool, fine).Replace; got != 1 {
		t.Fatalf("nothing is wrong: replaces %d, want 1", got)
	}
	for name, change := range map[string]func(*observed){
		"by an invalid spec":                   func(o *observed) { o.invalid = &problem{} },
		"by a template that can't be read":     func(o *observed) { o.template = nil },
		"by refused creates":                   func(o *observed) { o.creates.failing = true },
		"by pods that ended":                   func(o *observed) { o.endings.failing = true },
		"by pods that crash":                   func(o *observed) { o.crashes = time.Second },
		"by deletes that wait after a failure": func(o *observed) { o.deletes.wait = time.Second },
	} {
		obs := fine
		change(&obs)
		if got := planUpdate(pool, obs).Replace; got != 0 {
			t.Errorf("%s: replaces %d, want 0", name, got)
		}
	}
}

func TestEndOfAnOldPodSaysNothingAboutTheNewTemplate(t *testing.T) {
	w := updateWorld(t, updatePool(3, 3, 10, "0"))
	w.setTemplate(newerTemplate)
	w.settled()
	w.setStatus(func(pod *corev1.Pod) { pod.Status = corev1.PodStatus{Phase: corev1.PodFailed} })
	w.updated()
	if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
	if n := w.ledger.Counts(w.key); n.Idle != 3 || n.Updated != 3 || w.creates != 3 {
		t.Errorf("%+v after %d creates, want 3 updated", n, w.creates)
	}
}
