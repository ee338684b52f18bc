// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	clocktesting "k8s.io/utils/clock/testing"
)

const pod = "11111111-2222-3333-4444-555555555555"

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func setTasks() Call {
	return Call{PodUID: pod, Method: "POST", Path: "/setTasks", Body: []byte(`[{"name":"a"}]`)}
}

// world is a controller and an executor, each with its own clock.
type world struct {
	t        *testing.T
	root     Root
	signers  *clocktesting.FakeClock
	pods     *clocktesting.FakeClock
	signer   *Signer
	verifier *Verifier
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := NewRoot(start)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: root, signers: clocktesting.NewFakeClock(start), pods: clocktesting.NewFakeClock(start)}
	if w.signer, err = NewSigner(root, w.signers); err != nil {
		t.Fatal(err)
	}
	w.verifier = NewVerifier(root.Certificate, pod, w.pods)
	return w
}

func (w *world) sign(call Call) string {
	w.t.Helper()
	raw, err := w.signer.Sign(call)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) accept(raw string, call Call) error {
	p, err := w.verifier.Verify(raw)
	if err != nil {
		return err
	}
	return w.verifier.Use(p, call)
}

func TestTokens(t *testing.T) {
	with := func(change func(*Call)) Call {
		call := setTasks()
		change(&call)
		return call
	}
	for name, tc := range map[string]struct {
		raw  func(w *world) string
		call Call
		want error
	}{
		"the call it was made for": {call: setTasks()},
		"no token":                 {raw: func(*world) string { return "" }, call: setTasks(), want: ErrMissing},
		"something else":           {raw: func(*world) string { return "Zm9v.YmFy.YmF6" }, call: setTasks(), want: ErrMalformed},
		"more than a token has":    {raw: func(*world) string { return strings.Repeat("a", MaxBytes+1) }, call: setTasks(), want: ErrMalformed},
		"another method":           {call: with(func(c *Call) { c.Method = "GET" }), want: ErrOtherCall},
		"another path":             {call: with(func(c *Call) { c.Path = "/tasks" }), want: ErrOtherCall},
		"another query":            {call: with(func(c *Call) { c.Path = "/setTasks?wait=1s" }), want: ErrOtherCall},
		"another body":             {call: with(func(c *Call) { c.Body = []byte(`[]`) }), want: ErrOtherCall},
		"another pod": {
			raw:  func(w *world) string { return w.sign(with(func(c *Call) { c.PodUID = "another" })) },
			call: setTasks(), want: ErrOtherPod,
		},
		"a key of another root": {
			raw:  func(w *world) string { return newWorld(w.t).sign(setTasks()) },
			call: setTasks(), want: ErrUntrusted,
		},
		"a signature that was changed": {
			raw: func(w *world) string {
				raw := w.sign(setTasks())
				at := strings.LastIndex(raw, ".") + 1
				signature, _ := base64.RawURLEncoding.DecodeString(raw[at:])
				signature[0] ^= 1
				return raw[:at] + base64.RawURLEncoding.EncodeToString(signature)
			},
			call: setTasks(), want: ErrUntrusted,
		},
		"a certificate of the root under a key of somebody else": {
			raw: func(w *world) string {
				_, key, _ := ed25519.GenerateKey(nil)
				return forge(w.t, key, w.root.Certificate.Raw, jwt.Claims{})
			},
			call: setTasks(), want: ErrUntrusted,
		},
		"no certificate": {
			raw: func(w *world) string {
				_, key, _ := ed25519.GenerateKey(nil)
				return forge(w.t, key, nil, jwt.Claims{})
			},
			call: setTasks(), want: ErrUntrusted,
		},
		"no signature at all": {
			raw: func(*world) string {
				header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
				return header + "." + base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + "."
			},
			call: setTasks(), want: ErrMalformed,
		},
		"a life longer than allowed": {
			raw: func(w *world) string {
				return forge(w.t, w.root.Key, w.root.Certificate.Raw, jwt.Claims{
					ID: "x", Audience: jwt.Audience{pod}, IssuedAt: jwt.NewNumericDate(start), Expiry: jwt.NewNumericDate(start.Add(time.Hour)),
				})
			},
			call: setTasks(), want: ErrExpired,
		},
		"no identity": {
			raw: func(w *world) string {
				return forge(w.t, w.root.Key, w.root.Certificate.Raw, jwt.Claims{
					Audience: jwt.Audience{pod}, IssuedAt: jwt.NewNumericDate(start), Expiry: jwt.NewNumericDate(start.Add(Lifetime)),
				})
			},
			call: setTasks(), want: ErrMalformed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var raw string
			if tc.raw != nil {
				raw = tc.raw(w)
			} else {
				raw = w.sign(setTasks())
			}
			if err := w.accept(raw, tc.call); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// forge makes a token with a key and a certificate that need not belong together.
func forge(t *testing.T, key ed25519.PrivateKey, certificate []byte, registered jwt.Claims) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if certificate != nil {
		options = options.WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(certificate)})
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(registered).Claims(claimsOf(setTasks())).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestATokenIsGoodOnce(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(setTasks())
	other := setTasks()
	other.Body = nil
	if err := w.accept(raw, other); !errors.Is(err, ErrOtherCall) {
		t.Fatalf("with another body: %v", err)
	}
	if err := w.accept(raw, setTasks()); err != nil {
		t.Fatalf("first use, after a refusal: %v", err)
	}
	for wait := range 3 {
		if err := w.accept(raw, setTasks()); !errors.Is(err, ErrReplayed) {
			t.Fatalf("use %d: got %v, want %v", wait+2, err, ErrReplayed)
		}
		w.pods.Step(Lifetime / 2)
	}
}

func TestATokenIsGoodForAShortTimeOnAnyClock(t *testing.T) {
	for name, tc := range map[string]struct {
		clock time.Duration // of the executor, ahead of the controller's
		want  error
	}{
		"the same clock":               {},
		"at the end of its life":       {clock: Lifetime},
		"a clock that is ahead":        {clock: Lifetime + Leeway - time.Second},
		"too late":                     {clock: Lifetime + Leeway + 2*time.Second, want: ErrExpired},
		"a clock that is behind":       {clock: -Leeway + time.Second},
		"a clock that is far behind":   {clock: -Leeway - 2*time.Second, want: ErrExpired},
		"a clock that is a week ahead": {clock: 7 * 24 * time.Hour, want: ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			raw := w.sign(setTasks())
			w.pods.SetTime(start.Add(tc.clock))
			if err := w.accept(raw, setTasks()); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestTheSigningKeyTurnsAndExecutorsFollow(t *testing.T) {
	w := newWorld(t)
	first, err := w.signer.signing()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []time.Duration{time.Hour, signingTurn, 10 * signingLife} {
		w.signers.Step(step)
		w.pods.Step(step)
		if err := w.accept(w.sign(setTasks()), setTasks()); err != nil {
			t.Fatalf("%s later: %v", step, err)
		}
	}
	if last, _ := w.signer.signing(); last.header == first.header || last.key.Equal(first.key) {
		t.Error("the signing key never changed")
	}
}

// Each key signs for twelve hours, and what it signed last is good to its end; the root and the pod stay the same.
func TestASigningKeySignsForTwelveHours(t *testing.T) {
	w := newWorld(t)
	key := func(raw string) string { // the certificate in the header
		parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{algorithm})
		if err != nil {
			t.Fatal(err)
		}
		chains, err := parsed.Headers[0].Certificates(x509.VerifyOptions{
			Roots: w.verifier.roots, CurrentTime: w.pods.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(chains[0][0].Raw)
	}
	first := key(w.sign(setTasks()))
	w.signers.Step(signingTurn - time.Second)
	w.pods.Step(signingTurn - time.Second)
	last := w.sign(setTasks())
	if key(last) != first {
		t.Error("the key turned before its time")
	}
	w.signers.Step(time.Second)
	w.pods.Step(time.Second)
	if key(w.sign(setTasks())) == first {
		t.Error("the key did not turn when it was time")
	}
	if err := w.accept(last, setTasks()); err != nil {
		t.Errorf("the last call of the old key: %v", err)
	}
}

func TestUsedTokensAreForgottenWhenTheirAgeRefusesThem(t *testing.T) {
	w := newWorld(t)
	for range 1000 {
		if err := w.accept(w.sign(setTasks()), setTasks()); err != nil {
			t.Fatal(err)
		}
	}
	w.signers.Step(10 * time.Minute)
	w.pods.Step(10 * time.Minute)
	if err := w.accept(w.sign(setTasks()), setTasks()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.verifier.used); n != 1 {
		t.Errorf("%d tokens are remembered, want 1", n)
	}
}

func TestARootThatCantSignIsRefused(t *testing.T) {
	good, err := NewRoot(start)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewRoot(start)
	if err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]Root{
		"nothing":               {},
		"no certificate":        {Key: good.Key},
		"another's certificate": {Key: good.Key, Certificate: other.Certificate},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewSigner(root, clocktesting.NewFakeClock(start)); err == nil {
				t.Error("no error")
			}
		})
	}
	if _, err := NewSigner(good, clocktesting.NewFakeClock(start.AddDate(rootYears+1, 0, 0))); err == nil {
		t.Error("no error for a root whose time is over")
	}
}

func FuzzVerify(f *testing.F) {
	root, err := NewRoot(start)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := NewSigner(root, clocktesting.NewFakeClock(start))
	if err != nil {
		f.Fatal(err)
	}
	good, err := signer.Sign(setTasks())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		verifier := NewVerifier(root.Certificate, pod, clocktesting.NewFakeClock(start))
		p, err := verifier.Verify(raw)
		if err == nil && verifier.Use(p, setTasks()) == nil && !strings.HasPrefix(raw, good[:strings.LastIndex(good, ".")+1]) {
			t.Errorf("accepted %q", raw)
		}
		if err != nil && Reason(err) == "" {
			t.Errorf("an error without reason: %v", err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	root, err := NewRoot(start)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := NewSigner(root, clocktesting.NewFakeClock(start))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := signer.Sign(setTasks()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignAndVerify(b *testing.B) {
	root, err := NewRoot(start)
	if err != nil {
		b.Fatal(err)
	}
	clk := clocktesting.NewFakeClock(start)
	signer, err := NewSigner(root, clk)
	if err != nil {
		b.Fatal(err)
	}
	verifier := NewVerifier(root.Certificate, pod, clk)
	for b.Loop() {
		raw, err := signer.Sign(setTasks())
		if err != nil {
			b.Fatal(err)
		}
		p, err := verifier.Verify(raw)
		if err != nil {
			b.Fatal(err)
		}
		if err := verifier.Use(p, setTasks()); err != nil {
			b.Fatal(err)
		}
	}
}
