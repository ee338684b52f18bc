// SPDX-License-Identifier: Apache-2.0

// Package tracing sends OpenTelemetry traces to a receiver of OTLP over HTTP. It doesn't link the exporter of the OpenTelemetry project, which
// brings gRPC with it: see docs/adr/0019-traces-without-grpc.md.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// scope is the name of what makes the spans.
	scope = "opensandbox.io/controller"

	// MaxRate is the rate that samples every trace.
	MaxRate = 1_000_000
)

// Options say where traces go.
type Options struct {
	// Endpoint is the address of the receiver as OTEL_EXPORTER_OTLP_ENDPOINT has it: http or https, host and port, without /v1/traces. Empty:
	// there are no traces.
	Endpoint string

	// Rate is how many traces of a million are made, from 0 to MaxRate.
	Rate int

	// Instance and Version tell which process it is, and of which build.
	Instance, Version string
}

// Check returns what is wrong with the options.
func (o Options) Check() error {
	if o.Rate < 0 || o.Rate > MaxRate {
		return fmt.Errorf("%d traces of a million: use 0 to %d", o.Rate, MaxRate)
	}
	if o.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return fmt.Errorf("%q is no URL: %w", o.Endpoint, err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is no URL of a receiver of OTLP over HTTP: use one like http://collector.monitoring:4318", o.Endpoint)
	}
	return nil
}

// Tracing makes spans and sends them in the background.
type Tracing struct {
	provider *sdktrace.TracerProvider
}

// New returns a Tracing; nil without an endpoint.
func New(o Options) (*Tracing, error) {
	if err := o.Check(); err != nil || o.Endpoint == "" {
		return nil, err
	}
	to, err := url.JoinPath(o.Endpoint, tracesPath)
	if err != nil {
		return nil, err
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the default transport is not that of net/http")
	}
	e := &exporter{url: to, client: &http.Client{Transport: transport.Clone()}}
	about := resource.NewSchemaless(attribute.String("service.name", "opensandbox-controller"), attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Instance))
	return &Tracing{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(e), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(o.Rate)/MaxRate))),
	)}, nil
}

// Tracer makes spans; nil, which nobody asks for a span, of a nil Tracing.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer(scope)
}

// Shutdown sends what has not been sent, until the context ends.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}
