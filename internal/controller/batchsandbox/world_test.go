// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// world is an API server (a fake one, at the process boundary), a ledger, executors, and the reconciler of one batch,
// in a bubble whose time moves only where a test sleeps.
type world struct {
	t        *testing.T
	key      types.NamespacedName
	client   client.WithWatch
	ledger   *scheduler.Ledger
	runner   *Runner
	recorder *events.FakeRecorder
	r        *Reconciler
	registry *prometheus.Registry
	deposed  bool   // the lease was not renewed in time
	root     string // of the controller's tokens

	mu        sync.Mutex
	writes    []string // verb and name of each, in order
	made      int      // pods, which their UIDs are counted by
	known     map[string]types.UID
	executors map[string]*fakeExecutor // by IP

	// What happens in place of a call; nil does the call.
	onPatch  func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error
	onCreate func(pod *corev1.Pod) error
	onDelete func() error
	onRead   func() error               // reads past the cache
	onStatus func() error               // writes of the status
	statusIs func() error               // what the answer to one is, after it has landed
	cached   *v1alpha1.BatchSandbox     // what the cache shows of the batch; nil for the truth
	unseen   func(pod *corev1.Pod) bool // says of a pod that the cache doesn't show it, or changes what it shows; nil for the truth
	scheme   *runtime.Scheme
}

func (w *world) WakeBatch(types.NamespacedName) {}
func (w *world) WakePool(types.NamespacedName)  {}

// inWorld runs a test, ends the runner, and fails if a goroutine is left.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{
			t: t, key: types.NamespacedName{Namespace: namespace, Name: "b"}, scheme: runtime.NewScheme(),
			recorder: events.NewFakeRecorder(1000), executors: map[string]*fakeExecutor{},
		}
		for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
			if err := add(w.scheme); err != nil {
				t.Fatal(err)
			}
		}
		w.client = fake.NewClientBuilder().WithScheme(w.scheme).WithStatusSubresource(&v1alpha1.BatchSandbox{}, &corev1.Pod{}).
			WithIndex(&corev1.Pod{}, ownerIndex, ownerOf).WithIndex(&v1alpha1.BatchSandbox{}, poolIndex, poolOf).Build()
		w.runner = NewRunner(ctx, clock.RealClock{}, func(types.NamespacedName) {}, w.dial)
		w.startController()
		defer w.runner.Wait()
		defer cancel()
		f(w)
	})
}

// startController makes a reconciler and a ledger that know nothing yet, as after a start.
func (w *world) startController() {
	w.t.Helper()
	w.ledger = scheduler.NewLedger(w)
	w.known = map[string]types.UID{}
	w.registry = prometheus.NewRegistry()
	ready := make(chan struct{})
	close(ready)
	r, err := New(Options{
		Client: interceptor.NewClient(w.client, w.calls()), APIReader: interceptor.NewClient(w.client, w.reads()),
		Clock: clock.RealClock{}, Recorder: w.recorder, Registry: w.registry, Ledger: w.ledger, Runner: w.runner, Ready: ready,
		Root:  func() string { return w.root },
		Leads: func() bool { return !w.deposed },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.r = r
}

func (w *world) dial(ip string, _ types.UID) Executor { return w.executor(ip) }

// executor is the one that answers at an address.
func (w *world) executor(ip string) *fakeExecutor {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.executors[ip] == nil {
		w.executors[ip] = newFakeExecutor()
	}
	return w.executors[ip]
}

func (w *world) wrote(verb string, obj client.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, verb+" "+obj.GetName())
}

func (w *world) calls() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, o ...client.GetOption) error {
			if sb, ok := obj.(*v1alpha1.BatchSandbox); ok && w.cached != nil {
				w.cached.DeepCopyInto(sb)
				return nil
			}
			return c.Get(ctx, key, obj, o...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
			err := c.List(ctx, list, o...)
			if pods, ok := list.(*corev1.PodList); ok && w.unseen != nil {
				var shown []corev1.Pod
				for i := range pods.Items {
					if !w.unseen(&pods.Items[i]) {
						shown = append(shown, pods.Items[i])
					}
				}
				pods.Items = shown
			}
			return err
		},
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.CreateOption) error {
			w.wrote("create", obj)
			obj.SetCreationTimestamp(metav1.Now())
			w.mu.Lock()
			w.made++
			obj.SetUID(types.UID(fmt.Sprintf("uid-%d", w.made)))
			w.mu.Unlock()
			if w.onCreate != nil {
				if err := w.onCreate(obj.(*corev1.Pod)); err != nil { //nolint:forcetypeassert // nothing else is created
					return err
				}
			}
			return c.Create(ctx, obj, o...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.DeleteOption) error {
			w.wrote("delete", obj)
			if w.onDelete != nil {
				if err := w.onDelete(); err != nil {
					return err
				}
			}
			return c.Delete(ctx, obj, o...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, o ...client.PatchOption) error {
			w.wrote("patch", obj)
			if w.onPatch != nil {
				return w.onPatch(ctx, c, obj, p)
			}
			return c.Patch(ctx, obj, p, o...)
		},
		SubResourcePatch: func(
			ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, o ...client.SubResourcePatchOption,
		) error {
			w.wrote("patch "+sub, obj)
			if w.onStatus != nil {
				return w.onStatus()
			}
			err := c.SubResource(sub).Patch(ctx, obj, p, o...)
			if err == nil && w.statusIs != nil {
				err = w.statusIs()
			}
			return err
		},
	}
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
	}
}

// create puts objects into the API server, as a user does.
func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, obj := range objects {
		obj.SetCreationTimestamp(metav1.Now())
		if err := w.client.Create(context.Background(), obj); err != nil {
			w.t.Fatal(err)
		}
	}
}

// addPool makes a pool with pods p-0, p-1, ... that are Ready, with the addresses 10.0.0.10, 10.0.0.11, ...
func (w *world) addPool(recycle v1alpha1.RecycleType, pods int) {
	w.t.Helper()
	pool := wrappers.MakePool(namespace, "p").Obj()
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: recycle}
	w.create(pool)
	for i := range pods {
		w.addPoolPod(i)
	}
}

func (w *world) addPoolPod(i int) {
	w.t.Helper()
	name := fmt.Sprintf("p-%d", i)
	w.create(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{v1alpha1.PoolNameLabel: "p"},
		},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "sandbox"}}},
		Status: readyStatus(fmt.Sprintf("10.0.0.%d", 10+i)),
	})
	w.news()
}

func readyStatus(ip string) corev1.PodStatus {
	return corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
}

// news tells the ledger what the watch of pods would.
func (w *world) news() {
	now := map[string]types.UID{}
	for i, pod := range w.pods() {
		ObservePod(w.ledger, &w.pods()[i])
		now[pod.Name] = pod.UID
	}
	for name, uid := range w.known {
		if now[name] != uid {
			RemovePod(w.ledger, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: name, UID: uid, Labels: map[string]string{v1alpha1.PoolNameLabel: "p"},
			}})
		}
	}
	w.known = now
}

func (w *world) pods() []corev1.Pod {
	w.t.Helper()
	list := &corev1.PodList{}
	if err := w.client.List(context.Background(), list, client.InNamespace(namespace)); err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func (w *world) podNames() string {
	var names []string
	for _, pod := range w.pods() {
		names = append(names, pod.Name)
	}
	return strings.Join(names, " ")
}

// setPods changes the status of every pod of these names, as a kubelet does.
func (w *world) setPods(status func(i int) corev1.PodStatus, names ...string) {
	w.t.Helper()
	for i, name := range names {
		pod := &corev1.Pod{}
		if err := w.client.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: name}, pod); err != nil {
			w.t.Fatal(err)
		}
		pod.Status = status(i)
		if err := w.client.Status().Update(context.Background(), pod); err != nil {
			w.t.Fatal(err)
		}
	}
	w.news()
}

func (w *world) removePod(name string) {
	w.t.Helper()
	if err := w.client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}); err != nil {
		w.t.Fatal(err)
	}
	w.news()
}

// batch is the truth about the batch.
func (w *world) batch() *v1alpha1.BatchSandbox {
	w.t.Helper()
	sb := &v1alpha1.BatchSandbox{}
	if err := w.client.Get(context.Background(), w.key, sb); err != nil {
		w.t.Fatalf("get batch: %v", err)
	}
	return sb
}

func (w *world) gone() bool {
	return apierrors.IsNotFound(w.client.Get(context.Background(), w.key, &v1alpha1.BatchSandbox{}))
}

// edit changes the batch as a user does.
func (w *world) edit(change func(*v1alpha1.BatchSandbox)) {
	w.t.Helper()
	sb := w.batch()
	change(sb)
	sb.Generation++
	if err := w.client.Update(context.Background(), sb); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove() {
	w.t.Helper()
	if err := w.client.Delete(context.Background(), w.batch()); err != nil {
		w.t.Fatal(err)
	}
}

// reconcile runs one reconcile that must not fail, lets what it started come to rest, and brings the news.
func (w *world) reconcile() ctrl.Result {
	w.t.Helper()
	res, err := w.tryReconcile()
	if err != nil {
		w.t.Fatalf("reconcile: %v", err)
	}
	return res
}

func (w *world) tryReconcile() (ctrl.Result, error) {
	w.t.Helper()
	res, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.key})
	if err != nil && res != (ctrl.Result{}) {
		w.t.Errorf("a result and an error together: %+v, %v", res, err)
	}
	synctest.Wait()
	w.news()
	return res, err
}

// tryReconcileBlind is a reconcile whose ledger hears of no change of the pods.
func (w *world) tryReconcileBlind() (time.Duration, error) {
	w.t.Helper()
	res, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.key})
	synctest.Wait()
	return res.RequeueAfter, err
}

// settled reconciles until nothing is written any more.
func (w *world) settled() {
	w.t.Helper()
	for range 20 {
		before := len(w.writes)
		again := w.reconcile().RequeueAfter
		if before == len(w.writes) && (again == 0 || again > pace) {
			return
		}
		time.Sleep(pace)
	}
	w.t.Fatalf("the batch doesn't come to rest: %v", w.writes)
}

// takeWrites are the writes since the last call.
func (w *world) takeWrites() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.writes
	w.writes = nil
	return taken
}

// condition is "Status/Reason" of a condition of the batch.
func (w *world) condition(kind string) string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.batch().Status.Conditions, kind)
	if c == nil {
		return "none"
	}
	return string(c.Status) + "/" + c.Reason
}

func (w *world) wantCondition(kind, want string) {
	w.t.Helper()
	if got := w.condition(kind); got != want {
		w.t.Errorf("condition %s is %s, want %s", kind, got, want)
	}
}

func (w *world) wantAnnotation(key, want string) {
	w.t.Helper()
	if got := w.batch().Annotations[key]; got != want {
		w.t.Errorf("annotation %s is %s, want %s", key, got, want)
	}
}

func (w *world) counts() scheduler.Counts {
	return w.ledger.Counts(types.NamespacedName{Namespace: namespace, Name: "p"})
}

// toldEvents are the reasons of the events since the last call.
func (w *world) toldEvents() []string {
	var reasons []string
	for {
		select {
		case e := <-w.recorder.Events:
			reasons = append(reasons, strings.Fields(e)[1])
		default:
			return reasons
		}
	}
}
