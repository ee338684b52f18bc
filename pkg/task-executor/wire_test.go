// SPDX-License-Identifier: Apache-2.0

package taskexecutor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/task-executor/recycle"
	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// wire writes down what goes over it.
type wire struct {
	host    string
	through *taskexecutor.Transport
	text    strings.Builder
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&w.text, "%s %s\n", r.Method, r.URL.RequestURI())
	w.write(r.Header, body)
	r = r.Clone(r.Context())
	r.Body, r.URL.Host = io.NopCloser(bytes.NewReader(body)), w.host
	resp, err := w.through.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	for _, name := range []string{"Date", "Content-Length"} {
		resp.Header.Del(name)
	}
	fmt.Fprintf(&w.text, "\n%d %s\n", resp.StatusCode, http.StatusText(resp.StatusCode))
	w.write(resp.Header, answer)
	return resp, nil
}

// write writes headers in the order of their names, and JSON with two spaces per level. What isn't JSON stays as it is, but
// for a text that is too long to be read.
func (w *wire) write(header http.Header, body []byte) {
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&w.text, "%s: %s\n", name, strings.Join(header[name], ", "))
	}
	if len(body) == 0 {
		return
	}
	var formatted bytes.Buffer
	switch {
	case len(body) > 10<<10:
		fmt.Fprintf(&formatted, "(%d bytes)\n", len(body))
	case json.Indent(&formatted, body, "", "  ") != nil:
		formatted.Reset()
		fmt.Fprintf(&formatted, "%s\n", body)
	}
	w.text.WriteString("\n" + strings.TrimRight(formatted.String(), "\n") + "\n")
}

// caller makes one call, by the client or past it.
type caller func(context.Context, *taskexecutor.Client, http.RoundTripper) error

// send sends what the client never would.
func send(method, path, body string) caller {
	return func(ctx context.Context, _ *taskexecutor.Client, rt http.RoundTripper) error {
		req, err := http.NewRequestWithContext(ctx, method, "http://pod"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// wireCase is one call, and the status of its answer.
type wireCase struct {
	tasks *memory
	call  caller
	guard bool
	want  int
}

func wireCases() map[string]wireCase {
	full := taskexecutor.Task{Name: "u-0-1", Process: taskexecutor.Process{
		Command: []string{"/bin/sh", "-c"}, Args: []string{`echo "$GREETING" <&1`},
		Env:        []taskexecutor.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "EMPTY"}},
		WorkingDir: "/srv", TimeoutSeconds: 30,
	}}
	small := taskexecutor.Task{Name: "b c", Process: taskexecutor.Process{Command: []string{"true"}}}
	status := func(t taskexecutor.Task, s taskexecutor.ProcessStatus) taskexecutor.Task {
		t.ProcessStatus = &s
		return t
	}
	with := func(list ...taskexecutor.Task) *memory { return &memory{list: list, revision: 7} }
	failing := func(err error, why string) *memory { return &memory{err: fmt.Errorf("%w: %s", err, why)} }
	// An answer that isn't a success is what the golden file is about; the client's error for it is tested elsewhere.
	set := func(tasks ...taskexecutor.Task) caller {
		return func(ctx context.Context, c *taskexecutor.Client, _ http.RoundTripper) error {
			_, err := c.Set(ctx, tasks)
			return err
		}
	}
	waitFor := func(since string) caller {
		return func(ctx context.Context, c *taskexecutor.Client, _ http.RoundTripper) error {
			_, _, err := c.Wait(ctx, since, 20*time.Second)
			return err
		}
	}
	simple := func(f func(context.Context, *taskexecutor.Client) error) caller {
		return func(ctx context.Context, c *taskexecutor.Client, _ http.RoundTripper) error { return f(ctx, c) }
	}
	get := simple(func(ctx context.Context, c *taskexecutor.Client) error { _, err := c.Get(ctx); return err })
	create := simple(func(ctx context.Context, c *taskexecutor.Client) error { _, err := c.Create(ctx, full); return err })
	getOne := simple(func(ctx context.Context, c *taskexecutor.Client) error { _, err := c.GetTask(ctx, "b c"); return err })
	remove := simple(func(ctx context.Context, c *taskexecutor.Client) error { return c.Delete(ctx, "b c") })
	ask := simple(func(ctx context.Context, c *taskexecutor.Client) error { return c.Recycle(ctx, "recycling-1") })
	recycled := simple(func(ctx context.Context, c *taskexecutor.Client) error { _, err := c.Recycled(ctx); return err })
	lost := taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonExecutorLost, Message: "the executor ended while the task ran",
		StartedAt: startedAt, FinishedAt: finishedAt}
	timedOut := taskexecutor.Terminated{ExitCode: 137, Signal: 9, Reason: taskexecutor.ReasonTimedOut, Message: "ran longer than 30s",
		Output: "one\ntwo", StartedAt: startedAt, FinishedAt: finishedAt}
	waiting := taskexecutor.Waiting{Reason: taskexecutor.ReasonStarting, Message: "the process is being started"}
	return map[string]wireCase{
		"set":                     {tasks: with(), call: set(full, small), want: 200},
		"set-nothing":             {tasks: with(small), call: set(), want: 200},
		"set-invalid":             {tasks: with(), call: set(taskexecutor.Task{Name: "a/b"}), want: 400},
		"set-null":                {tasks: with(), call: send("POST", "/setTasks", "null"), want: 400},
		"set-rubbish":             {tasks: with(), call: send("POST", "/setTasks", `[{"name":`), want: 400},
		"set-conflict":            {tasks: failing(task.ErrConflict, `task "u-0-1" is known with another process; choose another name`), call: set(full), want: 409},
		"set-while-stopping":      {tasks: &memory{err: task.ErrClosing}, call: set(full), want: 503},
		"set-broken":              {tasks: failing(io.ErrShortWrite, "no space left on device"), call: set(full), want: 500},
		"set-too-much":            {tasks: with(), call: send("POST", "/setTasks", strings.Repeat(" ", taskexecutor.MaxBodyBytes+1)), want: 413},
		"get":                     {tasks: with(status(small, taskexecutor.ProcessStatus{Waiting: &waiting}), status(full, taskexecutor.ProcessStatus{Terminated: &lost})), call: get, want: 200},
		"get-nothing":             {tasks: &memory{list: []taskexecutor.Task{}}, call: get, want: 200},
		"wait":                    {tasks: with(full, small), call: waitFor("life-7"), want: 200},
		"wait-first":              {tasks: with(status(full, taskexecutor.ProcessStatus{Terminated: &timedOut})), call: waitFor(""), want: 200},
		"wait-wrong":              {tasks: with(), call: send("GET", "/getTasks?since=life-7&wait=soon", ""), want: 400},
		"create":                  {tasks: with(), call: create, want: 201},
		"create-conflict":         {tasks: failing(task.ErrConflict, "there are 64 tasks already"), call: create, want: 409},
		"get-one":                 {tasks: with(status(small, taskexecutor.ProcessStatus{Running: &taskexecutor.Running{StartedAt: startedAt}})), call: getOne, want: 200},
		"get-one-unknown":         {tasks: with(), call: getOne, want: 404},
		"delete":                  {tasks: with(small), call: remove, want: 204},
		"delete-unknown":          {tasks: with(), call: remove, want: 404},
		"recycle":                 {tasks: with(), call: ask, want: 202},
		"recycle-with-tasks":      {tasks: failing(task.ErrConflict, "1 tasks are known or being stopped"), call: ask, want: 409},
		"recycled-clean":          {tasks: &memory{recycled: taskexecutor.RecycleState{ID: "recycling-1", Clean: true}}, call: recycled, want: 200},
		"recycled-unclean":        {tasks: &memory{recycled: taskexecutor.RecycleState{ID: "recycling-1", Reasons: []string{"/etc/hosts was changed"}}}, call: recycled, want: 200},
		"recycled-about-to-exit":  {tasks: &memory{err: recycle.ErrExiting}, call: recycled, want: 503},
		"health":                  {tasks: with(), call: simple(func(ctx context.Context, c *taskexecutor.Client) error { return c.Health(ctx) }), want: 200},
		"no-such-path":            {tasks: with(), call: send("GET", "/metrics", ""), want: 404},
		"no-such-method":          {tasks: with(), call: send("PUT", "/setTasks", "[]"), want: 405},
		"no-token":                {tasks: with(), call: get, guard: true, want: 401},
		"no-token-but-for-health": {tasks: with(), call: send("GET", "/health", ""), guard: true, want: 200},
	}
}

// TestWireOfEveryCall pins every request of the client and every answer of the executor, byte for byte: other clients and
// older controllers rely on them. After a wanted change: go test ./pkg/task-executor -update
func TestWireOfEveryCall(t *testing.T) {
	cases := wireCases()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			handler := tc.tasks.handler()
			if tc.guard {
				root, err := token.NewRoot(time.Now())
				if err != nil {
					t.Fatal(err)
				}
				handler = guardOf(root.Certificate, "the-pod")(handler)
			}
			srv := httptest.NewServer(handler)
			defer srv.Close()
			w := &wire{host: srv.Listener.Addr().String(), through: taskexecutor.NewTransport()}
			defer w.through.CloseIdleConnections()
			err := tc.call(t.Context(), taskexecutor.New("http://pod", taskexecutor.WithTransport(w)), w)
			if !strings.Contains(w.text.String(), fmt.Sprintf("\n%d %s\n", tc.want, http.StatusText(tc.want))) {
				t.Fatalf("want status %d, error %v:\n%s", tc.want, err, w.text.String())
			}
			compareGolden(t, filepath.Join("testdata", "wire", name+".txt"), w.text.String())
		})
	}
	files, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil || len(files) != len(cases) {
		t.Errorf("%d golden files, %v, for %d cases: delete those that nobody compares", len(files), err, len(cases))
	}
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if taskexecutor.Update() {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}
