// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/slim/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver takes traces by OTLP over HTTP.
type receiver struct {
	*httptest.Server
	got chan *collectorv1.ExportTraceServiceRequest
}

func startReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{got: make(chan *collectorv1.ExportTraceServiceRequest, 10)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s with %v: %v", req.Method, req.URL, req.Header, err)
		}
		request := &collectorv1.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, request); err != nil {
			t.Error(err)
		}
		r.got <- request
		answer(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func fine(http.ResponseWriter, *http.Request) {}

func makeTracing(t *testing.T, endpoint string, rate int) *Tracing {
	t.Helper()
	tracing, err := New(Options{Endpoint: endpoint, Rate: rate, Instance: "a", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	return tracing
}

func textsOf(attributes []*commonv1.KeyValue) map[string]string {
	texts := map[string]string{}
	for _, a := range attributes {
		texts[a.GetKey()] = a.GetValue().String()
	}
	return texts
}

func TestSpansReachAReceiverWithAllThatTheyTellWhenTheProcessEnds(t *testing.T) {
	r := startReceiver(t, fine)
	tracing := makeTracing(t, r.URL+"/", MaxRate)
	begin := time.Unix(100, 5)
	ctx, parent := tracing.Tracer().Start(t.Context(), "delivery", trace.WithTimestamp(begin), trace.WithAttributes(attribute.Int("n", 3), attribute.String("s", "x"), attribute.Bool("b", true)))
	_, child := tracing.Tracer().Start(ctx, "write", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begin))
	child.SetStatus(codes.Error, "Conflict")
	child.End(trace.WithTimestamp(begin.Add(time.Millisecond)))
	parent.End(trace.WithTimestamp(begin.Add(time.Second)))
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := (<-r.got).GetResourceSpans()[0]
	if diff := cmp.Diff(map[string]string{
		"service.name": `string_value:"opensandbox-controller"`, "service.version": `string_value:"v1"`, "service.instance.id": `string_value:"a"`,
	}, normal(textsOf(got.GetResource().GetAttributes()))); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
	scopeSpans := got.GetScopeSpans()[0]
	if name := scopeSpans.GetScope().GetName(); name != scope || len(scopeSpans.GetSpans()) != 2 {
		t.Fatalf("%d spans of %s", len(scopeSpans.GetSpans()), name)
	}
	write, delivery := scopeSpans.GetSpans()[0], scopeSpans.GetSpans()[1]
	switch {
	case string(write.GetParentSpanId()) != string(delivery.GetSpanId()) || len(delivery.GetSpanId()) != 8 || len(delivery.GetParentSpanId()) != 0:
		t.Errorf("span %x has parent %x, which is %x", write.GetSpanId(), write.GetParentSpanId(), delivery.GetSpanId())
	case string(write.GetTraceId()) != string(delivery.GetTraceId()) || len(write.GetTraceId()) != 16:
		t.Errorf("traces %x and %x, want one", write.GetTraceId(), delivery.GetTraceId())
	case write.GetKind() != tracev1.Span_SPAN_KIND_CLIENT || delivery.GetKind() != tracev1.Span_SPAN_KIND_INTERNAL:
		t.Errorf("kinds %v and %v", write.GetKind(), delivery.GetKind())
	case write.GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR || write.GetStatus().GetMessage() != "Conflict" || delivery.GetStatus().GetCode() != 0:
		t.Errorf("status %v and %v", write.GetStatus(), delivery.GetStatus())
	case delivery.GetStartTimeUnixNano() != 100e9+5 || delivery.GetEndTimeUnixNano() != 101e9+5 || write.GetEndTimeUnixNano() != 100e9+1e6+5:
		t.Errorf("times %v and %v", delivery, write)
	}
	if diff := cmp.Diff(map[string]string{"n": "int_value:3", "s": `string_value:"x"`, "b": "bool_value:true"}, normal(textsOf(delivery.GetAttributes()))); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// normal undoes the blanks that texts of protobuf have now and then.
func normal(texts map[string]string) map[string]string {
	for k, v := range texts {
		texts[k] = strings.ReplaceAll(v, " ", "")
	}
	return texts
}

func TestTheRateSaysHowManyTracesAreMade(t *testing.T) {
	for rate, want := range map[int][2]int{0: {0, 0}, MaxRate / 2: {350, 650}, MaxRate: {1000, 1000}} {
		tracing := makeTracing(t, "http://127.0.0.1:1", rate)
		made := 0
		for range 1000 {
			if _, span := tracing.Tracer().Start(t.Context(), "x"); span.IsRecording() {
				made++
			}
		}
		if made < want[0] || made > want[1] {
			t.Errorf("rate %d: %d traces of 1000, want from %d to %d", rate, made, want[0], want[1])
		}
	}
}

func TestAReceiverThatFailsIsToldAndOneThatHangsIsNotWaitedFor(t *testing.T) {
	send := func(answer http.HandlerFunc) error {
		r := startReceiver(t, answer)
		e := makeTracing(t, r.URL, MaxRate)
		_, span := e.Tracer().Start(t.Context(), "x")
		span.End()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return e.Shutdown(ctx)
	}
	if err := send(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-req.Context().Done():
		case <-t.Context().Done():
		}
	}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a receiver that hangs: %v, want that the time is over", err)
	}
	r := startReceiver(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no room", http.StatusServiceUnavailable) })
	e := &exporter{url: r.URL + tracesPath, client: r.Client()}
	if err := e.ExportSpans(t.Context(), nil); err != nil {
		t.Errorf("nothing to send: %v", err)
	}
}

func TestOptions(t *testing.T) {
	cases := map[string]struct {
		options Options
		wrong   string
	}{
		"none: no traces":            {Options{}, ""},
		"a receiver":                 {Options{Endpoint: "http://collector.monitoring:4318", Rate: 1}, ""},
		"a receiver with TLS":        {Options{Endpoint: "https://collector/otlp", Rate: MaxRate}, ""},
		"no scheme":                  {Options{Endpoint: "collector:4318"}, "no URL of a receiver"},
		"only a path":                {Options{Endpoint: "/v1/traces"}, "no URL of a receiver"},
		"gRPC":                       {Options{Endpoint: "grpc://collector:4317"}, "no URL of a receiver"},
		"no URL":                     {Options{Endpoint: "http://a b"}, "no URL"},
		"more than every trace":      {Options{Rate: MaxRate + 1}, "use 0 to"},
		"fewer than no trace at all": {Options{Rate: -1}, "use 0 to"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tracing, err := New(c.options)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("error %v, want one with %q", err, c.wrong)
				}
				return
			}
			if err != nil || (tracing.Tracer() != nil) != (c.options.Endpoint != "") {
				t.Errorf("tracer %v, error %v", tracing.Tracer(), err)
			}
			if err := tracing.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
