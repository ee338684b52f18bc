// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/test/wrappers"
)

func TestNewPoolIsFilledAndThenLeftAlone(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 4).Obj())
	w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		if !controllerutil.ContainsFinalizer(w.pool(), v1alpha1.PoolAllocationFinalizer) {
			t.Error("a pod is created before the pool has its finalizer")
		}
		return c.Create(ctx, pod)
	}
	w.reconcile()
	if got, want := w.podNames(), "p-00001 p-00002 p-00003"; got != want {
		t.Fatalf("pods %q, want %q", got, want)
	}
	status := w.pool().Status
	if status.Total != 3 || status.Starting != 3 || status.Available != 0 || status.Updated != 3 || status.ObservedGeneration != 1 {
		t.Errorf("status after the create: %+v", status)
	}
	if got, want := w.condition(v1alpha1.ConditionReady), "False/BufferLow"; got != want {
		t.Errorf("Ready is %s, want %s", got, want)
	}
	if want := "create 3 pods: buffer 0 is below bufferMin 2, target is 3"; status.LastScaleReason != want {
		t.Errorf("lastScaleReason %q, want %q", status.LastScaleReason, want)
	}
	wantEvents := []string{"Normal ScaledUp Created 3 pods (create 3 pods: buffer 0 is below bufferMin 2, target is 3)"}
	if diff := cmp.Diff(wantEvents, w.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}

	w.setStatus(w.becomeReady)
	w.after(time.Second)
	w.settled()
	if got, want := w.condition(v1alpha1.ConditionReady), "True/BufferReady"; got != want {
		t.Errorf("Ready is %s, want %s", got, want)
	}
	if status := w.pool().Status; status.Available != 3 || status.Starting != 0 {
		t.Errorf("status when ready: %+v", status)
	}
	writes := w.creates + w.deletes + w.patches
	for range 3 {
		w.after(time.Hour)
		if res := w.reconcile(); res != (ctrl.Result{}) {
			t.Errorf("a pool at rest asks for another reconcile: %+v", res)
		}
	}
	if got := w.creates + w.deletes + w.patches; got != writes {
		t.Errorf("%d writes at rest, want none", got-writes)
	}
}

// A leader that was frozen knows nothing of the pods that the next one made and gave to batches.
func TestALeaderThatMayHaveBeenDeposedNeitherMakesNorDeletesPods(t *testing.T) {
	for name, c := range map[string]struct {
		capacity v1alpha1.CapacitySpec
		want     int // pods, once it leads again
	}{
		"too few":  {v1alpha1.CapacitySpec{BufferMin: 2, BufferMax: 2, PoolMax: 9}, 2},
		"too many": {v1alpha1.CapacitySpec{BufferMax: 0, PoolMax: 9}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			pool := wrappers.MakePool(namespace, "p").Obj()
			pool.Spec.CapacitySpec = v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 1, PoolMax: 9}
			w := newWorld(t, pool)
			w.settled()
			w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec = c.capacity })
			w.creates, w.deletes, w.deposed = 0, 0, true
			for range 2 {
				w.after(time.Minute)
				if _, err := w.tryReconcile(); !errors.Is(err, leading.ErrLost) {
					t.Errorf("got %v, want %v", err, leading.ErrLost)
				}
			}
			if w.creates+w.deletes > 0 || w.podNames() != "p-00001" {
				t.Errorf("%d creates and %d deletes, and there is %q", w.creates, w.deletes, w.podNames())
			}
			w.deposed = false
			w.after(time.Minute)
			w.settled()
			if got := len(w.pods()); got != c.want {
				t.Errorf("there are %d pods, want %d", got, c.want)
			}
		})
	}
}

func TestPodsOnTheirWayAreNotMadeTwice(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(3, 3).Obj())
	w.reconcile()
	for range 5 { // the watch is behind: the ledger has no news
		w.reconcile()
	}
	if w.creates != 3 {
		t.Errorf("%d creates, want 3", w.creates)
	}
}

func TestLostReplyIsSettledByARead(t *testing.T) {
	timeout := apierrors.NewTimeoutError("the reply is lost", 1)
	t.Run("the pod is there: it counts, and nothing waits", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
			return errors.Join(c.Create(ctx, pod), timeout)
		}
		w.reconcile()
		w.settled()
		if got, want := w.podNames(), "p-00001 p-00002"; got != want {
			t.Errorf("pods %q, want %q", got, want)
		}
	})
	t.Run("the client repeated a create that had landed: it counts", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
		w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
			return errors.Join(c.Create(ctx, pod), apierrors.NewAlreadyExists(corev1.Resource("pods"), pod.Name))
		}
		w.settled()
		if got, want := w.podNames(), "p-00001 p-00002"; got != want {
			t.Errorf("pods %q, want %q", got, want)
		}
	})
	t.Run("the create was dropped: the pod is made again, after a wait", func(t *testing.T) {
		for name, dropped := range map[string]error{
			"too much to do": apierrors.NewTooManyRequests("later", 1),
			"a quota":        apierrors.NewConflict(corev1.Resource("resourcequotas"), "ten", errors.New("the object has been modified")),
			"a webhook":      apierrors.NewInternalError(errors.New("failed calling webhook \"w\"")),
			"not reached":    &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		} {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
			w.onCreate = func(context.Context, client.WithWatch, *corev1.Pod) error { return dropped }
			_, _ = w.tryReconcile() // a conflict is none of the user's business
			if n := w.ledger.Counts(w.key); n.Starting != 0 {
				t.Errorf("%s: the ledger still counts the pod: %+v", name, n)
			}
			w.onCreate = nil
			if res := w.reconcile(); w.creates != 1 || res.RequeueAfter != firstWait {
				t.Errorf("%s: %d creates and %+v at once, want 1 and a wait of %v", name, w.creates, res, firstWait)
			}
			w.after(firstWait)
			w.settled()
			if got, want := w.podNames(), "p-00002"; got != want {
				t.Errorf("%s: pods %q, want %q", name, got, want)
			}
		}
	})
	t.Run("it can't be told: the pod counts for a minute, and is then made again", func(t *testing.T) {
		for name, read := range map[string]func() error{
			"the API server doesn't know it": nil,
			"the read fails too":             func() error { return timeout },
		} {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
			w.onCreate = func(context.Context, client.WithWatch, *corev1.Pod) error { return timeout }
			w.onRead = read
			if _, err := w.tryReconcile(); !apierrors.IsTimeout(err) {
				t.Fatalf("%s: reconcile: %v, want the timeout", name, err)
			}
			w.onCreate, w.onRead = nil, nil
			res := w.reconcile()
			if n := w.ledger.Counts(w.key); n.Starting != 1 || w.creates != 1 || res.RequeueAfter != landsWithin {
				t.Errorf("%s: %d creates, %+v and a wait of %v, want 1, 1 starting and %v", name, w.creates, n, res.RequeueAfter, landsWithin)
			}
			w.after(landsWithin)
			w.settled()
			if got, want := w.podNames(), "p-00002"; got != want {
				t.Errorf("%s: pods %q, want %q", name, got, want)
			}
		}
	})
	t.Run("nobody can be asked: the pod counts until somebody answers", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
		w.onCreate = func(context.Context, client.WithWatch, *corev1.Pod) error { return timeout }
		w.onRead = func() error { return timeout }
		for range 4 {
			if _, err := w.tryReconcile(); err == nil {
				t.Error("reconcile: no error, want the timeout")
			}
			w.after(landsWithin)
		}
		if n := w.ledger.Counts(w.key); n.Starting != 1 || w.creates != 1 {
			t.Errorf("%d creates and %+v, want 1 and 1 starting", w.creates, n)
		}
		w.onCreate, w.onRead = nil, nil
		w.settled()
		if got, want := w.podNames(), "p-00002"; got != want {
			t.Errorf("pods %q, want %q", got, want)
		}
	})
}

func TestCreatesThatLandLateDoNotTakeThePoolAbovePoolMax(t *testing.T) {
	timeout := apierrors.NewTimeoutError("the reply is lost", 1)
	for name, tt := range map[string]struct {
		late     time.Duration
		wantMost int
	}{
		"within the minute a request may take": {landsWithin - time.Second, 3},
		"after it":                             {landsWithin + time.Second, 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(3, 3).Size(0, 3).Obj())
			var lost *corev1.Pod
			w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
				if lost == nil && pod.Name == "p-00001" {
					lost = pod.DeepCopy()
					return timeout
				}
				return c.Create(ctx, pod)
			}
			began, most := w.clock.Now(), 0
			step := func() {
				_, _ = w.tryReconcile()
				w.setStatus(w.becomeReady)
				most = max(most, len(w.pods()))
				w.after(time.Second)
			}
			for w.clock.Now().Sub(began) < tt.late {
				step()
			}
			if err := w.client.Create(context.Background(), lost); err != nil {
				t.Fatal(err)
			}
			most = max(most, len(w.pods()))
			w.news()
			step()
			if got := len(w.pods()); most != tt.wantMost || got > 3 {
				t.Errorf("%d pods at most and %d after the next reconcile, want %d and no more than 3", most, got, tt.wantMost)
			}
			for range 5 {
				step()
			}
			if n := w.ledger.Counts(w.key); n.Idle != 3 || n.Starting+n.Terminating != 0 {
				t.Errorf("%+v, want 3 idle", n)
			}
		})
	}
}

func TestCreatedPodThatNoWatchShowsIsAskedFor(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	w.onCreate = func(context.Context, client.WithWatch, *corev1.Pod) error { return nil } // gone before it was seen
	w.reconcile()
	if res := w.reconcile(); res.RequeueAfter == 0 || res.RequeueAfter > seenWithin {
		t.Errorf("the next look is after %v, want at most %v", res.RequeueAfter, seenWithin)
	}
	w.onCreate = nil
	w.after(seenWithin)
	w.settled()
	if got, want := w.podNames(), "p-00002"; got != want {
		t.Errorf("pods %q, want %q", got, want)
	}
}

func TestNameOfAnotherPodIsNotTaken(t *testing.T) {
	stranger := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p-00001"}}
	t.Run("the cache shows it", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj(), stranger.DeepCopy())
		w.reconcile()
		if got, want := w.podNames(), "p-00001 p-00002"; got != want || w.creates != 1 {
			t.Errorf("pods %q after %d creates, want %q after 1", got, w.creates, want)
		}
	})
	t.Run("the API server says so", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
		w.onCreate = func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
			w.onCreate = nil
			if err := c.Create(ctx, stranger.DeepCopy()); err != nil {
				t.Fatal(err)
			}
			return c.Create(ctx, pod)
		}
		w.reconcile()
		if n := w.ledger.Counts(w.key); n.Total() != 0 {
			t.Errorf("the stranger's pod counts: %+v", n)
		}
		w.reconcile()
		if got, want := w.podNames(), "p-00001 p-00002"; got != want {
			t.Errorf("pods %q, want %q", got, want)
		}
	})
}

func TestRefusedPodsAreToldAndTriedLessAndLessOften(t *testing.T) {
	tests := map[string]struct {
		create func(context.Context, client.WithWatch, *corev1.Pod) error
		reason string
		text   string
	}{
		"the template is invalid": {invalidPod, "InvalidTemplate", "is invalid"},
		"a quota is used up":      {forbiddenPod, "PodsForbidden", "exceeded quota: ten"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(5, 5).Obj())
			w.onCreate = tt.create
			for range 4 {
				w.reconcile()
			}
			if w.creates != 1 {
				t.Errorf("%d creates at once, want 1", w.creates)
			}
			for _, kind := range []string{v1alpha1.ConditionPodsFailing, v1alpha1.ConditionReady} {
				c := meta.FindStatusCondition(w.pool().Status.Conditions, kind)
				if c == nil || c.Reason != tt.reason || !strings.Contains(c.Message, tt.text) {
					t.Errorf("%s is %+v, want %s with %q", kind, c, tt.reason, tt.text)
				}
			}
			told := w.told()
			if len(told) != 1 || !strings.HasPrefix(told[0], "Warning "+tt.reason+" ") {
				t.Errorf("events %q, want one Warning %s", told, tt.reason)
			}

			var waits []time.Duration
			for range 10 {
				res := w.reconcile()
				waits = append(waits, res.RequeueAfter)
				w.after(res.RequeueAfter)
				w.reconcile()
			}
			want := []time.Duration{
				1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
				64 * time.Second, 128 * time.Second, 256 * time.Second, 300 * time.Second,
			}
			if diff := cmp.Diff(want, waits); diff != "" {
				t.Errorf("waits (-want +got):\n%s", diff)
			}
			if w.creates != 11 {
				t.Errorf("%d creates, want one for each wait and the first", w.creates)
			}
			if told := w.told(); len(told) != 0 {
				t.Errorf("events %q for what was told before", told)
			}

			w.onCreate = nil
			w.edit(func(*v1alpha1.Pool) {})
			w.settled()
			if got := len(w.pods()); got != 5 {
				t.Errorf("%d pods after the edit, want 5", got)
			}
			if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
				t.Errorf("PodsFailing is %s, want %s", got, want)
			}
		})
	}
}

func TestEndedPodsMakeNoChurn(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(4, 4).Obj())
	crash := func(pod *corev1.Pod) {
		start := metav1.NewTime(w.clock.Now())
		pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "sandbox", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 3, Reason: "Error", StartedAt: start, FinishedAt: metav1.NewTime(start.Add(time.Second)),
			}},
		}}}
	}
	w.reconcile()
	first := w.creates
	began := w.clock.Now()
	for w.clock.Now().Sub(began) < time.Hour && w.creates < 100 {
		w.setStatus(crash)
		w.reconcile()
		w.news() // the pods are gone
		res := w.reconcile()
		w.after(max(res.RequeueAfter, time.Millisecond))
		w.reconcile()
	}
	if again := w.creates - first; first != 4 || again < 10 || again > 25 {
		t.Errorf("%d pods and then %d more in an hour, want 4 and about 20", first, again)
	}
	if got, want := w.condition(v1alpha1.ConditionPodsFailing), "True/PodsEnded"; got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
	c := meta.FindStatusCondition(w.pool().Status.Conditions, v1alpha1.ConditionPodsFailing)
	if !strings.Contains(c.Message, "container sandbox: Error, exit code 3") {
		t.Errorf("the message doesn't say how: %q", c.Message)
	}

	// The template works again: one pod at a time until one has been Ready for a minute, then all.
	w.after(longestWait)
	w.settled()
	if n := w.ledger.Counts(w.key); n.Starting != 1 {
		t.Fatalf("%+v, want 1 starting", n)
	}
	w.setStatus(w.becomeReady)
	w.settled()
	if n := w.ledger.Counts(w.key); n.Starting != 1 || n.Idle != 1 {
		t.Fatalf("%+v, want 1 starting beside the first", n)
	}
	res := w.reconcile()
	if res.RequeueAfter == 0 || res.RequeueAfter > provenAfter {
		t.Errorf("the next look is after %v, want at most %v", res.RequeueAfter, provenAfter)
	}
	w.after(provenAfter)
	w.settled()
	if n := w.ledger.Counts(w.key); n.Starting+n.Idle != 4 {
		t.Errorf("%+v, want 4 pods", n)
	}
	if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
		t.Errorf("PodsFailing is %s, want %s", got, want)
	}
}

func TestUnusablePodsAreDeletedAndReplacedAtOnce(t *testing.T) {
	tests := map[string]struct {
		label string
		ended bool
		age   time.Duration
	}{
		"marked for eviction":                {label: v1alpha1.EvictLabel},
		"left behind by a batch":             {label: v1alpha1.BatchNameLabel},
		"ended by the batch that had it":     {label: v1alpha1.BatchNameLabel, ended: true},
		"ended after it had run for an hour": {ended: true, age: time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
			w.reconcile()
			w.setStatus(w.becomeReady)
			w.after(tt.age)
			pod := w.pods()[0]
			if tt.label != "" {
				pod.Labels[tt.label] = "x"
				if err := w.client.Update(context.Background(), pod); err != nil {
					t.Fatal(err)
				}
			}
			if tt.ended {
				pod.Status.Phase = corev1.PodFailed
				if err := w.client.Status().Update(context.Background(), pod); err != nil {
					t.Fatal(err)
				}
			}
			w.news()
			w.settled()
			if got, want := w.podNames(), "p-00002 p-00003"; got != want {
				t.Errorf("pods %q, want %q", got, want)
			}
			if got, want := w.condition(v1alpha1.ConditionPodsFailing), "False/PodsHealthy"; got != want {
				t.Errorf("PodsFailing is %s, want %s", got, want)
			}
		})
	}
}

func TestShrinkSparesHeldPods(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(4, 4).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.hold("b", 2)
	held := map[string]bool{}
	for _, h := range w.ledger.Holdings(types.NamespacedName{Namespace: namespace, Name: "b"}, "b") {
		held[h.PodName] = true
	}
	w.settled() // grows to 4 unheld ones again
	w.setStatus(w.becomeReady)
	w.told()
	w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 0, 1 })
	w.settled()
	left := 0
	for _, pod := range w.pods() {
		if held[pod.Name] {
			left++
		}
	}
	if len(w.pods()) != 3 || left != 2 {
		t.Errorf("pods %q, want the 2 held ones and one more", w.podNames())
	}
	want := []string{"Normal ScaledDown Deleted 3 pods (delete 3 pods: buffer 4 is above bufferMax 1)"}
	if diff := cmp.Diff(want, w.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestDeleteThatFailsIsTriedAgainAfterAWait(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(3, 3).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 0, 0 })
	w.onDelete = func(pod *corev1.Pod) error {
		if pod.Name == "p-00003" {
			return apierrors.NewInternalError(errors.New("no"))
		}
		return nil
	}
	if _, err := w.tryReconcile(); !apierrors.IsInternalError(err) {
		t.Fatalf("reconcile: %v, want the API server's error", err)
	}
	w.news()
	if got, want := w.podNames(), "p-00003"; got != want {
		t.Errorf("pods %q, want %q: one failure keeps no other pod", got, want)
	}
	if n := w.ledger.Counts(w.key); n.Idle != 1 {
		t.Errorf("%+v, want the pod to be idle again", n)
	}
	deletes := w.deletes
	if res := w.reconcile(); w.deletes != deletes || res.RequeueAfter == 0 || res.RequeueAfter > firstWait {
		t.Errorf("%d deletes more at once and %+v, want none and a wait", w.deletes-deletes, res)
	}
	w.onDelete = nil
	w.after(firstWait)
	w.settled()
	if got := w.podNames(); got != "" {
		t.Errorf("pods %q, want none", got)
	}
}

func TestDeletesCarryTheUID(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	key := client.ObjectKey{Namespace: namespace, Name: "p-00001"}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: key.Name, UID: "other"}}
	w.onDelete = func(pod *corev1.Pod) error { // another pod got the name a moment ago
		if err := w.client.Delete(context.Background(), pod); err != nil {
			t.Fatal(err)
		}
		return w.client.Create(context.Background(), other)
	}
	w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 0, 0 })
	w.reconcile()
	if got := w.podNames(); got != key.Name {
		t.Errorf("pods %q, want %q: it is another pod", got, key.Name)
	}
	if n := w.ledger.Counts(w.key); n.Total()+n.Terminating != 0 {
		t.Errorf("the ledger still has the old pod: %+v", n)
	}
}

func TestDeletedPoolWaitsForItsSandboxes(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.hold("b", 1)
	w.settled()
	creates := w.creates
	if err := w.client.Delete(context.Background(), w.pool()); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if got := len(w.pods()); got != 1 || w.creates != creates {
		t.Errorf("%d pods and %d creates more, want the held pod alone", got, w.creates-creates)
	}
	c := meta.FindStatusCondition(w.pool().Status.Conditions, v1alpha1.ConditionReady)
	if c.Reason != v1alpha1.ReasonPoolTerminatingInUse || !strings.Contains(c.Message, "1 sandbox pod ") {
		t.Errorf("Ready is %+v, want WaitingForRelease of 1 pod", c)
	}
	if res := w.reconcile(); res != (ctrl.Result{}) {
		t.Errorf("a pool that waits asks for another reconcile: %+v", res)
	}

	w.ledger.ReleaseAll(types.NamespacedName{Namespace: namespace, Name: "b"})
	w.reconcile()
	if got := w.podNames(); got != "" {
		t.Errorf("pods %q after the release, want none", got)
	}
	err := w.client.Get(context.Background(), w.key, &v1alpha1.Pool{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("get the pool: %v, want it gone", err)
	}
	w.reconcile()
	if len(w.r.memories.byPool) != 0 {
		t.Error("a pool that is gone is still remembered")
	}
}

func TestDeletedPoolStaysWhileItsPodsCanNotBeDeleted(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	if err := w.client.Delete(context.Background(), w.pool()); err != nil {
		t.Fatal(err)
	}
	w.onDelete = func(*corev1.Pod) error { return apierrors.NewInternalError(errors.New("no")) }
	if _, err := w.tryReconcile(); err == nil {
		t.Error("reconcile: no error, want the API server's")
	}
	if res := w.reconcile(); res.RequeueAfter == 0 || w.deletes != 2 {
		t.Errorf("%+v after %d deletes, want a wait after 2", res, w.deletes)
	}
	w.onDelete = nil
	w.after(firstWait)
	w.reconcile()
	if err := w.client.Get(context.Background(), w.key, &v1alpha1.Pool{}); !apierrors.IsNotFound(err) {
		t.Errorf("get the pool: %v, want it gone", err)
	}
}

func TestMistakesAreToldAndHeal(t *testing.T) {
	good := wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj().Spec
	tests := map[string]struct {
		pool   *v1alpha1.Pool
		reason string
		text   string
	}{
		"bufferMin above bufferMax": {
			wrappers.MakePool(namespace, "p").Buffer(4, 2).Obj(), "InvalidSpec", "bufferMin is 4 and must not exceed bufferMax, which is 2",
		},
		"poolMin above poolMax": {
			wrappers.MakePool(namespace, "p").Size(4, 2).Obj(), "InvalidSpec", "poolMin is 4 and must not exceed poolMax, which is 2",
		},
		"a negative number": {
			wrappers.MakePool(namespace, "p").Buffer(-1, 2).Obj(), "InvalidSpec", "bufferMin is -1 and must not be negative",
		},
		"maxUnavailable that is no number": {
			wrappers.MakePool(namespace, "p").MaxUnavailable("few").Obj(), "InvalidSpec", `scaleStrategy.maxUnavailable is "few"`,
		},
		"an update budget that is no number": {
			updatePool(1, 1, 2, "few"), "InvalidSpec", `updateStrategy.maxUnavailable is "few"`,
		},
		"a template that is no template": {
			wrappers.MakePool(namespace, "p").Template(`{"spec":{"containers":"none"}}`).Obj(), "InvalidTemplate", "is no pod template",
		},
		"a template without containers": {
			wrappers.MakePool(namespace, "p").Template(`{}`).Obj(), "InvalidTemplate", "give it at least one container",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.pool)
			w.settled()
			c := meta.FindStatusCondition(w.pool().Status.Conditions, v1alpha1.ConditionReady)
			if c.Status != metav1.ConditionFalse || c.Reason != tt.reason || !strings.Contains(c.Message, tt.text) {
				t.Errorf("Ready is %+v, want False/%s with %q", c, tt.reason, tt.text)
			}
			if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning "+tt.reason+" ") {
				t.Errorf("events %q, want one Warning %s", told, tt.reason)
			}
			if w.creates != 0 {
				t.Errorf("%d creates, want none", w.creates)
			}
			if res := w.reconcile(); res != (ctrl.Result{}) {
				t.Errorf("a mistake asks for another reconcile: %+v", res)
			}
			w.edit(func(p *v1alpha1.Pool) { p.Spec = good })
			w.settled()
			if got := len(w.pods()); got != 2 {
				t.Errorf("%d pods after the correction, want 2", got)
			}
		})
	}
	t.Run("a name that is no label value", func(t *testing.T) {
		w := newWorld(t, wrappers.MakePool(namespace, strings.Repeat("p", 64)).Obj())
		w.settled()
		if got, want := w.condition(v1alpha1.ConditionReady), "False/NameTooLong"; got != want || w.creates != 0 {
			t.Errorf("Ready is %s after %d creates, want %s after none", got, w.creates, want)
		}
	})
}

func TestBrokenTemplateKeepsThePodsThereAre(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.settled()
	revision := w.pool().Status.Revision
	w.edit(func(p *v1alpha1.Pool) {
		p.Spec.Template = wrappers.MakePool(namespace, "p").Template(`{"spec":3}`).Spec.Template
	})
	w.settled()
	if got, want := w.podNames(), "p-00001 p-00002"; got != want {
		t.Errorf("pods %q, want %q", got, want)
	}
	if status := w.pool().Status; status.Revision != revision || status.Updated != 2 {
		t.Errorf("revision %q with %d updated pods, want %q with 2", status.Revision, status.Updated, revision)
	}
}

func TestStatusIsPaced(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(0, 9).Size(9, 9).Obj())
	w.reconcile()
	w.news()
	w.after(time.Second)
	w.reconcile()
	patches := w.patches
	for _, pod := range w.pods() { // nine pods become ready within 90 ms
		pod.Status = readyStatus(w.clock.Now())
		if err := w.client.Status().Update(context.Background(), pod); err != nil {
			t.Fatal(err)
		}
		w.news()
		w.after(10 * time.Millisecond)
		w.reconcile()
	}
	if got := w.patches - patches; got != 1 {
		t.Errorf("%d writes during the burst, want the first alone", got)
	}
	res := w.reconcile()
	if res.RequeueAfter <= 0 || res.RequeueAfter > statusPace {
		t.Fatalf("the next write is after %v, want at most %v", res.RequeueAfter, statusPace)
	}
	w.after(res.RequeueAfter)
	w.reconcile()
	if status := w.pool().Status; status.Available != 9 {
		t.Errorf("available %d, want 9", status.Available)
	}
}

func TestOwnWritesAreReadFromMemoryWhileTheCacheIsBehind(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	stale := w.pool()
	w.reconcile()
	patches := w.patches
	w.onCached = func(obj client.Object) {
		if pool, ok := obj.(*v1alpha1.Pool); ok {
			stale.DeepCopyInto(pool)
		}
	}
	for range 3 {
		w.after(time.Second)
		w.reconcile()
	}
	if w.patches != patches {
		t.Errorf("%d writes more from a stale cache, want none", w.patches-patches)
	}
}

func TestConflictIsTriedAgainInSilence(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	w.onStatus = func() error {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("pools").GroupResource(), "p", nil)
	}
	if res := w.reconcile(); res.RequeueAfter == 0 || res.RequeueAfter > statusPace {
		t.Errorf("the next try is after %v, want at most %v", res.RequeueAfter, statusPace)
	}
	w.onStatus = nil
	w.reconcile()
	if want := "create 1 pod: buffer 0 is below bufferMin 1, target is 1"; w.pool().Status.LastScaleReason != want {
		t.Errorf("lastScaleReason %q, want %q: it is kept until it is written", w.pool().Status.LastScaleReason, want)
	}
}

func TestNothingIsDoneBeforeTheLedgerIsRebuilt(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Obj())
	w.r.ready = make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := w.r.Reconcile(ctx, ctrl.Request{NamespacedName: w.key})
	if !errors.Is(err, context.DeadlineExceeded) || w.creates+w.patches != 0 {
		t.Errorf("%v after %d writes, want the context's error after none", err, w.creates+w.patches)
	}
}

func TestPoolGrowsOverSeveralReconcilesAndNeverAbovePoolMax(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 4).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.hold("a", 2)
	w.ledger.Assume(scheduler.Demand{
		Batch: types.NamespacedName{Namespace: namespace, Name: "b"}, UID: "b", Pool: "p", Missing: []int{0, 1, 2, 3},
	})
	w.settled()
	if got := len(w.pods()); got != 4 {
		t.Errorf("%d pods, want 4", got)
	}
	if got, want := w.condition(v1alpha1.ConditionScalingLimited), "True/PoolMaxReached"; got != want {
		t.Errorf("ScalingLimited is %s, want %s", got, want)
	}
	if got := w.pool().Status.Waiting; got != 4 {
		t.Errorf("waiting %d, want 4", got)
	}
}

func TestEditedLetsThroughWhatUsersDo(t *testing.T) {
	base := wrappers.MakePool(namespace, "p").Finalizer().Obj()
	tests := map[string]struct {
		change func(*v1alpha1.Pool)
		want   bool
	}{
		"a status write":                {func(p *v1alpha1.Pool) { p.Status.Total = 3 }, false},
		"a label":                       {func(p *v1alpha1.Pool) { p.Labels = map[string]string{"a": "b"} }, false},
		"an edit of the spec":           {func(p *v1alpha1.Pool) { p.Generation++ }, true},
		"a deletion":                    {func(p *v1alpha1.Pool) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, true},
		"a finalizer taken away":        {func(p *v1alpha1.Pool) { p.Finalizers = nil }, true},
		"another pool of the same name": {func(p *v1alpha1.Pool) { p.UID = "other" }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			after := base.DeepCopy()
			tt.change(after)
			if got := edited().Update(event.UpdateEvent{ObjectOld: base, ObjectNew: after}); got != tt.want {
				t.Errorf("lets through: %v, want %v", got, tt.want)
			}
		})
	}
}
