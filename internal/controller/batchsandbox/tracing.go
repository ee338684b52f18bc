// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"opensandbox.io/controller/api/v1alpha1"
)

// A trace is that of a first delivery:
//
//	delivery                    from the first sight of the batch to the answer to the write of the last addresses
//	├── queue                   until the look that brought its last pods
//	├── choose                  until these pods are chosen
//	├── patch batchsandboxes    each write of the allocation
//	├── patch .../status        each write of the status, the report of the delivery too, which ends after it
//	└── dispatch task           from the look that gives a first try to its sandbox until its executor has it
//
// A delivery that never comes to its end makes no trace. Where tracing is off, or the trace is not sampled, spans are nil and cost nothing.
const (
	// maxTracedWrites and maxTracedTasks bound the spans of one trace: a batch may wait for hours and be told its place all the time, and
	// may have thousands of tasks. Of these the first are traced.
	maxTracedWrites = 32
	maxTracedTasks  = 16

	spanDelivery    = "delivery"
	spanQueue       = "queue"
	spanChoose      = "choose"
	spanWriteObject = "patch batchsandboxes"
	spanWriteStatus = "patch batchsandboxes/status"
	spanDispatch    = "dispatch task"
)

// beginTrace begins the trace of a delivery that is to be measured, at the first sight of its batch.
func (r *Reconciler) beginTrace(ctx context.Context, obs *observed, d *delivery) {
	if r.tracer == nil || d.phase != deliveryPending {
		return
	}
	_, span := r.tracer.Start(ctx, spanDelivery, trace.WithNewRoot(), trace.WithTimestamp(d.seen), trace.WithAttributes(
		attribute.String("k8s.namespace.name", obs.sb.Namespace),
		attribute.String("opensandbox.batch.name", obs.sb.Name),
		attribute.String("opensandbox.batch.uid", string(obs.sb.UID)),
		attribute.String("opensandbox.pool.name", obs.sb.Spec.PoolRef),
		attribute.Int("opensandbox.batch.replicas", obs.replicas()),
	))
	if span.IsRecording() {
		d.span = span
	}
}

// traceDelivered ends the trace's first span, if the delivery was measured just now.
func (r *Reconciler) traceDelivered(ctx context.Context, d *delivery) {
	if d.span == nil || d.phase != deliveryWritten || !d.span.IsRecording() {
		return
	}
	if d.start != startCold {
		r.stageSpan(ctx, d, spanQueue, d.seen, d.turn)
		r.stageSpan(ctx, d, spanChoose, d.turn, d.chosen)
	}
	d.span.SetAttributes(attribute.String("opensandbox.delivery.start", d.start.String()), attribute.Int("opensandbox.delivery.writes", d.writes))
	d.span.End(trace.WithTimestamp(d.written))
	d.span = trace.SpanFromContext(trace.ContextWithSpanContext(ctx, d.span.SpanContext())) // what it holds has been sent
}

func (r *Reconciler) stageSpan(ctx context.Context, d *delivery, name string, from, to time.Time) {
	_, span := r.tracer.Start(trace.ContextWithSpan(ctx, d.span), name, trace.WithTimestamp(from))
	span.End(trace.WithTimestamp(to))
}

// traceWrite begins the span of a write that belongs to a delivery; nil for none.
func (r *Reconciler) traceWrite(ctx context.Context, d *delivery, name string) trace.Span {
	if d.span == nil || d.phase == deliveryOver || d.writes > maxTracedWrites {
		return nil
	}
	_, span := r.tracer.Start(trace.ContextWithSpan(ctx, d.span), name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(r.clock.Now()))
	return span
}

// endWrite ends the span of a write by its answer.
func (r *Reconciler) endWrite(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, string(apierrors.ReasonForError(err))) // a word of Kubernetes, not a text of anybody's
	}
	span.End(trace.WithTimestamp(r.clock.Now()))
}

// traceDispatch begins the span of the dispatch of a first try; nil for none.
func (r *Reconciler) traceDispatch(ctx context.Context, d *delivery, index, try int) trace.Span {
	if d.span == nil || index >= maxTracedTasks || try > 1 {
		return nil
	}
	_, span := r.tracer.Start(trace.ContextWithSpan(ctx, d.span), spanDispatch, trace.WithTimestamp(r.clock.Now()),
		trace.WithAttributes(attribute.Int(indexAttribute, index)))
	return span
}

// indexAttribute is the index of a sandbox.
const indexAttribute = "opensandbox.sandbox.index"

// dispatched ends the span of a dispatch: the executor has the task, or refuses it.
func (r *Runner) dispatched(span trace.Span, refusal error) {
	if span == nil || !span.IsRecording() {
		return
	}
	if refusal != nil {
		span.SetStatus(codes.Error, v1alpha1.TaskReasonStartError)
	}
	span.End(trace.WithTimestamp(r.clock.Now()))
}
