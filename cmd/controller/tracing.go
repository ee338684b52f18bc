// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"

	"opensandbox.io/controller/internal/utils/tracing"
)

// flushTimeout bounds how long the last traces may take, once the lease is given back. With shutdownTimeout it fits into the grace of the
// pod, 30 s.
const flushTimeout = 5 * time.Second

// startTracing returns what makes traces; nil where they are off.
func startTracing(o Options, logger logr.Logger) (*tracing.Tracing, error) {
	traces, err := tracing.New(o.tracing())
	if err != nil {
		return nil, fmt.Errorf("start tracing: %w", err)
	}
	if traces != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Error(err, "traces are lost") }))
		logger.Info("traces deliveries", "endpoint", o.TracingEndpoint, "ratePerMillion", o.TracingRate)
	}
	return traces, nil
}

// endTracing sends the last traces, though the context has ended.
func endTracing(ctx context.Context, traces *tracing.Tracing, logger logr.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := traces.Shutdown(ctx); err != nil {
		logger.Error(err, "traces are lost")
	}
}
