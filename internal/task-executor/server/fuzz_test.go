// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// fuzzed reads a request as the server does; nil for what is none.
func fuzzed(raw []byte) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return nil
	}
	return r
}

func addRequests(f *testing.F) {
	f.Helper()
	for _, raw := range []string{
		request("POST /setTasks", length(someTasks), someTasks),
		request("POST /setTasks", "Transfer-Encoding: chunked\r\n", chunked(someTasks)),
		request("GET /getTasks?since=r1&wait=20s", "", ""),
		request("GET /getTasks?since=r1&wait=9223372036854775808", "", ""),
		request("POST /tasks", length("{}"), "{}"),
		request("DELETE /tasks/a%2Fb", auth("a.b.c"), ""),
		request("POST /recycle", length(`{"id":"x"}`), `{"id":"x"}`),
		request("GET //health/..//getTasks", "", ""),
		request("GET http://pod/health", "", ""),
		request("OPTIONS *", "", ""),
		request("CONNECT pod:80", "", ""),
	} {
		f.Add([]byte(raw))
	}
}

// FuzzRequest: whatever request comes, it is answered with a status that the API has and with JSON, and what reaches the tasks
// can be kept.
func FuzzRequest(f *testing.F) {
	addRequests(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := fuzzed(raw)
		if r == nil {
			return
		}
		tasks := &fakeTasks{list: []taskexecutor.Task{}}
		w := deadlines{httptest.NewRecorder()}
		NewHandler(tasks, fakeRecycler{tasks}, quiet).ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusCreated, http.StatusAccepted:
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
			if tasks.asked != "" {
				t.Errorf("%d though it was asked to %q", w.Code, tasks.asked)
			}
		case http.StatusNoContent, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
			return // to the same path without detours
		default:
			t.Errorf("status %d", w.Code)
		}
		if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d with %q", w.Code, w.Body)
		}
	})
}

// deadlines is a recorder whose deadlines can be set.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error { return nil }

func (deadlines) SetWriteDeadline(time.Time) error { return nil }

// FuzzGuard: whatever a stranger sends, nothing but the question for health comes through.
func FuzzGuard(f *testing.F) {
	root, err := token.NewRoot(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	addRequests(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := fuzzed(raw)
		if r == nil {
			return
		}
		through := false
		next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			through = true
			if r.Method != http.MethodGet || r.URL.Path != "/health" {
				t.Errorf("%s %s came through", r.Method, r.URL)
			}
		})
		w := httptest.NewRecorder()
		Guard(next, token.NewVerifier(root.Certificate, guardedPod, clock.RealClock{}), quiet).ServeHTTP(w, r)
		if !through && w.Code != http.StatusUnauthorized {
			t.Errorf("status %d", w.Code)
		}
		if _, err := io.Copy(io.Discard, w.Body); err != nil {
			t.Error(err)
		}
	})
}

// FuzzGuardedCall: a token opens the one call that it was made for, word for word, and that once.
func FuzzGuardedCall(f *testing.F) {
	f.Add("POST", "/setTasks", "[]", "POST", "/setTasks", "[]")
	f.Add("POST", "/setTasks", "[]", "POST", "/setTasks?", "[]")
	f.Add("POST", "/setTasks", "[]", "POST", "//setTasks", "[]")
	f.Add("POST", "/setTasks", "[]", "POST", "/setTasks", "[ ]")
	f.Add("GET", "/tasks/a%2Fb", "", "GET", "/tasks/a/b", "")
	f.Add("GET", "/getTasks?wait=1s", "", "get", "/getTasks?wait=1s", "")
	f.Fuzz(func(t *testing.T, method, path, body, sentMethod, sentPath, sentBody string) {
		r := fuzzed([]byte(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: pod\r\nContent-Length: %d\r\n\r\n%s", sentMethod, sentPath, len(sentBody), sentBody)))
		if r == nil || (r.Method == http.MethodGet && r.URL.Path == "/health") {
			return
		}
		g := newGuarded(t)
		r.Header.Set("Authorization", "Bearer "+g.sign(method, path, body))
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		for use := range 2 {
			r.Body = io.NopCloser(bytes.NewReader(data))
			w := httptest.NewRecorder()
			g.handler.ServeHTTP(w, r)
			same := r.Method == method && r.RequestURI == path && string(data) == body
			if opened := len(g.got) > 0; opened != (same && use == 0) {
				t.Fatalf("use %d: the token of %q %q %q answers %q %q %q with %d", use, method, path, body, r.Method, r.RequestURI, data, w.Code)
			}
			g.got = nil
		}
	})
}
