// SPDX-License-Identifier: Apache-2.0

package executorcalls

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestResultOfACall(t *testing.T) {
	cases := map[string]struct {
		status int
		err    error
		want   result
		not    bool
	}{
		"an answer":                              {status: 200, want: resultDone},
		"an answer without a body":               {status: 204, want: resultDone},
		"a token that is not accepted":           {status: 401, want: resultRefused},
		"a caller that may not call":             {status: 403, want: resultRefused},
		"a task that is not accepted":            {status: 400, want: resultRejected},
		"an executor without the call":           {status: 404, want: resultRejected},
		"a redirect, which nobody follows":       {status: 302, want: resultFailed},
		"an executor that fails":                 {status: 500, want: resultFailed},
		"a port that is closed":                  {err: errors.New("connection refused"), want: resultUnreachable},
		"no answer in time":                      {err: fmt.Errorf("get: %w", context.DeadlineExceeded), want: resultUnreachable},
		"a long poll that nobody wants any more": {err: fmt.Errorf("get: %w", context.Canceled), not: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, counts := resultOf(c.status, c.err)
			if counts == c.not || (counts && got != c.want) {
				t.Errorf("result %s, counted %t; want %s, %t", got, counts, c.want, !c.not)
			}
		})
	}
}

func TestCallsAreCountedOnTheWire(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter, err := New(registry)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	url := server.URL
	call := func(path string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := counter.Wrap(http.DefaultTransport).RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	call("/done")
	call("/done")
	call("/refused")
	server.Close()
	call("/closed")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	want := map[string]float64{"done": 2, "refused": 1, "rejected": 0, "failed": 0, "unreachable": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
}
