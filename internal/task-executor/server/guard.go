// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// maxAuditBytes bounds what an audit line tells of a request, for its sender chose it.
const maxAuditBytes = 256

// Guard lets only calls through that carry a token for just this call, and the question for health. A refused call is
// answered with 401, or 413 where its body is too large to be looked at, and told in one line of the log; its connection is
// closed.
//
// The token is checked before the body is read, so that a stranger can't make the executor read one.
func Guard(next http.Handler, verifier *token.Verifier, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/health" {
			next.ServeHTTP(w, r)
			return
		}
		signed, err := admit(w, r, verifier)
		if err != nil {
			refuse(w, r, err, log)
			return
		}
		vouch(r.Context())
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), signedKey{}, signed)))
	})
}

// signedKey is the key of when the token of a call was signed, an int64, in the call's context.
type signedKey struct{}

// signedAt is when the token of a call was signed, 0 for a call without.
func signedAt(ctx context.Context) int64 {
	signed, _ := ctx.Value(signedKey{}).(int64) // nobody put it there where calls need no token
	return signed
}

// admit lets a call go on, and returns when its token was signed. Its body has been read then, and can be read again.
func admit(w http.ResponseWriter, r *http.Request, verifier *token.Verifier) (signed int64, err error) {
	proof, err := verifier.Verify(bearer(r))
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, taskexecutor.MaxBodyBytes))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return 0, errTooLarge
	}
	if err != nil {
		return 0, fmt.Errorf("%w: read body: %w", errBadRequest, err)
	}
	// The path as it came over the wire: a parsed one could be that of several.
	if err := verifier.Use(proof, token.Call{Method: r.Method, Path: r.RequestURI, Body: body}); err != nil {
		return 0, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return proof.Signed(), nil
}

// bearer is the token of a request, "" for none.
func bearer(r *http.Request) string {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(raw)
}

// refuse answers a call that may not go on, and writes the audit line. What exactly is wrong with a token is told to the log
// alone.
func refuse(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	status, message := http.StatusUnauthorized, "the call carries no valid token of the controller"
	if reason := token.Reason(err); reason == "" {
		status, message = statusOf(err), err.Error()
	}
	log.Warn("refused call", "audit", true, "remote", r.RemoteAddr, "method", shortened(r.Method), "path", shortened(r.RequestURI),
		"status", status, "reason", shortened(err.Error()))
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(taskexecutor.ErrorBody{Code: http.StatusText(status), Message: message}) // the caller has hung up
}

func shortened(s string) string { return s[:min(len(s), maxAuditBytes)] }
