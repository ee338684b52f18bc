// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an executor made of one handler and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc, opts ...Option) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	c := New(srv.URL+"/", opts...)
	t.Cleanup(func() {
		c.CloseIdleConnections()
		srv.Close()
	})
	return c
}

func TestClientCalls(t *testing.T) {
	task := Task{Name: "a b?c", Process: Process{Command: []string{"true"}}}
	list := []Task{task}
	answer := func(status int, v any) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set(RevisionHeader, "r7")
			w.WriteHeader(status)
			if v != nil {
				_ = json.NewEncoder(w).Encode(v) // a failed write fails the call under test
			}
		}
	}
	cases := map[string]struct {
		answer   func(w http.ResponseWriter)
		call     func(ctx context.Context, c *Client) (any, error)
		wantReq  string
		wantBody string
		want     any
	}{
		"set": {
			answer:   answer(200, list),
			call:     func(ctx context.Context, c *Client) (any, error) { return c.Set(ctx, list) },
			wantReq:  "POST /setTasks",
			wantBody: `[{"name":"a b?c","process":{"command":["true"]}}]`,
			want:     list,
		},
		"set nothing sends an empty list, not null": {
			answer:   answer(200, []Task{}),
			call:     func(ctx context.Context, c *Client) (any, error) { return c.Set(ctx, nil) },
			wantReq:  "POST /setTasks",
			wantBody: `[]`,
			want:     []Task{},
		},
		"get": {
			answer:  answer(200, list),
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Get(ctx) },
			wantReq: "GET /getTasks",
			want:    list,
		},
		"wait returns the revision": {
			answer: answer(200, list),
			call: func(ctx context.Context, c *Client) (any, error) {
				tasks, rev, err := c.Wait(ctx, "r6&x", 20*time.Second)
				return []any{tasks, rev}, err
			},
			wantReq: "GET /getTasks?since=r6%26x&wait=20s",
			want:    []any{list, "r7"},
		},
		"wait is cut to the longest the executor grants": {
			answer: answer(200, list),
			call: func(ctx context.Context, c *Client) (any, error) {
				tasks, _, err := c.Wait(ctx, "", time.Hour)
				return tasks, err
			},
			wantReq: "GET /getTasks?wait=5m0s",
			want:    list,
		},
		"create": {
			answer:   answer(201, task),
			call:     func(ctx context.Context, c *Client) (any, error) { return c.Create(ctx, task) },
			wantReq:  "POST /tasks",
			wantBody: `{"name":"a b?c","process":{"command":["true"]}}`,
			want:     &task,
		},
		"get one": {
			answer:  answer(200, task),
			call:    func(ctx context.Context, c *Client) (any, error) { return c.GetTask(ctx, task.Name) },
			wantReq: "GET /tasks/a%20b%3Fc",
			want:    &task,
		},
		"delete": {
			answer:  answer(204, nil),
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Delete(ctx, task.Name) },
			wantReq: "DELETE /tasks/a%20b%3Fc",
		},
		"health": {
			answer:  answer(200, Health{Status: "healthy"}),
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Health(ctx) },
			wantReq: "GET /health",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var gotReq, gotBody string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body) // an unreadable body differs from the wanted one
				gotReq, gotBody = r.Method+" "+r.RequestURI, strings.TrimSpace(string(body))
				tc.answer(w)
			})
			got, err := tc.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]any{tc.wantReq, tc.wantBody, tc.want}, []any{gotReq, gotBody, got}); diff != "" {
				t.Errorf("request, body, result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientDistrustsTheExecutor(t *testing.T) {
	t.Run("a redirect is an error and is not followed", func(t *testing.T) {
		calls := 0
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
		_, err := c.Set(t.Context(), nil)
		var statusErr *StatusError
		if !errors.As(err, &statusErr) || statusErr.Status != http.StatusTemporaryRedirect || calls != 1 {
			t.Errorf("error %v after %d calls, want status 307 after 1", err, calls)
		}
	})
	t.Run("a body above 1 MiB is not read", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "["+strings.Repeat(" ", MaxBodyBytes)+"]") // the client hangs up on purpose
		})
		if _, err := c.Get(t.Context()); !errors.Is(err, ErrBodyTooLarge) {
			t.Errorf("error %v, want ErrBodyTooLarge", err)
		}
	})
	t.Run("a body of exactly 1 MiB is read", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "["+strings.Repeat(" ", MaxBodyBytes-2)+"]") // a failed write fails the call
		})
		if _, err := c.Get(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("an executor that doesn't answer is given up", func(t *testing.T) {
		c := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, WithTimeout(20*time.Millisecond))
		if _, err := c.Get(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want a deadline", err)
		}
	})
	t.Run("control characters and long strings don't get through", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(RevisionHeader, strings.Repeat("r", 1000))
			_ = json.NewEncoder(w).Encode([]Task{ // a failed write fails the call
				{Name: "a", ProcessStatus: &ProcessStatus{Waiting: &Waiting{Reason: "A\x1b[31mB", Message: "m\r\nn\u202e"}}},
				{Name: "b", ProcessStatus: &ProcessStatus{Terminated: &Terminated{
					Reason: strings.Repeat("r", 1000), Message: strings.Repeat("é", 1000), Output: "1\x00\n" + strings.Repeat("é", 600)}}},
				{Name: "c"},
			})
		})
		tasks, rev, err := c.Wait(t.Context(), "", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		want := []Task{
			{Name: "a", ProcessStatus: &ProcessStatus{Waiting: &Waiting{Reason: "A[31mB", Message: "mn"}}},
			{Name: "b", ProcessStatus: &ProcessStatus{Terminated: &Terminated{
				Reason: strings.Repeat("r", 128), Message: strings.Repeat("é", 512), Output: strings.Repeat("é", 512)}}},
			{Name: "c"},
		}
		if diff := cmp.Diff(want, tasks); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(rev) != 128 {
			t.Errorf("revision has %d bytes, want 128", len(rev))
		}
	})
}

func TestClientErrors(t *testing.T) {
	cases := map[string]struct {
		status int
		body   string
		want   StatusError
	}{
		"the JSON of the contract": {400, `{"code":"Bad Request","message":"task 0: no\ncommand"}`,
			StatusError{400, "Bad Request", "task 0: nocommand"}},
		"another body is dropped": {502, "<html>", StatusError{502, "Bad Gateway", ""}},
		"no body":                 {404, "", StatusError{404, "Not Found", ""}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body) // a failed write changes the error
			})
			_, err := c.GetTask(t.Context(), "a")
			var got *StatusError
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want a StatusError", err)
			}
			if diff := cmp.Diff(tc.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if IsNotFound(err) != (tc.status == 404) || IsConflict(err) {
				t.Errorf("IsNotFound %v, IsConflict %v for %d", IsNotFound(err), IsConflict(err), tc.status)
			}
		})
	}
	t.Run("a malformed URL is an error of the call", func(t *testing.T) {
		if err := New("http://%zz").Health(t.Context()); err == nil {
			t.Error("want an error")
		}
	})
}

// FuzzSanitize: nothing an executor can answer reaches a status with a control character, or longer than its limit.
func FuzzSanitize(f *testing.F) {
	f.Add("Completed", "exit status 0", "a\nb")
	f.Add("\x1b[2J", "\xff\xfe", strings.Repeat("é\r\n", 1000))
	f.Fuzz(func(t *testing.T, reason, message, output string) {
		got := sanitize([]Task{{ProcessStatus: &ProcessStatus{Terminated: &Terminated{Reason: reason, Message: message, Output: output}}}})
		end := got[0].ProcessStatus.Terminated
		for _, s := range []string{end.Reason, end.Message, strings.NewReplacer("\n", "", "\t", "").Replace(end.Output)} {
			if strings.ContainsFunc(s, isInvisible) || !utf8.ValidString(s) {
				t.Errorf("%q got through", s)
			}
		}
		if len(end.Reason) > maxReasonBytes || len(end.Message) > maxMessageBytes || len(end.Output) > MaxOutputBytes {
			t.Errorf("too long: %d, %d, %d", len(end.Reason), len(end.Message), len(end.Output))
		}
	})
}
