// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// traced has the reconciler make traces, and returns what keeps their spans.
func (w *world) traced(options ...sdktrace.TracerProviderOption) *tracetest.InMemoryExporter {
	exporter := tracetest.NewInMemoryExporter()
	w.r.tracer = sdktrace.NewTracerProvider(append(options, sdktrace.WithSyncer(exporter))...).Tracer("test")
	return exporter
}

// tree are the spans below their parents, each with when it begins after the first one, how long it takes and what went wrong.
func tree(spans tracetest.SpanStubs) []string {
	slices.SortStableFunc(spans, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	var lines []string
	var add func(parent, indent string)
	first := time.Time{}
	add = func(parent, indent string) {
		for _, s := range spans {
			if s.Parent.SpanID().String() != parent {
				continue
			}
			if first.IsZero() {
				first = s.StartTime
			}
			line := fmt.Sprintf("%s%s at %v for %v", indent, s.Name, s.StartTime.Sub(first), s.EndTime.Sub(s.StartTime))
			if s.Status.Description != "" {
				line += ": " + s.Status.Description
			}
			lines = append(lines, line)
			add(s.SpanContext.SpanID().String(), indent+"  ")
		}
	}
	add("0000000000000000", "")
	return lines
}

func wantTree(t *testing.T, exporter *tracetest.InMemoryExporter, want ...string) {
	t.Helper()
	got := tree(exporter.GetSpans())
	slices.Sort(got[min(1, len(got)):]) // spans that begin at once
	slices.Sort(want[min(1, len(want)):])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
}

func TestADeliveryWithATaskMakesATraceOfItsStagesItsWritesAndItsDispatch(t *testing.T) {
	inWorld(t, func(w *world) {
		exporter := w.traced()
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.slow()
		w.appears(pooledBatch(1).Task("true").Obj())
		time.Sleep(7 * time.Millisecond)
		w.reconcile()
		w.settled()
		wantTree(t, exporter,
			"delivery at 0s for 10ms",
			"  queue at 0s for 7ms",
			"  choose at 7ms for 0s",
			"  patch batchsandboxes at 7ms for 3ms",
			"  patch batchsandboxes/status at 10ms for 2ms",
			"  dispatch task at 12ms for 0s",
		)
		told := map[string]string{}
		for _, s := range exporter.GetSpans() {
			for _, a := range s.Attributes {
				told[string(a.Key)] = a.Value.String()
			}
		}
		want := map[string]string{
			"k8s.namespace.name": namespace, "opensandbox.batch.name": "b", "opensandbox.batch.uid": string(w.batch().UID), "opensandbox.pool.name": "p",
			"opensandbox.batch.replicas": "1", "opensandbox.delivery.start": "warm", "opensandbox.delivery.writes": "1", "opensandbox.sandbox.index": "0",
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		if w.r.memories[w.key].delivery.span.IsRecording() {
			t.Error("the memory keeps the spans that were sent")
		}
	})
}

func TestADeliveryWithoutPoolMakesATraceWithoutStages(t *testing.T) {
	inWorld(t, func(w *world) {
		exporter := w.traced()
		w.appears(wrappers.MakeBatch(namespace, "b").Container("main").Replicas(1).Obj())
		w.settled()
		w.setPods(func(int) corev1.PodStatus { return readyStatus("10.0.0.1") }, "b-0")
		w.settled()
		got := strings.Join(tree(exporter.GetSpans()), "\n")
		if !strings.HasPrefix(got, "delivery at") || strings.Contains(got, spanQueue) || !strings.Contains(got, "  "+spanWriteObject+" at") {
			t.Errorf("trace\n%s", got)
		}
	})
}

func TestAWriteThatConflictsIsInTheTraceAndSoIsTheOneThatFollows(t *testing.T) {
	inWorld(t, func(w *world) {
		exporter := w.traced()
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.onPatch = func(_ context.Context, _ client.WithWatch, obj client.Object, _ client.Patch) error {
			return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("batchsandboxes").GroupResource(), obj.GetName(), nil)
		}
		w.appears(pooledBatch(1).Obj())
		w.reconcile()
		w.onPatch = nil
		w.settled()
		got := strings.Join(tree(exporter.GetSpans()), "\n")
		if !strings.Contains(got, "  "+spanWriteObject+" at 0s for 0s: Conflict") || strings.Count(got, spanWriteObject+" ") != 2 {
			t.Errorf("trace\n%s", got)
		}
	})
}

func TestATraceIsBoundedHoweverLongABatchWaitsAndHoweverManyTasksItHas(t *testing.T) {
	inWorld(t, func(w *world) {
		exporter := w.traced()
		w.addPool(v1alpha1.RecycleNoop, 0)
		w.editPool(func(c *v1alpha1.CapacitySpec) { c.PoolMax = 100 })
		w.appears(pooledBatch(40).Task("true").Obj())
		for i := range 40 {
			w.addPoolPod(i)
			w.settled()
			time.Sleep(pace)
		}
		w.settled()
		writes, dispatches := 0, 0
		for _, s := range exporter.GetSpans() {
			switch s.Name {
			case spanDispatch:
				dispatches++
			case spanWriteObject, spanWriteStatus:
				writes++
			}
		}
		if writes != maxTracedWrites || dispatches != maxTracedTasks {
			t.Errorf("%d writes and %d dispatches, want %d and %d", writes, dispatches, maxTracedWrites, maxTracedTasks)
		}
		if got := strings.Join(tree(exporter.GetSpans()), "\n"); !strings.HasPrefix(got, "delivery at 0s") {
			t.Errorf("trace\n%s", got)
		}
	})
}

func TestATraceThatIsNotSampledMakesNoSpan(t *testing.T) {
	inWorld(t, func(w *world) {
		exporter := w.traced(sdktrace.WithSampler(sdktrace.NeverSample()))
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.appears(pooledBatch(1).Task("true").Obj())
		w.settled()
		if n := len(exporter.GetSpans()); n != 0 || w.r.memories[w.key].delivery.span != nil {
			t.Errorf("%d spans, and %v is kept", n, w.r.memories[w.key].delivery.span)
		}
	})
}

// traceOne makes all calls of a delivery that may make a span.
func traceOne(ctx context.Context, r *Reconciler, obs *observed, d *delivery) {
	d.phase, d.writes = deliveryPending, 0
	r.beginTrace(ctx, obs, d)
	d.writes++
	r.endWrite(r.traceWrite(ctx, d, spanWriteObject), nil)
	d.phase = deliveryWritten
	r.traceDelivered(ctx, d)
	r.endWrite(r.traceWrite(ctx, d, spanWriteStatus), nil)
	r.runner.dispatched(r.traceDispatch(ctx, d, 0, 1), nil)
}

func tracedParts() (*Reconciler, *observed) {
	clk := clock.RealClock{}
	return &Reconciler{clock: clk, runner: &Runner{clock: clk}, ledger: scheduler.NewLedger(nobody{})}, &observed{sb: pooledBatch(1).Obj()}
}

func TestTracesThatAreOffCostNoAllocation(t *testing.T) {
	r, obs := tracedParts()
	var d delivery
	if n := testing.AllocsPerRun(1000, func() { traceOne(t.Context(), r, obs, &d) }); n != 0 {
		t.Errorf("%v allocations of a delivery, want none", n)
	}
}

// BenchmarkTrace is what a delivery costs in traces, off and on.
func BenchmarkTrace(b *testing.B) {
	for name, tracer := range map[string]sdktrace.SpanProcessor{"off": nil, "on": sdktrace.NewBatchSpanProcessor(tracetest.NewNoopExporter())} {
		b.Run(name, func(b *testing.B) {
			r, obs := tracedParts()
			if tracer != nil {
				r.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(tracer)).Tracer("test")
			}
			b.ReportAllocs()
			for b.Loop() {
				traceOne(b.Context(), r, obs, &delivery{seen: time.Unix(1, 0)})
			}
		})
	}
}
