// SPDX-License-Identifier: Apache-2.0

// Package apiwrites counts what the controller writes to the API server, where it goes over the wire: repeated calls of
// the client library count each.
package apiwrites

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// other is the resource of writes that the controller is not known to make.
const other = "other"

// key is what one write is counted by.
type key struct{ resource, verb string }

// Counter counts writes by resource and verb. It is safe for concurrent use.
type Counter struct {
	writes map[key]prometheus.Counter // never changed
}

// New returns a counter and registers it.
func New(registry prometheus.Registerer) (*Counter, error) {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "opensandbox_api_writes_total",
		Help: "Writes sent to the API server, repeated ones included, by resource (with its subresource) and verb (create, update, patch, delete).",
	}, []string{"resource", "verb"})
	if err := registry.Register(writes); err != nil {
		return nil, fmt.Errorf("register the counter of writes: %w", err)
	}
	c := &Counter{writes: map[key]prometheus.Counter{}}
	for _, resource := range []string{"batchsandboxes", "batchsandboxes/status", "pools", "pools/status", "pods", "events", "leases", "secrets", other} {
		for _, verb := range []string{"create", "update", "patch", "delete"} {
			c.writes[key{resource, verb}] = writes.WithLabelValues(resource, verb)
		}
	}
	return c, nil
}

// Wrap returns a transport that counts what it sends.
func (c *Counter) Wrap(next http.RoundTripper) http.RoundTripper {
	return &transport{counter: c, next: next}
}

type transport struct {
	counter *Counter
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if verb := verbOf(req.Method); verb != "" {
		t.counter.count(req.URL.Path, verb)
	}
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets the client library find the transport below.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (c *Counter) count(path, verb string) {
	w, ok := c.writes[key{resourceOf(path), verb}]
	if !ok {
		w = c.writes[key{other, verb}]
	}
	w.Inc()
}

// verbOf is the verb of a write; "" for a read.
func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return ""
	}
}

// resourceOf is the resource of a path in a namespace; "" for another path:
//
//	| path                                     | resource        |
//	| .../namespaces/NS/RESOURCE               | RESOURCE        |
//	| .../namespaces/NS/RESOURCE/NAME          | RESOURCE        |
//	| .../namespaces/NS/RESOURCE/NAME/status   | RESOURCE/status |
//	| .../namespaces/NS/RESOURCE/NAME/SUB      | ""              |
func resourceOf(path string) string {
	_, rest, ok := strings.Cut(path, "/namespaces/")
	if !ok {
		return ""
	}
	_, rest, _ = strings.Cut(rest, "/")
	resource, rest, _ := strings.Cut(rest, "/")
	switch _, sub, _ := strings.Cut(rest, "/"); {
	case sub == "":
		return resource
	case sub != "status":
		return ""
	case resource == "batchsandboxes":
		return "batchsandboxes/status" // spelt out, so that nothing is allocated
	case resource == "pools":
		return "pools/status"
	default:
		return ""
	}
}
