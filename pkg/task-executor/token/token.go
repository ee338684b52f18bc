// SPDX-License-Identifier: Apache-2.0

// Package token proves to a task-executor that a call comes from the controller.
//
// Every call carries a JSON Web Token (RFC 7519) that is good for this call alone: for one pod, one method, one path with its
// query and one body, once, and for a short time. It is signed by a key that lives in the controller's memory, and its header
// has the certificate of that key (x5c, RFC 7515), issued by the root whose certificate the executor got with its pod. So the
// signing key changes as often as the controller likes without a new pod, and nothing in a sandbox is secret.
package token

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// Lifetime is how long a token may be used after it was made.
	Lifetime = 30 * time.Second

	// Leeway is how far the clocks of the controller and of an executor may be apart.
	Leeway = 30 * time.Second

	// MaxBytes bounds the size of a token; a longer one is refused unread.
	MaxBytes = 8 << 10
)

// algorithm is the only one that is made and accepted: Ed25519.
const algorithm = jose.EdDSA

// Call is what a token is good for.
type Call struct {
	// PodUID is the pod whose executor is called.
	PodUID string

	// Method is the HTTP method, such as POST.
	Method string

	// Path is the path with its query as it goes over the wire, such as /getTasks?wait=5s.
	Path string

	// Body is the whole body; nil and empty are the same.
	Body []byte
}

// claims are the members of a token beside the registered ones. Method and path have the names of RFC 9449.
type claims struct {
	Method string `json:"htm"`
	Path   string `json:"htu"`
	Body   string `json:"bsh"` // SHA-256 of the body, base64url
	Signed int64  `json:"sat"` // when it was signed, in nanoseconds since 1970: iat is in seconds
}

// ForPod returns what signs the calls of one pod by its method, path and body.
func ForPod(sign func(Call) (string, error), podUID string) func(method, path string, body []byte) (string, error) {
	return func(method, path string, body []byte) (string, error) {
		return sign(Call{PodUID: podUID, Method: method, Path: path, Body: body})
	}
}

func claimsOf(c Call) claims {
	sum := sha256.Sum256(c.Body)
	return claims{Method: c.Method, Path: c.Path, Body: base64.RawURLEncoding.EncodeToString(sum[:])}
}

// The errors of Verify, for those who count them. Each is wrapped with what exactly is wrong.
var (
	// ErrMissing: there is no token.
	ErrMissing = errors.New("no token")

	// ErrMalformed: what is there is no token of this kind.
	ErrMalformed = errors.New("malformed token")

	// ErrUntrusted: it was not signed by a key that the root has certified.
	ErrUntrusted = errors.New("token of an unknown key")

	// ErrExpired: it is too old, or from the future.
	ErrExpired = errors.New("token out of its time")

	// ErrOtherPod: it is for another pod.
	ErrOtherPod = errors.New("token for another pod")

	// ErrOtherCall: it is for another method, path or body.
	ErrOtherCall = errors.New("token for another call")

	// ErrReplayed: it was used before.
	ErrReplayed = errors.New("token was used before")
)
