// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/utils/clock"
)

// Verifier checks the tokens of calls to one pod. It is safe for concurrent use.
type Verifier struct {
	roots  *x509.CertPool
	podUID string
	clock  clock.PassiveClock

	mu   sync.Mutex
	used map[string]time.Time // by ID, until when it has to be remembered
	next time.Time            // when what needn't be remembered any more is dropped
}

// NewVerifier returns the verifier of a pod that trusts one root.
func NewVerifier(root *x509.Certificate, podUID string, clk clock.PassiveClock) *Verifier {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &Verifier{roots: roots, podUID: podUID, clock: clk, used: map[string]time.Time{}}
}

// Proof is a token whose signature, pod and time are right, before its call was compared.
type Proof struct {
	registered jwt.Claims
	claims     claims
}

// Verify checks all of a token but its call. It costs no more than two signatures, however large the call is.
func (v *Verifier) Verify(raw string) (*Proof, error) {
	switch {
	case raw == "":
		return nil, ErrMissing
	case len(raw) > MaxBytes:
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrMalformed, MaxBytes)
	}
	parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{algorithm})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	now := v.clock.Now()
	chains, err := parsed.Headers[0].Certificates(x509.VerifyOptions{
		Roots: v.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	var p Proof
	if err := parsed.Claims(chains[0][0].PublicKey, &p.registered, &p.claims); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return &p, v.check(p.registered, now)
}

// check is the part of Verify about pod and time.
func (v *Verifier) check(c jwt.Claims, now time.Time) error {
	switch {
	case c.ID == "" || c.Expiry == nil || c.IssuedAt == nil:
		return fmt.Errorf("%w: jti, iat or exp is missing", ErrMalformed)
	case len(c.Audience) != 1 || subtle.ConstantTimeCompare([]byte(c.Audience[0]), []byte(v.podUID)) != 1:
		return ErrOtherPod
	case c.Expiry.Time().Sub(c.IssuedAt.Time()) > Lifetime:
		return fmt.Errorf("%w: it would live for more than %s", ErrExpired, Lifetime)
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Time: now}, Leeway); err != nil {
		return fmt.Errorf("%w: %w", ErrExpired, err)
	}
	return nil
}

// Use compares a proof with the call that came with it and uses it up: a second call with it is refused. What is refused here
// doesn't use it up.
func (v *Verifier) Use(p *Proof, call Call) error {
	call.PodUID = v.podUID
	want := claimsOf(call)
	same := subtle.ConstantTimeCompare([]byte(p.claims.Method), []byte(want.Method)) &
		subtle.ConstantTimeCompare([]byte(p.claims.Path), []byte(want.Path)) &
		subtle.ConstantTimeCompare([]byte(p.claims.Body), []byte(want.Body))
	if same != 1 {
		return ErrOtherCall
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.clock.Now()
	v.forget(now)
	if _, before := v.used[p.registered.ID]; before {
		return ErrReplayed
	}
	v.used[p.registered.ID] = p.registered.Expiry.Time().Add(2 * Leeway)
	return nil
}

// forget drops the tokens that are refused for their age by now, at most once in their lifetime.
func (v *Verifier) forget(now time.Time) {
	if now.Before(v.next) {
		return
	}
	for id, until := range v.used {
		if now.After(until) {
			delete(v.used, id)
		}
	}
	v.next = now.Add(Lifetime)
}

// Reason is a short word for an error of this package, for logs and metrics; "" for another error.
func Reason(err error) string {
	for _, r := range []struct {
		err    error
		reason string
	}{
		{ErrMissing, "missing"}, {ErrMalformed, "malformed"}, {ErrUntrusted, "untrusted"}, {ErrExpired, "expired"},
		{ErrOtherPod, "other pod"}, {ErrOtherCall, "other call"}, {ErrReplayed, "replayed"},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return ""
}
