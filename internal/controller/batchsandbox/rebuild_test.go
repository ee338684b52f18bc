// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/slowstart"
	"opensandbox.io/controller/test/wrappers"
)

func TestMayBeServed(t *testing.T) {
	batch := func() *wrappers.BatchWrapper { return makeBatch("b").Pool("p").Replicas(2) }
	deleted := batch().Obj()
	now := metav1.NewTime(noon)
	deleted.DeletionTimestamp = &now
	cases := map[string]struct {
		sb   *v1alpha1.BatchSandbox
		want bool
	}{
		"a batch that has nothing":                      {batch().Obj(), true},
		"a batch that misses one":                       {batch().AllocStatus(`{"pods":["","p-1"]}`).Obj(), true},
		"a batch without a number wants one":            {makeBatch("b").Pool("p").Obj(), true},
		"a batch that has all":                          {batch().AllocStatus(`{"pods":["p-0","p-1"]}`).Obj(), false},
		"a batch that wants none":                       {makeBatch("b").Pool("p").Replicas(0).Obj(), false},
		"a batch that is being deleted":                 {deleted, false},
		"a batch without a pool":                        {makeBatch("b").Container("c").Obj(), false},
		"a batch with an annotation that can't be read": {batch().AllocStatus(`{`).Obj(), false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := mayBeServed(tc.sb); got != tc.want {
				t.Errorf("mayBeServed = %v, want %v", got, tc.want)
			}
		})
	}
}

func (w *world) rebuild() {
	w.t.Helper()
	w.startController()
	if err := w.r.Rebuild(context.Background(), "epoch", nil); err != nil {
		w.t.Fatal(err)
	}
	w.news()
}

// Every patch takes a second of the bubble's time.
func TestAllFencesHaveLandedWhenTheLedgerIsRebuiltAndTheyGoOutTogether(t *testing.T) {
	const n = 200
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		for i := range n {
			w.create(wrappers.MakeBatch(namespace, fmt.Sprintf("b-%03d", i)).Pool("p").Obj())
		}
		var mu sync.Mutex
		inFlight, most, landed := 0, 0, 0
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			mu.Lock()
			inFlight++
			most = max(most, inFlight)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			inFlight--
			landed++
			mu.Unlock()
			return c.Patch(ctx, obj, p)
		}
		began := time.Now()
		w.rebuild()
		if landed != n || most != slowstart.MaxParallel {
			t.Errorf("%d fences landed, and %d were in flight at most, want %d and %d", landed, most, n, slowstart.MaxParallel)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %s, want the time of 9 patches", took)
		}
		if c := w.counts(); c.Waiting != n || c.Idle != 2 {
			t.Errorf("counts %+v, want all in the queue and no pod handed out", c)
		}
	})
}

func TestALedgerIsNotRebuiltWithoutEveryFence(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(wrappers.MakeBatch(namespace, "a").Pool("p").Obj(), wrappers.MakeBatch(namespace, "b").Pool("p").Obj())
		refused := errors.New("busy")
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			if obj.GetName() == "b" {
				return refused
			}
			return c.Patch(ctx, obj, p)
		}
		w.startController()
		if err := w.r.Rebuild(t.Context(), "epoch", nil); !errors.Is(err, refused) {
			t.Errorf("got %v, want the error of the fence", err)
		}
		w.onPatch = nil
		w.rebuild()
		w.look("b").wantAnnotation(v1alpha1.LeaderEpochAnnotation, "epoch")
	})
}

// An API server that refuses each fence once delays a new leader, and doesn't keep it from leading.
func TestAFenceThatFailsIsTriedAgainWithoutTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		var mu sync.Mutex
		tries := map[string]int{}
		for i := range 20 {
			w.create(wrappers.MakeBatch(namespace, fmt.Sprintf("b-%02d", i)).Pool("p").Obj())
		}
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			mu.Lock()
			tries[obj.GetName()]++
			first := tries[obj.GetName()] == 1
			mu.Unlock()
			if first {
				return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
			}
			return c.Patch(ctx, obj, p)
		}
		w.rebuild()
		for name, n := range tries {
			if n != 2 {
				t.Errorf("%s was fenced %d times, want twice", name, n)
			}
		}
		if c := w.counts(); c.Waiting != 20 {
			t.Errorf("counts %+v, want 20 that wait", c)
		}
	})
}

func TestABatchThatIsGoneBeforeItsFenceHoldsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(wrappers.MakeBatch(namespace, "b").Pool("p").Replicas(2).AllocStatus(`{"pods":["p-0",""]}`).Obj())
		w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
			w.remove()
			return c.Patch(ctx, obj, p)
		}
		w.rebuild()
		if c := w.counts(); c.Held != 0 || c.Waiting != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// The last leader gives back a pod of one batch and hands it to another, after both were listed. Which of the two is older must
// not matter.
func TestWhatTheLastLeaderWroteBeforeTheFencesIsTheTruth(t *testing.T) {
	for name, names := range map[string][2]string{"from the older": {"a", "b"}, "to the older": {"b", "a"}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				from, to := names[0], names[1]
				w.addPool(v1alpha1.RecycleNoop, 1)
				for _, name := range []string{"a", "b"} {
					pods := `{"pods":["",""]}`
					if name == from {
						pods = `{"pods":["p-0",""]}`
					}
					w.create(wrappers.MakeBatch(namespace, name).Pool("p").Replicas(2).AllocStatus(pods).Obj())
					time.Sleep(time.Second)
				}
				var once sync.Once
				w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
					once.Do(func() {
						w.look(from).edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["",""]}` })
						w.look(to).edit(func(sb *v1alpha1.BatchSandbox) {
							sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-0",""]}`
						})
					})
					return c.Patch(ctx, obj, p)
				}
				w.rebuild()
				if told := w.toldEvents(); len(told) != 0 {
					t.Errorf("told %v", told)
				}
				holds := func(name string) bool {
					holdings := w.ledger.Holdings(types.NamespacedName{Namespace: namespace, Name: name}, w.look(name).batch().UID)
					return slices.Contains(holdingNames(holdings), "p-0")
				}
				if holds(from) || !holds(to) {
					t.Errorf("%s holds the pod: %v, %s: %v", from, holds(from), to, holds(to))
				}
			})
		})
	}
}

// BenchmarkRebuild is what the controller itself does after an election: all but the time of the API server and of decoding its
// answers. A fifth of the batches waits for a last sandbox.
func BenchmarkRebuild(b *testing.B) {
	for _, size := range []struct{ pods, batches int }{{1_000, 200}, {10_000, 2_000}} {
		b.Run(fmt.Sprintf("pods=%d/batches=%d", size.pods, size.batches), func(b *testing.B) {
			const pools = 20
			api := listed(b, size.pods, size.batches, pools)
			b.ReportAllocs()
			for b.Loop() {
				ledger := scheduler.NewLedger(nobody{})
				r, err := New(Options{
					Client: api, APIReader: api, Clock: clock.RealClock{}, Recorder: events.NewFakeRecorder(1), Registry: prometheus.NewRegistry(),
					Ledger: ledger, Runner: NewRunner(b.Context(), clock.RealClock{}, func(types.NamespacedName) {}, nil),
					Ready: make(chan struct{}), Root: func() string { return "" }, Leads: func() bool { return true },
				})
				if err != nil {
					b.Fatal(err)
				}
				if err := r.Rebuild(b.Context(), "epoch", nil); err != nil {
					b.Fatal(err)
				}
				c := ledger.Counts(types.NamespacedName{Namespace: namespace, Name: "p-0"})
				if want := size.batches / pools / 5; c.Waiting != want || c.Held == 0 {
					b.Fatalf("counts %+v, want %d waiting", c, want)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size.pods), "ns/pod")
		})
	}
}

// listed is an API server that lists pods of pools and the batches that hold them, and answers patches at once.
func listed(b *testing.B, pods, batches, pools int) client.Client {
	b.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	allPods := make([]corev1.Pod, pods)
	for i := range allPods {
		name := fmt.Sprintf("p-%d-%05d", i%pools, i/pools)
		allPods[i] = corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1",
				Labels: map[string]string{v1alpha1.PoolNameLabel: "p-" + strconv.Itoa(i%pools)}},
			Spec: corev1.PodSpec{NodeName: "n"}, Status: readyStatus("10.0.0.1"),
		}
	}
	each := pods / batches
	allBatches := make([]v1alpha1.BatchSandbox, batches)
	byName := make(map[string]*v1alpha1.BatchSandbox, batches)
	for i := range allBatches {
		held, ips := make([]string, each), make([]string, each)
		for j := range held {
			held[j], ips[j] = fmt.Sprintf("p-%d-%05d", i%pools, (i/pools)*each+j), "10.0.0.1"
		}
		if i/pools%5 == 0 {
			held[each-1], ips[each-1] = "", ""
		}
		name := fmt.Sprintf("b-%05d", i)
		allBatches[i] = *makeBatch(name).UID(types.UID("uid-"+name)).Pool("p-"+strconv.Itoa(i%pools)).Replicas(int32(each)). //nolint:gosec // a few
																	AllocStatus(formatAllocStatus(held)).Annotation(v1alpha1.EndpointsAnnotation, formatEndpoints(ips)).
																	Finalizers(v1alpha1.PoolAllocationFinalizer).Obj()
		allBatches[i].ResourceVersion = "1"
		byName[name] = &allBatches[i]
	}
	return interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), interceptor.Funcs{
		List: func(_ context.Context, _ client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			o := (&client.ListOptions{}).ApplyOptions(opts)
			from, _ := strconv.Atoi(o.Continue) // "" is the first page
			to, next := from+int(o.Limit), ""
			switch list := list.(type) {
			case *corev1.PodList:
				to = min(to, pods)
				list.Items = slices.Clone(allPods[from:to])
				if to < pods {
					next = strconv.Itoa(to)
				}
			case *v1alpha1.BatchSandboxList:
				to = min(to, batches)
				list.Items = slices.Clone(allBatches[from:to])
				if to < batches {
					next = strconv.Itoa(to)
				}
			}
			list.SetContinue(next)
			return nil
		},
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
			wrappers.MakePool(namespace, key.Name).Obj().DeepCopyInto(obj.(*v1alpha1.Pool)) //nolint:forcetypeassert // nothing else is read
			return nil
		},
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, _ client.Patch, _ ...client.PatchOption) error {
			byName[obj.GetName()].DeepCopyInto(obj.(*v1alpha1.BatchSandbox)) //nolint:forcetypeassert // nothing else is patched
			return nil
		},
	})
}
