// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const guardedPod = "the-pod"

// guarded is an API behind a guard, its clock, and the controller's signer.
type guarded struct {
	t       *testing.T
	handler http.Handler
	root    token.Root
	signer  *token.Signer
	clock   *clocktesting.FakeClock
	log     *bytes.Buffer
	got     []string // method, path and body of what came through
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, clock: clocktesting.NewFakeClock(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)), log: &bytes.Buffer{}}
	root, err := token.NewRoot(g.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if g.signer, err = token.NewSigner(root, g.clock); err != nil {
		t.Fatal(err)
	}
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		g.got = append(g.got, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	})
	g.root = root
	g.serve(next)
	return g
}

func (g *guarded) serve(next http.Handler) {
	g.handler = Guard(next, token.NewVerifier(g.root.Certificate, guardedPod, g.clock), slog.New(slog.NewTextHandler(g.log, nil)))
}

func (g *guarded) sign(method, path, body string) string {
	g.t.Helper()
	raw, err := g.signer.Sign(token.Call{PodUID: guardedPod, Method: method, Path: path, Body: []byte(body)})
	if err != nil {
		g.t.Fatal(err)
	}
	return raw
}

func (g *guarded) send(method, path, body, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, r)
	return w
}

func TestGuard(t *testing.T) {
	const path, body = "/getTasks?since=a%2Fb&wait=5s", `[{"name":"a"}]`
	large := strings.Repeat(" ", taskexecutor.MaxBodyBytes+1)
	for name, tc := range map[string]struct {
		prepare    func(g *guarded)
		method     string
		path, body string
		auth       func(g *guarded) string
		want       int
		wantReason string
	}{
		"a call with its token":   {auth: func(g *guarded) string { return "Bearer " + g.sign("POST", path, body) }, want: 200},
		"a scheme in small":       {auth: func(g *guarded) string { return "bearer " + g.sign("POST", path, body) }, want: 200},
		"health without a token":  {method: "GET", path: "/health", want: 200},
		"another call of /health": {method: "POST", path: "/health", want: 401, wantReason: "no token"},
		"no token":                {want: 401, wantReason: "no token"},
		"another scheme":          {auth: func(g *guarded) string { return "Basic " + g.sign("POST", path, body) }, want: 401, wantReason: "no token"},
		"no token at all":         {auth: func(*guarded) string { return "Bearer x" }, want: 401, wantReason: "malformed"},
		"the token of another path": {
			auth: func(g *guarded) string { return "Bearer " + g.sign("POST", "/getTasks", body) }, want: 401, wantReason: "another call",
		},
		"the token of another method": {
			auth: func(g *guarded) string { return "Bearer " + g.sign("GET", path, body) }, want: 401, wantReason: "another call",
		},
		"the token of another body": {
			auth: func(g *guarded) string { return "Bearer " + g.sign("POST", path, "[]") }, want: 401, wantReason: "another call",
		},
		"the token of another pod": {
			auth: func(g *guarded) string {
				raw, err := g.signer.Sign(token.Call{PodUID: "another", Method: "POST", Path: path, Body: []byte(body)})
				if err != nil {
					g.t.Fatal(err)
				}
				return "Bearer " + raw
			}, want: 401, wantReason: "another pod",
		},
		"an old token": {
			auth: func(g *guarded) string {
				raw := g.sign("POST", path, body)
				g.clock.Step(10 * time.Minute)
				return "Bearer " + raw
			}, want: 401, wantReason: "out of its time",
		},
		"a token of another root": {
			auth: func(g *guarded) string { return "Bearer " + newGuarded(g.t).sign("POST", path, body) }, want: 401, wantReason: "unknown key",
		},
		"a token that was used": {
			auth: func(g *guarded) string {
				auth := "Bearer " + g.sign("POST", path, body)
				if w := g.send("POST", path, body, auth); w.Code != 200 {
					g.t.Fatalf("first use: %d", w.Code)
				}
				g.got = nil
				return auth
			}, want: 401, wantReason: "used before",
		},
		"a body that is too large": {
			body: large, auth: func(g *guarded) string { return "Bearer " + g.sign("POST", path, large) }, want: 413, wantReason: "larger than 1 MiB",
		},
		"a body that is too large, without a token": {body: large, want: 401, wantReason: "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t)
			method, to, sent, auth := "POST", path, body, ""
			if tc.method != "" {
				method, to, sent = tc.method, tc.path, ""
			}
			if tc.body != "" {
				sent = tc.body
			}
			if tc.auth != nil {
				auth = tc.auth(g)
			}
			w := g.send(method, to, sent, auth)
			if w.Code != tc.want {
				t.Fatalf("status %d, want %d: %s", w.Code, tc.want, w.Body)
			}
			if tc.want == 200 {
				if want := method + " " + to + " " + sent; len(g.got) != 1 || g.got[0] != want {
					t.Errorf("came through: %q, want %q", g.got, want)
				}
				if g.log.Len() > 0 {
					t.Errorf("logged: %s", g.log)
				}
				return
			}
			if len(g.got) > 0 {
				t.Errorf("came through: %q", g.got)
			}
			if lines := strings.Count(g.log.String(), "\n"); lines != 1 || !strings.Contains(g.log.String(), "audit=true") ||
				!strings.Contains(g.log.String(), tc.wantReason) {
				t.Errorf("audit: %q, want one line with %q", g.log, tc.wantReason)
			}
			if tc.want == 401 && strings.Contains(w.Body.String(), tc.wantReason) {
				t.Errorf("the answer tells the reason: %s", w.Body)
			}
		})
	}
}

// A call that was cut off may arrive after the next one.
func TestASetThatArrivesAfterOneThatWasSignedLaterChangesNothing(t *testing.T) {
	const one, none = `[{"name":"a","process":{"command":["true"]}}]`, `[]`
	g := newGuarded(t)
	tasks := &fakeTasks{}
	g.serve(NewHandler(tasks, nil, quiet))
	send := func(body, token string) int { return g.send("POST", "/setTasks", body, "Bearer "+token).Code }

	late := g.sign("POST", "/setTasks", one)
	g.clock.Step(time.Microsecond)
	if code := send(none, g.sign("POST", "/setTasks", none)); code != http.StatusOK {
		t.Fatalf("the later one: %d", code)
	}
	tasks.asked = ""
	if code := send(one, late); code != http.StatusConflict || tasks.asked != "" {
		t.Errorf("the one that comes late: %d, and asked %q; want %d and nothing asked", code, tasks.asked, http.StatusConflict)
	}
	g.clock.Step(time.Microsecond)
	tasks.err = task.ErrInvalid
	if code := send(one, g.sign("POST", "/setTasks", one)); code != http.StatusBadRequest {
		t.Fatalf("one that can't be carried out: %d", code)
	}
	g.clock.Step(-time.Microsecond)
	tasks.err = nil
	if code := send(one, g.sign("POST", "/setTasks", one)); code != http.StatusOK || tasks.asked != "set 1" {
		t.Errorf("after one that was not carried out: %d, and asked %q; want %d and the task set", code, tasks.asked, http.StatusOK)
	}
}

func TestAnAuditLineIsShort(t *testing.T) {
	g := newGuarded(t)
	g.send("POST", "/"+strings.Repeat("a", 20000), "", "")
	if g.log.Len() > 1000 {
		t.Errorf("the line has %d bytes", g.log.Len())
	}
}
