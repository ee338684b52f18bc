// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

// series are the metrics of this controller that are not 0, without their common prefix: counters by their value, histograms by
// their number and, to the nanosecond, their sum.
func (w *world) series() map[string]float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	got := map[string]float64{}
	set := func(name string, value float64) {
		if value = math.Round(value*1e9) / 1e9; value != 0 {
			got[strings.TrimPrefix(name, "opensandbox_")] = value
		}
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			if h := m.GetHistogram(); h != nil {
				set(name+" n", float64(h.GetSampleCount()))
				set(name+" sum", h.GetSampleSum())
				continue
			}
			set(name, m.GetCounter().GetValue())
		}
	}
	return got
}

func (w *world) wantSeries(want map[string]float64) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.series()); diff != "" {
		w.t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// appears makes a batch and shows it on the watch, half a second after the last whole one.
func (w *world) appears(sb *v1alpha1.BatchSandbox) {
	w.t.Helper()
	time.Sleep(500 * time.Millisecond)
	w.create(sb)
	w.r.sights.predicate().Create(event.CreateEvent{Object: w.batch()})
}

// slow makes writes of objects take 3 ms, and those of the status 2 ms.
func (w *world) slow() {
	w.onPatch = func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
		time.Sleep(3 * time.Millisecond)
		return c.Patch(ctx, obj, p)
	}
	w.statusIs = func() error {
		time.Sleep(2 * time.Millisecond)
		return nil
	}
}

// warmDelivery is what one warm delivery of two pods looks like that waited 7 ms for a worker.
func warmDelivery() map[string]float64 {
	return map[string]float64{
		"allocated_pods_total":              2,
		"deliveries_total warm":             1,
		"delivery_seconds warm n":           1,
		"delivery_seconds warm sum":         0.010,
		"delivery_stage_seconds queued n":   1,
		"delivery_stage_seconds queued sum": 0.007,
		"delivery_stage_seconds chosen n":   1, "delivery_stage_seconds written n": 1,
		"delivery_stage_seconds written sum":  0.003,
		"delivery_stage_seconds reported n":   1,
		"delivery_stage_seconds reported sum": 0.002,
		"delivery_writes_total warm":          2,
	}
}

func TestAWarmDeliveryIsMeasuredFromItsFirstSightInStagesThatAddUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.slow()
		w.appears(pooledBatch(2).Obj())
		time.Sleep(7 * time.Millisecond)
		w.reconcile()
		w.wantSeries(warmDelivery())
		w.settled()
		w.wantSeries(warmDelivery())
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "opensandbox_delivery_seconds" {
				continue
			}
			warm := f.GetMetric()[2].GetHistogram() // after cold and waited
			for i, below := range []uint64{0, 0, 0, 1, 1} {
				if b := warm.GetBucket()[i]; b.GetCumulativeCount() != below {
					t.Errorf("%d within %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), below)
				}
			}
			if len(warm.GetPositiveSpan()) == 0 {
				t.Error("no native buckets")
			}
		}
	})
}

func TestADeliveryIsOverWithTheLastOfItsSandboxesAndWhatIsLostLaterIsNone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.appears(pooledBatch(2).Obj())
		w.settled()
		w.wantSeries(map[string]float64{"allocated_pods_total": 1})
		w.slow()
		took := time.Since(w.r.memories[w.key].delivery.seen) + 5*time.Second
		time.Sleep(5 * time.Second)
		w.addPoolPod(1)
		w.reconcile()
		want := map[string]float64{
			"allocated_pods_total":                2,
			"deliveries_total waited":             1,
			"delivery_seconds waited n":           1,
			"delivery_seconds waited sum":         (took + 3*time.Millisecond).Seconds(),
			"delivery_stage_seconds queued n":     1,
			"delivery_stage_seconds queued sum":   took.Seconds(),
			"delivery_stage_seconds chosen n":     1,
			"delivery_stage_seconds written n":    1,
			"delivery_stage_seconds written sum":  0.003,
			"delivery_stage_seconds reported n":   1,
			"delivery_stage_seconds reported sum": 0.002,
			"delivery_writes_total waited":        5, // two of the addresses, and three of the status: waiting, labels apart
		}
		want["delivery_writes_total waited"] = float64(w.r.memories[w.key].delivery.writes)
		w.wantSeries(want)
		w.setPods(failedStatus, "p-0")
		w.addPoolPod(2)
		w.settled()
		want["allocated_pods_total"] = 3
		w.edit(func(sb *v1alpha1.BatchSandbox) { *sb.Spec.Replicas = 3 })
		w.addPoolPod(3)
		w.settled()
		want["allocated_pods_total"] = 4
		w.wantSeries(want)
	})
}

func TestABatchThatWasThereBeforeTheControllerIsMeasuredFromItsCreation(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Obj())
		w.r.sights.predicate().Create(event.CreateEvent{Object: w.batch(), IsInInitialList: true})
		time.Sleep(3 * time.Second)
		w.reconcile()
		got := w.series()
		if got["delivery_seconds warm n"] != 1 || got["delivery_seconds warm sum"] != 3 {
			t.Errorf("metrics %v, want one delivery of 3 s", got)
		}
	})
}

func TestADeliveryIsCountedOnceWhateverBecomesOfTheController(t *testing.T) {
	cases := map[string]struct {
		before func(w *world) // what the first controller does
		want   map[string]float64
	}{
		"it had delivered and told": {func(w *world) { w.settled() }, map[string]float64{}},
		"it had delivered, and was killed before it told": {func(w *world) {
			w.onStatus = func() error { return apierrors.NewServiceUnavailable("killed") }
			if _, err := w.tryReconcile(); err == nil {
				w.t.Error("the status is told")
			}
			w.onStatus = nil
		}, map[string]float64{}},
		"it had not looked at the batch": {func(*world) {}, map[string]float64{"deliveries_total warm": 1, "delivery_writes_total warm": 2}},
		"it had delivered, and a sandbox was lost and not replaced yet": {func(w *world) {
			w.settled()
			time.Sleep(2 * time.Second)
			w.setPods(failedStatus, "p-0")
			w.settled()
			w.wantCondition(v1alpha1.ConditionAllocated, "False/WaitingForPool")
			w.addPoolPod(2)
		}, map[string]float64{}},
		"it had delivered nothing": {func(w *world) {
			w.setPods(failedStatus, "p-0")
			w.settled()
			w.addPoolPod(2)
		}, map[string]float64{"deliveries_total warm": 1, "delivery_writes_total warm": 2}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				w.appears(pooledBatch(2).MinAvailable(2).Obj())
				c.before(w)
				w.startController()
				w.news()
				if err := w.r.Rebuild(context.Background(), "e", nil); err != nil {
					t.Fatal(err)
				}
				w.settled()
				got := map[string]float64{}
				for name, value := range w.series() {
					if strings.HasPrefix(name, "deliver") && strings.Contains(name, "_total") {
						got[name] = value
					}
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("metrics of the second controller (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestADeliveryWhoseWriteIsRepeatedIsCountedOnce(t *testing.T) {
	fail := func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch) error {
		return apierrors.NewConflict(schema.GroupResource{}, obj.GetName(), errors.New("changed"))
	}
	cases := map[string]func(context.Context, client.WithWatch, client.Object, client.Patch) error{
		"refused with a conflict":         fail,
		"landed, and the answer was lost": lostAnswer,
		"not landed, and there is no reply": func(context.Context, client.WithWatch, client.Object, client.Patch) error {
			return errors.New("no reply")
		},
	}
	for name, onPatch := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				w.appears(pooledBatch(2).Obj())
				w.onPatch = onPatch
				if _, err := w.tryReconcile(); err == nil && w.series()["deliveries_total warm"] != 0 {
					t.Error("counted before it was written")
				}
				w.onPatch = nil
				w.settled()
				got := w.series()
				if got["deliveries_total warm"] != 1 || got["delivery_seconds warm n"] != 1 || got["delivery_stage_seconds reported n"] != 1 {
					t.Errorf("metrics %v, want one warm delivery", got)
				}
			})
		})
	}
}

func TestADeliveryIsToldWhenTheAnswerToItsStatusIsLost(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.appears(pooledBatch(2).Obj())
		w.statusIs = func() error { return errors.New("no reply") }
		if _, err := w.tryReconcile(); err == nil {
			t.Error("the lost answer is no error")
		}
		if got := w.series(); got["deliveries_total warm"] != 1 || got["delivery_stage_seconds reported n"] != 0 {
			t.Errorf("metrics %v, want a delivery that is not known to be told", got)
		}
		w.statusIs = nil
		w.settled()
		if got := w.series()["delivery_stage_seconds reported n"]; got != 1 {
			t.Errorf("told %v times, want once", got)
		}
	})
}

func TestABatchWithoutPoolIsDeliveredColdWhenAllItsAddressesAreTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.slow()
		w.appears(wrappers.MakeBatch(namespace, "b").Container("main").Replicas(2).Obj())
		w.reconcile()
		w.wantSeries(map[string]float64{})
		time.Sleep(time.Second)
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.1") }, "b-0")
		w.reconcile()
		w.wantSeries(map[string]float64{})
		time.Sleep(time.Second)
		took := time.Since(w.r.memories[w.key].delivery.seen)
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.2") }, "b-1")
		w.reconcile()
		w.settled()
		got := w.series()
		want := map[string]float64{
			"deliveries_total cold": 1, "delivery_seconds cold n": 1,
			"delivery_seconds cold sum":  (took + 3*time.Millisecond).Seconds(),
			"delivery_writes_total cold": got["delivery_writes_total cold"],
		}
		if diff := cmp.Diff(want, got); diff != "" || got["delivery_writes_total cold"] < 3 {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestWhatIsNoDeliveryIsNotCounted(t *testing.T) {
	cases := map[string]func(w *world){
		"a batch that asks for nothing, and for more later": func(w *world) {
			w.appears(pooledBatch(0).Obj())
			w.settled()
			w.edit(func(sb *v1alpha1.BatchSandbox) { *sb.Spec.Replicas = 1 })
		},
		"a batch without pool that asks for nothing, and for more later": func(w *world) {
			w.appears(wrappers.MakeBatch(namespace, "b").Container("main").Replicas(0).Obj())
			w.settled()
			w.edit(func(sb *v1alpha1.BatchSandbox) { *sb.Spec.Replicas = 1 })
			w.settled()
			w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.1") }, "b-0")
		},
		"a batch whose pool there isn't": func(w *world) { w.appears(wrappers.MakeBatch(namespace, "b").Pool("none").Obj()) },
		"a batch that gets a part": func(w *world) {
			w.appears(pooledBatch(3).Obj())
		},
		"a batch that is deleted while it waits": func(w *world) {
			w.appears(pooledBatch(3).Obj())
			w.settled()
			w.remove()
		},
	}
	for name, do := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 2)
				do(w)
				w.settled()
				for name, value := range w.series() {
					if strings.HasPrefix(name, "deliver") {
						t.Errorf("%s is %v", name, value)
					}
				}
			})
		})
	}
}

func TestSightsAreKeptOnlyUntilTheirBatchIsLookedAt(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Unix(100, 0))
	s := newSights(clk)
	first, second := wrappers.MakeBatch(namespace, "b").Obj(), wrappers.MakeBatch(namespace, "b").UID("second").Obj()
	p := s.predicate()
	if !p.Create(event.CreateEvent{Object: first, IsInInitialList: true}) || len(s.byName) != 0 {
		t.Error("a batch of the first list counts as new")
	}
	if !p.Create(event.CreateEvent{Object: first}) || !s.take(second).IsZero() || !s.take(first).Equal(clk.Now()) {
		t.Error("a new batch is not known by when it was seen")
	}
	if !s.take(first).IsZero() || len(s.byName) != 0 {
		t.Error("a sight is kept")
	}
	if !p.Update(event.UpdateEvent{ObjectOld: first, ObjectNew: first}) || len(s.byName) != 0 {
		t.Error("an edit counts as a batch that is new")
	}
	clk.SetTime(time.Unix(200, 0))
	if !p.Update(event.UpdateEvent{ObjectOld: first, ObjectNew: second}) || !s.take(second).Equal(time.Unix(200, 0)) {
		t.Error("a batch that was made anew is not seen")
	}
	p.Create(event.CreateEvent{Object: first})
	if s.forget(client.ObjectKeyFromObject(first)); len(s.byName) != 0 {
		t.Error("the sight of a batch that is gone is kept")
	}
}

func TestWhenATryEndedAndWhy(t *testing.T) {
	since, now := time.Unix(1000, 0), time.Unix(2000, 0)
	cases := map[string]struct {
		end  taskexecutor.Terminated
		want heardEnd
	}{
		"the executor tells when":              {taskexecutor.Terminated{Reason: "Completed", FinishedAt: time.Unix(1500, 5)}, heardEnd{"Completed", time.Unix(1500, 5)}},
		"it tells nothing":                     {taskexecutor.Terminated{}, heardEnd{"Completed", now}},
		"it tells a code alone":                {taskexecutor.Terminated{ExitCode: 1}, heardEnd{"NonZeroExit", now}},
		"its clock is ahead":                   {taskexecutor.Terminated{Reason: "TimedOut", FinishedAt: time.Unix(2001, 0)}, heardEnd{"TimedOut", now}},
		"it ended before it was followed":      {taskexecutor.Terminated{Reason: "Completed", FinishedAt: time.Unix(1, 0)}, heardEnd{"Completed", since}},
		"its reason is nobody's, and is kept":  {taskexecutor.Terminated{Reason: "Whatever", FinishedAt: now}, heardEnd{"Whatever", now}},
		"it ended when it began to be watched": {taskexecutor.Terminated{Reason: "StartError", FinishedAt: since}, heardEnd{"StartError", since}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := heardEndOf(&c.end, since, now); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestEndsThatNobodyTookGoWithTheirBatch(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		synctest.Wait()
		w.executor.becomes(endedWith(taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}))
		if n := len(w.heard[target1.uid]); n != 1 {
			t.Errorf("%d ends heard of, want 1", n)
		}
		w.ForgetBatch(target1.uid)
		if n := len(w.heard); n != 0 {
			t.Errorf("the ends of %d batches are kept", n)
		}
	})
}

func TestAReasonThatNobodyKnowsMakesNoSeries(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	before, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m.taskEnded(heardEnd{reason: "Whatever an executor says"}, time.Unix(1, 0))
	after, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for i := range after {
		if len(after[i].GetMetric()) != len(before[i].GetMetric()) {
			t.Errorf("%s has %d series, had %d", after[i].GetName(), len(after[i].GetMetric()), len(before[i].GetMetric()))
		}
	}
}

func TestEndsOfTasksAreCountedWhenTheStatusTellsThem(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.appears(pooledBatch(2).Task("true").Obj())
		w.settled()
		w.executor("10.0.0.10").becomes(endedWith(taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted, FinishedAt: time.Now()}))
		w.executor("10.0.0.11").becomes(endedWith(taskexecutor.Terminated{ExitCode: 7, Reason: taskexecutor.ReasonNonZeroExit}))
		time.Sleep(20 * time.Millisecond)
		w.onStatus = func() error { return apierrors.NewServiceUnavailable("down") }
		if _, err := w.tryReconcile(); err == nil {
			t.Error("a status that can't be written is no error")
		}
		tasks := func() map[string]float64 {
			got := map[string]float64{}
			for name, value := range w.series() {
				if strings.HasPrefix(name, "task_") {
					got[name] = value
				}
			}
			return got
		}
		if got := tasks(); len(got) != 0 {
			t.Errorf("counted %v before the status tells it", got)
		}
		w.onStatus = nil
		w.slow()
		time.Sleep(100 * time.Millisecond)
		w.settled()
		want := map[string]float64{
			"task_tries_total Completed": 1, "task_tries_total NonZeroExit": 1,
			"task_report_seconds n": 2, "task_report_seconds sum": 0.244,
		}
		if diff := cmp.Diff(want, tasks()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		w.remove()
		w.settled()
		if n := len(w.runner.heard); n != 0 {
			t.Errorf("%d batches' ends are kept", n)
		}
	})
}

func TestATryThatIsLostWithItsSandboxIsCountedOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.appears(pooledBatch(1).Task("true").Obj())
		w.settled()
		w.setPods(failedStatus, "p-0")
		w.settled()
		w.settled()
		if got := w.series()["task_tries_total SandboxLost"]; got != 1 {
			t.Errorf("%v tries lost, want 1", got)
		}
	})
}

// deliverOnce takes a delivery and the end of a task through all that measures them.
func deliverOnce(ctx context.Context, r *Reconciler, obs *observed, m *memory, heard []heardEnd) {
	m.delivery = delivery{}
	r.beginDelivery(ctx, obs, m)
	r.noteChoice(obs, m, 1, true)
	r.delivered(ctx, m)
	m.heard = heard
	r.told(m)
}

func measuring(tb testing.TB) (*Reconciler, *observed, *memory) {
	tb.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	clk := clocktesting.NewFakePassiveClock(time.Unix(100, 0))
	sb := pooledBatch(1).Obj()
	sb.CreationTimestamp = metav1.NewTime(time.Unix(99, 0))
	r := &Reconciler{metrics: m, clock: clk, sights: newSights(clk)}
	return r, &observed{sb: sb, now: clk.Now()}, &memory{}
}

func TestMeasuringCostsNoAllocation(t *testing.T) {
	r, obs, m := measuring(t)
	heard := []heardEnd{{reason: "TimedOut", at: obs.now}}
	if got := testing.AllocsPerRun(1000, func() { deliverOnce(t.Context(), r, obs, m, heard) }); got != 0 {
		t.Errorf("%v allocations for a delivery and the end of a task, want none", got)
	}
	if m.delivery.phase != deliveryOver {
		t.Errorf("phase %d: nothing was measured", m.delivery.phase)
	}
}

func TestABatchAtRestCostsTheMetricsNothing(t *testing.T) {
	r, obs, m := measuring(t)
	m.delivery.phase = deliveryOver
	runner := NewRunner(t.Context(), nil, nil, nil)
	got := testing.AllocsPerRun(1000, func() {
		m.heard = append(m.heard, runner.takeHeard(types.UID("u"))...)
		r.beginDelivery(t.Context(), obs, m)
		r.noteChoice(obs, m, 0, true)
		r.delivered(t.Context(), m)
		r.told(m)
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkMeasuringADelivery(b *testing.B) {
	r, obs, m := measuring(b)
	b.ReportAllocs()
	heard := []heardEnd{{reason: "TimedOut", at: obs.now}}
	for b.Loop() {
		deliverOnce(b.Context(), r, obs, m, heard)
	}
}
