// SPDX-License-Identifier: Apache-2.0

package apiwrites

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// counted are the values of the counter that are not 0, as "verb resource".
func counted(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		if v := m.GetCounter().GetValue(); v != 0 {
			got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = v
		}
	}
	return got
}

func TestWritesAreCountedByResourceAndVerb(t *testing.T) {
	const batches = "/apis/sandbox.opensandbox.io/v1alpha1/namespaces/ns/batchsandboxes"
	cases := map[string]struct {
		method, path string
		want         map[string]float64
	}{
		"reads are no writes":                  {http.MethodGet, batches + "/b", map[string]float64{}},
		"a watch is no write":                  {http.MethodGet, batches + "?watch=true", map[string]float64{}},
		"a batch is patched":                   {http.MethodPatch, batches + "/b", map[string]float64{"patch batchsandboxes": 1}},
		"its status is patched":                {http.MethodPatch, batches + "/b/status", map[string]float64{"patch batchsandboxes/status": 1}},
		"a batch of the name status":           {http.MethodDelete, batches + "/status", map[string]float64{"delete batchsandboxes": 1}},
		"a pod is created":                     {http.MethodPost, "/api/v1/namespaces/ns/pods", map[string]float64{"create pods": 1}},
		"a pod in a namespace namespaces":      {http.MethodDelete, "/api/v1/namespaces/namespaces/pods/p", map[string]float64{"delete pods": 1}},
		"an API server behind a path":          {http.MethodPut, "/k8s/clusters/c/apis/coordination.k8s.io/v1/namespaces/ns/leases/l", map[string]float64{"update leases": 1}},
		"the status of a pod is none of ours":  {http.MethodPatch, "/api/v1/namespaces/ns/pods/p/status", map[string]float64{"patch other": 1}},
		"a resource that is none of ours":      {http.MethodPost, "/api/v1/namespaces/ns/configmaps", map[string]float64{"create other": 1}},
		"a resource that is in no namespace":   {http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", map[string]float64{"create other": 1}},
		"a path that is cut off":               {http.MethodPost, "/api/v1/namespaces/", map[string]float64{"create other": 1}},
		"an event":                             {http.MethodPost, "/apis/events.k8s.io/v1/namespaces/ns/events", map[string]float64{"create events": 1}},
		"a method that Kubernetes doesn't use": {http.MethodOptions, batches, map[string]float64{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			counter, err := New(registry)
			if err != nil {
				t.Fatal(err)
			}
			var sent string
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent = r.Method }))
			defer server.Close()
			req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := counter.Wrap(http.DefaultTransport).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			if sent != c.method {
				t.Errorf("the API server got %q, want %q", sent, c.method)
			}
			if diff := cmp.Diff(c.want, counted(t, registry)); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCountingCostsNoAllocation(t *testing.T) {
	counter, err := New(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	got := testing.AllocsPerRun(1000, func() {
		counter.count("/apis/sandbox.opensandbox.io/v1alpha1/namespaces/ns/batchsandboxes/b/status", "patch")
		counter.count("/api/v1/namespaces/ns/pods/p", "delete")
		counter.count("/apis/apps/v1/namespaces/ns/deployments/d/scale", "patch")
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkCount(b *testing.B) {
	counter, err := New(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		counter.count("/apis/sandbox.opensandbox.io/v1alpha1/namespaces/ns/batchsandboxes/b/status", "patch")
	}
}
