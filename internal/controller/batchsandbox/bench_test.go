// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

// large is a batch of many tasks that all run, and a reconciler whose API server costs what the client does: a copy for each
// read that asks for one, a patch made for each write.
type large struct {
	b        testing.TB
	sb       *v1alpha1.BatchSandbox
	r        *Reconciler
	statuses int // writes of the status
	others   int // other writes
}

type nobody struct{}

func (nobody) WakeBatch(types.NamespacedName) {}
func (nobody) WakePool(types.NamespacedName)  {}

func makeLarge(b testing.TB, clk clock.Clock, n int, change func(*v1alpha1.BatchSandbox)) *large {
	b.Helper()
	l := &large{b: b}
	ledger := scheduler.NewLedger(nobody{})
	pods, ips := make([]string, n), make([]string, n)
	for i := range pods {
		pods[i], ips[i] = fmt.Sprintf("p-%05d", i), fmt.Sprintf("10.0.%d.%d", i/200, i%200)
		ObservePod(ledger, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pods[i], UID: types.UID("uid-" + pods[i]), Labels: map[string]string{
				v1alpha1.PoolNameLabel: "p", v1alpha1.BatchNameLabel: "b", v1alpha1.PodIndexLabel: strconv.Itoa(i),
			}},
			Spec: corev1.PodSpec{NodeName: "n"}, Status: readyStatus(ips[i]),
		})
	}
	l.sb = makeBatch("b").Pool("p").Replicas(int32(n)).Task("python", "-m", "rollout"). //nolint:gosec // some thousands
												AllocStatus(formatAllocStatus(pods)).Annotation(v1alpha1.EndpointsAnnotation, formatEndpoints(ips)).
												Finalizers(v1alpha1.PoolAllocationFinalizer, v1alpha1.TaskCleanupFinalizer).Obj()
	l.sb.ResourceVersion = "1"
	change(l.sb)
	ready := make(chan struct{})
	close(ready)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	api := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), l.calls())
	r, err := New(Options{
		Client: api, APIReader: api, Clock: clk, Recorder: events.NewFakeRecorder(1 << 20), Registry: prometheus.NewRegistry(),
		Ledger: ledger, Runner: NewRunner(b.Context(), clk, func(types.NamespacedName) {}, nil), Ready: ready,
		Root: func() string { return "" }, Leads: func() bool { return true },
	})
	if err != nil {
		b.Fatal(err)
	}
	l.r = r
	for i := range n { // watchers that have nothing to do: the test says what becomes of the tasks
		r.runner.start(target{
			batch: client.ObjectKeyFromObject(l.sb), uid: l.sb.UID, index: i, pod: types.UID("uid-" + pods[i]), ip: ips[i],
		}, false, taskState{phase: taskRunning, try: l.tryOf(i)}, func(context.Context, *session) {})
	}
	r.runner.Wait()
	l.reconcile()
	if l.sb.Status.TaskRunning != int32(n) { //nolint:gosec // some thousands
		b.Fatalf("status %+v, want %d tasks that run", l.sb.Status, n)
	}
	l.statuses, l.others = 0, 0
	return l
}

func (l *large) calls() interceptor.Funcs {
	patch := func(obj client.Object, p client.Patch) error {
		sb, ok := obj.(*v1alpha1.BatchSandbox)
		if !ok {
			return fmt.Errorf("a patch of %T", obj)
		}
		if _, err := p.Data(obj); err != nil {
			return err
		}
		next := l.sb.DeepCopy()
		version, _ := strconv.Atoi(l.sb.ResourceVersion)
		next.ResourceVersion = strconv.Itoa(version + 1)
		next.Status = *sb.Status.DeepCopy()
		l.sb = next
		next.DeepCopyInto(sb)
		return nil
	}
	return interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			o := (&client.GetOptions{}).ApplyOptions(opts)
			shared := o.UnsafeDisableDeepCopy != nil && *o.UnsafeDisableDeepCopy
			switch obj := obj.(type) {
			case *v1alpha1.BatchSandbox:
				if *obj = *l.sb; !shared {
					l.sb.DeepCopyInto(obj)
				}
			case *v1alpha1.Pool:
				wrappers.MakePool(namespace, "p").Obj().DeepCopyInto(obj)
			default:
				return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
			}
			return nil
		},
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, p client.Patch, _ ...client.PatchOption) error {
			l.others++
			return patch(obj, p)
		},
		SubResourcePatch: func(_ context.Context, _ client.Client, _ string, obj client.Object, p client.Patch, _ ...client.SubResourcePatchOption) error {
			l.statuses++
			return patch(obj, p)
		},
	}
}

func (l *large) reconcile() ctrl.Result {
	l.b.Helper()
	res, err := l.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(l.sb)})
	if err != nil {
		l.b.Fatal(err)
	}
	return res
}

func (l *large) tryOf(index int) int { return allTries(&l.sb.Status)[index].number() }

// end is the news that a task has ended.
func (l *large) end(index int, end taskexecutor.Terminated) {
	s := l.r.runner.byUID[l.sb.UID].byIndex[index]
	l.r.runner.report(s, taskState{phase: taskEnded, try: l.tryOf(index), end: &end})
}

// BenchmarkReconcile is one look at a batch of 2,000 running tasks.
func BenchmarkReconcile(b *testing.B) {
	patches := func(sb *v1alpha1.BatchSandbox) {
		for i := range 2000 {
			sb.Spec.ShardTaskPatches = append(sb.Spec.ShardTaskPatches, v1alpha1.RawObject{RawExtension: runtime.RawExtension{
				Raw: fmt.Appendf(nil, `{"spec":{"process":{"env":[{"name":"INDEX","value":"%d"}]}}}`, i),
			}})
		}
	}
	for name, change := range map[string]func(*v1alpha1.BatchSandbox){"plain": func(*v1alpha1.BatchSandbox) {}, "patches": patches} {
		b.Run("rest/"+name, func(b *testing.B) {
			clk := clocktesting.NewFakeClock(noon)
			l := makeLarge(b, clk, 2000, change)
			b.ReportAllocs()
			for b.Loop() {
				clk.Step(time.Second)
				l.reconcile()
			}
		})
		b.Run("write/"+name, func(b *testing.B) {
			clk := clocktesting.NewFakeClock(noon)
			l := makeLarge(b, clk, 2000, change)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				clk.Step(time.Second)
				if n++; n%1999 == 0 {
					b.StopTimer()
					l = makeLarge(b, clk, 2000, change)
					n = 1
					b.StartTimer()
				}
				l.end(n, taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted})
				l.reconcile()
			}
			if l.statuses != n {
				b.Errorf("%d writes for %d ends", l.statuses, n)
			}
		})
	}
}
