// SPDX-License-Identifier: Apache-2.0

// Package executorcalls counts the calls of task-executors by what came of them.
package executorcalls

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// result is what came of a call.
type result int

const (
	// resultDone: the executor did what it was asked.
	resultDone result = iota

	// resultRefused: the executor doesn't accept the token.
	resultRefused

	// resultRejected: the executor doesn't accept the request.
	resultRejected

	// resultFailed: the executor gave another answer, or what is there is none.
	resultFailed

	// resultUnreachable: there was no answer.
	resultUnreachable

	numResults
)

func (r result) String() string {
	switch r {
	case resultDone:
		return "done"
	case resultRefused:
		return "refused"
	case resultRejected:
		return "rejected"
	case resultFailed:
		return "failed"
	case resultUnreachable:
		return "unreachable"
	default:
		return "unknown"
	}
}

// Counter counts calls by result. It is safe for concurrent use.
type Counter struct {
	calls [numResults]prometheus.Counter
}

// New returns a counter and registers it.
func New(registry prometheus.Registerer) (*Counter, error) {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_executor_calls_total",
		Help: "Calls of task-executors by result: done; refused (401 or 403: the token is not accepted); rejected (other 4xx); failed (other answers); " +
			"unreachable (no answer in time).",
	}, []string{"result"})
	if err := registry.Register(calls); err != nil {
		return nil, fmt.Errorf("register the counter of executor calls: %w", err)
	}
	c := &Counter{}
	for r := range numResults {
		c.calls[r] = calls.WithLabelValues(r.String())
	}
	return c, nil
}

// Wrap returns a transport that counts what comes of its calls.
func (c *Counter) Wrap(next http.RoundTripper) http.RoundTripper {
	return &transport{counter: c, next: next}
}

type transport struct {
	counter *Counter
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	if r, counts := resultOf(status, err); counts {
		t.counter.calls[r].Inc()
	}
	return resp, err
}

// resultOf tells what came of a call. One that the caller gave up is nothing to count.
//
//	| answer        | error                | result      |
//	| -             | given up             | not counted |
//	| -             | any other, timeouts  | unreachable |
//	| 2xx           | -                    | done        |
//	| 401, 403      | -                    | refused     |
//	| other 4xx     | -                    | rejected    |
//	| anything else | -                    | failed      |
func resultOf(status int, err error) (r result, counts bool) {
	switch {
	case errors.Is(err, context.Canceled):
		return 0, false
	case err != nil:
		return resultUnreachable, true
	case status >= 200 && status < 300:
		return resultDone, true
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return resultRefused, true
	case status >= 400 && status < 500:
		return resultRejected, true
	default:
		return resultFailed, true
	}
}
