// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
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

	journal *journal // nil if nothing is to be remembered beyond this process

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

// Signed is when the token was signed, in nanoseconds since 1970 by the clock of who signed it; 0 if it doesn't say.
func (p *Proof) Signed() int64 { return p.claims.Signed }

// KeepIn remembers the tokens that were used in files in dir, so that one that was overheard isn't good again for a process
// that is started anew. It takes in what is there. Call it before anything else.
func (v *Verifier) KeepIn(dir string) error {
	now := v.clock.Now()
	used, err := readJournal(dir, now)
	if err != nil {
		return fmt.Errorf("read the tokens that were used: %w", err)
	}
	v.used, v.journal = used, newJournal(dir, now)
	if err := v.journal.begin(used); err != nil {
		return fmt.Errorf("write the tokens that were used: %w", err)
	}
	return nil
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
	if err := v.check(p.registered, now); err != nil {
		return nil, err
	}
	return &p, nil
}

// check is the part of Verify about pod and time.
func (v *Verifier) check(c jwt.Claims, now time.Time) error {
	switch {
	case c.ID == "" || c.Expiry == nil || c.IssuedAt == nil:
		return fmt.Errorf("%w: jti, iat or exp is missing", ErrMalformed)
	case len(c.ID) > maxIDBytes || strings.ContainsFunc(c.ID, func(r rune) bool { return r <= ' ' }):
		return fmt.Errorf("%w: jti is none of ours", ErrMalformed)
	case len(c.Audience) != 1 || subtle.ConstantTimeCompare([]byte(c.Audience[0]), []byte(v.podUID)) != 1:
		return ErrOtherPod
	case c.Expiry.Time().Sub(c.IssuedAt.Time()) > Lifetime:
		return fmt.Errorf("%w: it would live for more than %s", ErrExpired, Lifetime)
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Time: now}, Leeway); err != nil {
		return fmt.Errorf("%w: %w", ErrExpired, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, before := v.used[c.ID]; before { // known before the body is read; Use has the last word
		return ErrReplayed
	}
	return nil
}

// Use compares a proof with the call that came with it and uses it up: a second call with it is refused. A proof of another
// call isn't used up. An error that has no Reason says that the use could not be remembered, so that the call must not go on.
func (v *Verifier) Use(p *Proof, call Call) error {
	call.PodUID = v.podUID
	want := claimsOf(call)
	same := subtle.ConstantTimeCompare([]byte(p.claims.Method), []byte(want.Method)) &
		subtle.ConstantTimeCompare([]byte(p.claims.Path), []byte(want.Path)) &
		subtle.ConstantTimeCompare([]byte(p.claims.Body), []byte(want.Body))
	if same != 1 {
		return ErrOtherCall
	}
	now, until := v.clock.Now(), p.registered.Expiry.Time().Add(2*Leeway)
	if !v.take(p.registered.ID, until, now) {
		return ErrReplayed
	}
	if v.journal == nil {
		return nil
	}
	return v.journal.append(p.registered.ID, until, now)
}

// take uses an ID up, and says whether it was there to be used.
func (v *Verifier) take(id string, until, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forget(now)
	if _, before := v.used[id]; before {
		return false
	}
	v.used[id] = until
	return true
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
