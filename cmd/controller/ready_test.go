// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadiness(t *testing.T) {
	done, open := make(chan struct{}), make(chan struct{})
	close(done)
	cases := map[string]struct {
		synced           bool
		elected, rebuilt chan struct{}
		want             error
	}{
		"caches are being filled":                   {false, open, open, errNotSynced},
		"a leader whose caches are being filled":    {false, done, open, errNotSynced},
		"a leader that lost what it had filled":     {false, done, done, errNotSynced},
		"a standby with its caches filled is ready": {true, open, open, nil},
		"a leader without its ledger":               {true, done, open, errNotRebuilt},
		"a leader that hands out is ready":          {true, done, done, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := readiness{synced: func(context.Context) bool { return c.synced }, elected: c.elected, rebuilt: c.rebuilt}
			if got := r.check(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)); !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// The kubelet gives a probe a second.
func TestAProbeIsAnsweredWhileCachesAreBeingFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := readiness{synced: func(ctx context.Context) bool { <-ctx.Done(); return false }}
		start := time.Now()
		if err := r.check(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)); !errors.Is(err, errNotSynced) {
			t.Errorf("got %v, want %v", err, errNotSynced)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}
