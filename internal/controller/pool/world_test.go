// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const namespace = "ns"

// world is an API server (a fake one, at the process boundary), a clock, a ledger and the reconciler of one pool.
type world struct {
	registry *prometheus.Registry
	starts   *Starts
	t        *testing.T
	key      types.NamespacedName
	client   client.WithWatch
	clock    *testingclock.FakePassiveClock
	ledger   *scheduler.Ledger
	recorder *events.FakeRecorder
	calls    *Calls
	r        *Reconciler
	woken    bool   // by the ledger, or an executor's answer
	root     string // of the controller's tokens
	deposed  bool   // the lease was not renewed in time

	mu      sync.Mutex
	creates int                  // creates sent
	deletes int                  // deletes sent
	patches int                  // patches sent, of status and finalizers
	names   int                  // names given out
	known   map[string]types.UID // pods the ledger was told of

	// What the API server answers in place of doing its work; nil does it.
	onCreate func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error
	onDelete func(pod *corev1.Pod) error
	onStatus func() error
	onRead   func() error // reads past the cache
	onCached func(obj client.Object)
}

func (w *world) WakeBatch(types.NamespacedName) {}

func (w *world) WakePool(types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = true
}

func newWorld(t *testing.T, pool *v1alpha1.Pool, pods ...*corev1.Pod) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{
		t: t, key: client.ObjectKeyFromObject(pool),
		clock:    testingclock.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		recorder: events.NewFakeRecorder(100),
	}
	w.ledger = scheduler.NewLedger(w)
	objects := []client.Object{pool}
	for _, p := range pods {
		objects = append(objects, p)
	}
	w.client = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Pool{}, &corev1.Pod{}).
		WithObjects(objects...).Build()

	w.answeredBy(nil)
	ready := make(chan struct{})
	close(ready)
	w.registry = prometheus.NewRegistry()
	var err error
	if w.starts, err = NewStarts(w.registry, w.clock); err != nil {
		t.Fatal(err)
	}
	w.r, err = New(Options{
		Client: interceptor.NewClient(w.client, w.funcs()), APIReader: interceptor.NewClient(w.client, w.reads()),
		Clock: w.clock, Recorder: w.recorder, Registry: w.registry, Starts: w.starts, Ledger: w.ledger, Ready: ready, Calls: w.calls,
		Root:   func() string { return w.root },
		Leads:  func() bool { return !w.deposed },
		Suffix: func() string { w.names++; return fmt.Sprintf("%05d", w.names) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.news()
	return w
}

// answeredBy has this executor answer at every address.
func (w *world) answeredBy(executor Executor) {
	w.calls = NewCalls(w.t.Context(), func(types.NamespacedName) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.woken = true
	}, func(string, types.UID) Executor { return executor })
	if w.r != nil {
		w.r.calls = w.calls
	}
}

func (w *world) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, o ...client.GetOption) error {
			err := c.Get(ctx, key, obj, o...)
			if err == nil && w.onCached != nil {
				w.onCached(obj)
			}
			return err
		},
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.CreateOption) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.creates++
			pod := obj.(*corev1.Pod)
			pod.UID = types.UID("uid-" + pod.Name)
			pod.CreationTimestamp = metav1.NewTime(w.clock.Now())
			if w.onCreate != nil {
				return w.onCreate(ctx, c, pod)
			}
			return c.Create(ctx, obj, o...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.DeleteOption) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.deletes++
			if w.onDelete != nil {
				if err := w.onDelete(obj.(*corev1.Pod)); err != nil {
					return err
				}
			}
			if err := w.checkUID(ctx, obj, o); err != nil {
				return err
			}
			return c.Delete(ctx, obj, o...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, o ...client.PatchOption) error {
			w.patches++
			return c.Patch(ctx, obj, p, o...)
		},
		SubResourcePatch: func(
			ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, o ...client.SubResourcePatchOption,
		) error {
			w.patches++
			if w.onStatus != nil {
				if err := w.onStatus(); err != nil {
					return err
				}
			}
			return c.SubResource(sub).Patch(ctx, obj, p, o...)
		},
	}
}

// checkUID is the precondition of a delete, which the fake API server doesn't look at.
func (w *world) checkUID(ctx context.Context, obj client.Object, opts []client.DeleteOption) error {
	var o client.DeleteOptions
	o.ApplyOptions(opts)
	if o.Preconditions == nil || o.Preconditions.UID == nil {
		w.t.Errorf("delete of %s without a UID", obj.GetName())
		return nil
	}
	pod := &corev1.Pod{}
	err := w.client.Get(ctx, client.ObjectKeyFromObject(obj), pod)
	if err == nil && pod.UID != *o.Preconditions.UID {
		return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("the UID in the precondition differs"))
	}
	return client.IgnoreNotFound(err)
}

func (w *world) reads() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, o ...client.GetOption) error {
			if w.onRead != nil {
				if err := w.onRead(); err != nil {
					return err
				}
			}
			return c.Get(ctx, key, obj, o...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
			if w.onRead != nil {
				if err := w.onRead(); err != nil {
					return err
				}
			}
			return c.List(ctx, list, o...)
		},
	}
}

// reconcile runs one reconcile that must not fail, and lets the calls that it has made come to an end.
func (w *world) reconcile() ctrl.Result {
	w.t.Helper()
	res, err := w.tryReconcile()
	if err != nil {
		w.t.Fatalf("reconcile: %v", err)
	}
	return res
}

func (w *world) tryReconcile() (ctrl.Result, error) {
	res, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.key})
	if err != nil && res != (ctrl.Result{}) {
		w.t.Errorf("a result and an error together: %+v, %v", res, err)
	}
	w.calls.Wait()
	return res, err
}

// settled reconciles and brings the news to the ledger until neither changes a thing.
func (w *world) settled() {
	w.t.Helper()
	for range 20 {
		writes := w.creates + w.deletes + w.patches
		w.woken = false
		w.reconcile()
		w.news()
		w.after(statusPace)
		if writes == w.creates+w.deletes+w.patches && !w.woken {
			return
		}
	}
	w.t.Fatal("the pool doesn't settle")
}

// after lets time pass.
func (w *world) after(d time.Duration) { w.clock.SetTime(w.clock.Now().Add(d)) }

// news tells the ledger what the watch of pods would.
func (w *world) news() {
	now := map[string]types.UID{}
	for _, pod := range w.pods() {
		if pod.Labels[v1alpha1.PoolNameLabel] != w.key.Name {
			continue
		}
		now[pod.Name] = pod.UID
		w.ledger.ObservePod(w.key, scheduler.PodOf(pod))
	}
	for name, uid := range w.known {
		if now[name] != uid {
			w.ledger.RemovePod(w.key, name, uid)
		}
	}
	w.known = now
}

func (w *world) pods() []*corev1.Pod {
	w.t.Helper()
	list := &corev1.PodList{}
	if err := w.client.List(context.Background(), list, client.InNamespace(namespace)); err != nil {
		w.t.Fatal(err)
	}
	var pods []*corev1.Pod
	for i := range list.Items {
		pods = append(pods, &list.Items[i])
	}
	return pods
}

func (w *world) podNames() string {
	var names []string
	for _, p := range w.pods() {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func (w *world) pool() *v1alpha1.Pool {
	w.t.Helper()
	pool := &v1alpha1.Pool{}
	if err := w.client.Get(context.Background(), w.key, pool); err != nil {
		w.t.Fatalf("get pool: %v", err)
	}
	return pool
}

// edit changes the pool as a user does.
func (w *world) edit(change func(*v1alpha1.Pool)) {
	w.t.Helper()
	pool := w.pool()
	change(pool)
	pool.Generation++
	if err := w.client.Update(context.Background(), pool); err != nil {
		w.t.Fatal(err)
	}
}

// condition is "Status/Reason" of a condition of the pool.
func (w *world) condition(kind string) string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.pool().Status.Conditions, kind)
	if c == nil {
		return "none"
	}
	return string(c.Status) + "/" + c.Reason
}

// setStatus gives every pod the status that a kubelet would, and brings the news.
func (w *world) setStatus(status func(*corev1.Pod)) {
	w.t.Helper()
	for _, pod := range w.pods() {
		before := pod.Status.DeepCopy()
		if status(pod); equality.Semantic.DeepEqual(before, &pod.Status) {
			continue
		}
		if err := w.client.Status().Update(context.Background(), pod); err != nil {
			w.t.Fatal(err)
		}
	}
	w.news()
}

func (w *world) becomeReady(pod *corev1.Pod) {
	if pod.Status.Phase == "" || pod.Status.Phase == corev1.PodPending {
		pod.Status = readyStatus(w.clock.Now())
	}
}

func readyStatus(since time.Time) corev1.PodStatus {
	return corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.1",
		Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since),
		}},
	}
}

// hold gives n idle pods to a batch, by name.
func (w *world) hold(batch string, n int) {
	w.t.Helper()
	indexes := make([]int, n)
	for i := range indexes {
		indexes[i] = i
	}
	name := types.NamespacedName{Namespace: namespace, Name: batch}
	res := w.ledger.Assume(scheduler.Demand{Batch: name, UID: types.UID(batch), Pool: w.key.Name, Missing: indexes})
	if len(res.Grants) != n {
		w.t.Fatalf("batch %s got %d pods of %d", batch, len(res.Grants), n)
	}
	w.ledger.Confirm(name)
}

// told are the events sent since the last call, as "Reason: note".
func (w *world) told() []string {
	var told []string
	for {
		select {
		case e := <-w.recorder.Events:
			told = append(told, e)
		default:
			return told
		}
	}
}

func invalidPod(context.Context, client.WithWatch, *corev1.Pod) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), "p", nil)
}

func forbiddenPod(context.Context, client.WithWatch, *corev1.Pod) error {
	return apierrors.NewForbidden(corev1.Resource("pods"), "p", errors.New("exceeded quota: ten"))
}
