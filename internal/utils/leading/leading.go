// SPDX-License-Identifier: Apache-2.0

// Package leading keeps a controller that may not lead any more from writing.
package leading

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"opensandbox.io/controller/api/v1alpha1"
)

// ErrLost says that the lease was not renewed in time: another controller may lead. Nothing is written until it is renewed; where it
// never is, the process ends.
var ErrLost = errors.New("the lease was not renewed in time")

// Guard returns what wraps the transport of a client of the API server, as [k8s.io/client-go/rest.Config.Wrap] takes it. Writes of pods,
// batches and pools fail with [ErrLost] while leads says no. A controller that was frozen would else go on with what it had
// decided before, as to take the finalizers from a batch to which the next leader has given pods meanwhile.
//
// It is asked as late as can be, when a request is about to be sent: who is frozen between the answer and that still writes once.
func Guard(leads func() bool) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper { return guard{next: next, leads: leads} }
}

type guard struct {
	next  http.RoundTripper
	leads func() bool
}

// RoundTrip implements [http.RoundTripper].
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if isGuarded(r) && !g.leads() {
		if r.Body != nil {
			return nil, errors.Join(ErrLost, r.Body.Close())
		}
		return nil, ErrLost
	}
	return g.next.RoundTrip(r)
}

// isGuarded says whether a request writes what only a leader may write.
func isGuarded(r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return false
	}
	path := strings.Split(r.URL.Path, "/")
	return slices.Contains(path, "pods") || slices.Contains(path, v1alpha1.GroupVersion.Group)
}
