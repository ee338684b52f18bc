// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// tracesPath is where a receiver of OTLP over HTTP takes traces.
	tracesPath = "/v1/traces"

	// sendTimeout bounds one request.
	sendTimeout = 10 * time.Second

	// maxAnswer is how much is read of an answer, in bytes.
	maxAnswer = 4 << 10
)

// exporter sends spans by OTLP over HTTP, in protobuf. What can't be sent is lost: nobody waits for it, and nothing is kept.
type exporter struct {
	url    string
	client *http.Client
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	body, err := proto.Marshal(requestOf(spans))
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("send spans to %s: %s: %.200q", e.url, resp.Status, answer)
	}
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// requestOf is what is sent. All spans are of one process, and of one scope.
func requestOf(spans []sdktrace.ReadOnlySpan) *collectorv1.ExportTraceServiceRequest {
	scope := &tracev1.ScopeSpans{Scope: &commonv1.InstrumentationScope{
		Name: spans[0].InstrumentationScope().Name, Version: spans[0].InstrumentationScope().Version,
	}}
	for _, s := range spans {
		scope.Spans = append(scope.Spans, spanOf(s))
	}
	return &collectorv1.ExportTraceServiceRequest{ResourceSpans: []*tracev1.ResourceSpans{{
		Resource:   &resourcev1.Resource{Attributes: attributesOf(spans[0].Resource().Attributes())},
		ScopeSpans: []*tracev1.ScopeSpans{scope},
	}}}
}

func spanOf(s sdktrace.ReadOnlySpan) *tracev1.Span {
	traceID, spanID := s.SpanContext().TraceID(), s.SpanContext().SpanID()
	span := &tracev1.Span{
		TraceId: traceID[:], SpanId: spanID[:], Name: s.Name(), Kind: kindOf(s.SpanKind()), Attributes: attributesOf(s.Attributes()),
		StartTimeUnixNano: nanoseconds(s.StartTime()), EndTimeUnixNano: nanoseconds(s.EndTime()),
		DroppedAttributesCount: uint32(max(0, s.DroppedAttributes())), //nolint:gosec // a handful
		Status:                 &tracev1.Status{},
	}
	if parent := s.Parent().SpanID(); parent.IsValid() {
		span.ParentSpanId = parent[:]
	}
	if status := s.Status(); status.Code == codes.Error {
		span.Status = &tracev1.Status{Code: tracev1.Status_STATUS_CODE_ERROR, Message: status.Description}
	}
	return span
}

func nanoseconds(t time.Time) uint64 { return uint64(max(0, t.UnixNano())) } //nolint:gosec // not negative

func kindOf(k trace.SpanKind) tracev1.Span_SpanKind {
	if k == trace.SpanKindClient {
		return tracev1.Span_SPAN_KIND_CLIENT
	}
	return tracev1.Span_SPAN_KIND_INTERNAL
}

func attributesOf(attributes []attribute.KeyValue) []*commonv1.KeyValue {
	var all []*commonv1.KeyValue
	for _, a := range attributes {
		value := &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: a.Value.String()}}
		switch a.Value.Type() { //nolint:exhaustive // all else is told as text
		case attribute.INT64:
			value = &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: a.Value.AsInt64()}}
		case attribute.BOOL:
			value = &commonv1.AnyValue{Value: &commonv1.AnyValue_BoolValue{BoolValue: a.Value.AsBool()}}
		}
		all = append(all, &commonv1.KeyValue{Key: string(a.Key), Value: value})
	}
	return all
}
