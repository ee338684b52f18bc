// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/utils/clock"
)

const (
	// rootYears is how long a root is good for. Its end would mean new pods everywhere.
	rootYears = 20

	// signingLife is how long a signing key is good for, and signingTurn after what time it is replaced.
	signingLife = 24 * time.Hour
	signingTurn = 12 * time.Hour

	// backdate is how far before its making a certificate is valid, for clocks that are behind.
	backdate = time.Hour
)

// Root certifies signing keys. Its key stays with the controller, its certificate goes to every executor.
type Root struct {
	// Key is the private key.
	Key ed25519.PrivateKey

	// Certificate is self-signed.
	Certificate *x509.Certificate
}

// NewRoot makes a root.
func NewRoot(now time.Time) (Root, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Root{}, fmt.Errorf("make the root key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "opensandbox controller root"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(rootYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	certificate, err := certify(template, template, public, key)
	if err != nil {
		return Root{}, fmt.Errorf("certify the root key: %w", err)
	}
	return Root{Key: key, Certificate: certificate}, nil
}

// certify issues a certificate under a serial number of its own.
func certify(template, parent *x509.Certificate, public ed25519.PublicKey, signer ed25519.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Check says what is wrong with a root that was read from somewhere; nil if nothing is.
func (r Root) Check(now time.Time) error {
	if r.Certificate == nil || len(r.Key) != ed25519.PrivateKeySize {
		return errors.New("the root has no key or no certificate")
	}
	public, ok := r.Certificate.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok || !public.Equal(r.Key.Public()):
		return errors.New("the root's certificate is of another key")
	case !r.Certificate.IsCA:
		return errors.New("the root's certificate may not issue others")
	case now.Before(r.Certificate.NotBefore) || now.After(r.Certificate.NotAfter):
		return fmt.Errorf("the root's certificate is good from %s to %s", r.Certificate.NotBefore, r.Certificate.NotAfter)
	}
	return nil
}

// Signer makes tokens. Its signing key is new every 12 hours and never leaves memory. It is safe for concurrent use.
type Signer struct {
	root  Root
	clock clock.PassiveClock

	mu      sync.Mutex
	current signing
	turnAt  time.Time
}

// signing is a signing key and the header that all its tokens have, in the form they have it.
type signing struct {
	key    ed25519.PrivateKey
	header string
}

// NewSigner returns a signer whose keys are certified by root.
func NewSigner(root Root, clk clock.PassiveClock) (*Signer, error) {
	s := &Signer{root: root, clock: clk}
	if err := root.Check(clk.Now()); err != nil {
		return nil, err
	}
	_, err := s.signing()
	return s, err
}

// Root is the certificate that executors must know to believe this signer.
func (s *Signer) Root() *x509.Certificate { return s.root.Certificate }

// payload is what a token says.
type payload struct {
	jwt.Claims
	claims
}

// Sign returns a token for one call. Thousands of tasks begin at once, each with several calls: so the header, which is most of
// a token, is encoded once for each signing key.
func (s *Signer) Sign(call Call) (string, error) {
	current, err := s.signing()
	if err != nil {
		return "", err
	}
	now := s.clock.Now()
	said := claimsOf(call)
	said.Signed = now.UnixNano()
	body, err := json.Marshal(payload{
		Claims: jwt.Claims{
			Audience: jwt.Audience{call.PodUID},
			ID:       rand.Text(),
			IssuedAt: jwt.NewNumericDate(now),
			Expiry:   jwt.NewNumericDate(now.Add(Lifetime)),
		},
		claims: said,
	})
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return current.compact(body), nil
}

// compact is the compact form of RFC 7515: header, payload and signature, each as base64url.
func (s signing) compact(body []byte) string {
	encoding := base64.RawURLEncoding
	token := make([]byte, 0, len(s.header)+encoding.EncodedLen(len(body))+encoding.EncodedLen(ed25519.SignatureSize)+2)
	token = append(append(token, s.header...), '.')
	token = encoding.AppendEncode(token, body)
	signature := ed25519.Sign(s.key, token)
	return string(encoding.AppendEncode(append(token, '.'), signature))
}

// signing returns the signing key, a new one when its time has come.
func (s *Signer) signing() (signing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if s.current.key != nil && now.Before(s.turnAt) {
		return s.current, nil
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return signing{}, fmt.Errorf("make a signing key: %w", err)
	}
	certificate, err := certify(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "opensandbox controller"},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(signingLife),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}, s.root.Certificate, public, s.root.Key)
	if err != nil {
		return signing{}, fmt.Errorf("certify a signing key: %w", err)
	}
	header, err := json.Marshal(map[string]any{"alg": algorithm, "typ": "JWT", "x5c": [][]byte{certificate.Raw}})
	if err != nil {
		return signing{}, fmt.Errorf("use a signing key: %w", err)
	}
	s.current, s.turnAt = signing{key: key, header: base64.RawURLEncoding.EncodeToString(header)}, now.Add(signingTurn)
	return s.current, nil
}
