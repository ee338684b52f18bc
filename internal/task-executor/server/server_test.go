// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"opensandbox.io/controller/internal/task-executor/recycle"
	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// fakeTasks answers with what it is told, and notes what it was asked.
type fakeTasks struct {
	list  []taskexecutor.Task
	err   error
	asked string
	wait  func(ctx context.Context)
}

func (f *fakeTasks) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	f.asked = fmt.Sprint("set ", len(want))
	return f.list, f.err
}

func (f *fakeTasks) Add(want taskexecutor.Task) (taskexecutor.Task, error) {
	f.asked = "add " + want.Name
	return want, f.err
}

func (f *fakeTasks) Get(name string) (taskexecutor.Task, error) {
	f.asked = "get " + name
	return taskexecutor.Task{Name: name}, f.err
}

func (f *fakeTasks) Remove(name string) error {
	f.asked = "remove " + name
	return f.err
}

func (f *fakeTasks) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string) {
	if f.wait != nil {
		f.wait(ctx)
		return f.list, "r2"
	}
	f.asked = fmt.Sprintf("wait %q %s", since, wait)
	return f.list, "r2"
}

// fakeRecycler notes what it was asked where the tasks do.
type fakeRecycler struct{ *fakeTasks }

func (f fakeRecycler) Ask(id string) error {
	f.asked = "recycle " + id
	return f.err
}

func (f fakeRecycler) State() (taskexecutor.RecycleState, error) {
	f.asked = "recycled"
	return taskexecutor.RecycleState{Reasons: []string{"why"}}, f.err
}

func TestRoutes(t *testing.T) {
	const process = `"process":{"command":["true"]}`
	list := []taskexecutor.Task{{Name: "a<b", Process: taskexecutor.Process{Command: []string{"true"}}}}
	const listJSON = `[{"name":"a<b","process":{"command":["true"]}}]`
	wrap := func(err error) error { return fmt.Errorf("%w: why", err) }
	cases := map[string]struct {
		method, path, body string
		err                error
		wantStatus         int
		wantBody           string
		wantAsked          string
	}{
		"set":                           {"POST", "/setTasks", `[{"name":"a",` + process + `}]`, nil, 200, listJSON, "set 1"},
		"set with fields of tomorrow":   {"POST", "/setTasks", `[{"name":"a","tomorrow":{},` + process + `}]`, nil, 200, listJSON, "set 1"},
		"set nothing":                   {"POST", "/setTasks", `[]`, nil, 200, listJSON, "set 0"},
		"set null":                      {"POST", "/setTasks", `null`, nil, 400, `Bad Request`, ""},
		"set an object":                 {"POST", "/setTasks", `{}`, nil, 400, `Bad Request`, ""},
		"set rubbish":                   {"POST", "/setTasks", `[{"name":`, nil, 400, `Bad Request`, ""},
		"set without a body":            {"POST", "/setTasks", ``, nil, 400, `Bad Request`, ""},
		"set two values":                {"POST", "/setTasks", `[] []`, nil, 400, `Bad Request`, ""},
		"set with letters for numbers":  {"POST", "/setTasks", `[{"name":"a","process":{"command":["x"],"timeoutSeconds":"soon"}}]`, nil, 400, `Bad Request`, ""},
		"set deeply nested":             {"POST", "/setTasks", strings.Repeat("[", 500_000), nil, 400, `Bad Request`, ""},
		"set what is invalid":           {"POST", "/setTasks", `[]`, wrap(task.ErrInvalid), 400, `{"code":"Bad Request","message":"invalid: why"}`, "set 0"},
		"set what conflicts":            {"POST", "/setTasks", `[]`, wrap(task.ErrConflict), 409, `{"code":"Conflict","message":"conflict: why"}`, "set 0"},
		"set while stopping":            {"POST", "/setTasks", `[]`, task.ErrClosing, 503, `Service Unavailable`, "set 0"},
		"set when something breaks":     {"POST", "/setTasks", `[]`, errors.New("broken"), 500, `{"code":"Internal Server Error","message":"broken"}`, "set 0"},
		"set too much":                  {"POST", "/setTasks", `["` + strings.Repeat("x", taskexecutor.MaxBodyBytes) + `"]`, nil, 413, `Request Entity Too Large`, ""},
		"set with another method":       {"PUT", "/setTasks", `[]`, nil, 405, `{"code":"Method Not Allowed","message":"method not allowed"}`, ""},
		"get at once":                   {"GET", "/getTasks", ``, nil, 200, listJSON, `wait "" 0s`},
		"get after a change":            {"GET", "/getTasks?wait=20s&since=r1", ``, nil, 200, listJSON, `wait "r1" 20s`},
		"get after a change, seconds":   {"GET", "/getTasks?wait=20&since=r1", ``, nil, 200, listJSON, `wait "r1" 20s`},
		"get with nothing to compare":   {"GET", "/getTasks?wait=20s", ``, nil, 200, listJSON, `wait "" 0s`},
		"get with a long wait":          {"GET", "/getTasks?wait=20h&since=r1", ``, nil, 200, listJSON, `wait "r1" 5m0s`},
		"get with a negative wait":      {"GET", "/getTasks?wait=-1s&since=r1", ``, nil, 400, `not negative`, ""},
		"get with a bad wait":           {"GET", "/getTasks?wait=soon", ``, nil, 400, `\"soon\"`, ""},
		"create":                        {"POST", "/tasks", `{"name":"a",` + process + `}`, nil, 201, `{"name":"a",` + process + `}`, "add a"},
		"create rubbish":                {"POST", "/tasks", `[]`, nil, 400, `Bad Request`, ""},
		"get one":                       {"GET", "/tasks/a%20b", ``, nil, 200, `{"name":"a b","process":{"command":null}}`, "get a b"},
		"get one that isn't there":      {"GET", "/tasks/a", ``, wrap(task.ErrNotFound), 404, `{"code":"Not Found","message":"not found: why"}`, "get a"},
		"delete":                        {"DELETE", "/tasks/a", ``, nil, 204, ``, "remove a"},
		"delete one that isn't there":   {"DELETE", "/tasks/a", ``, wrap(task.ErrNotFound), 404, `Not Found`, "remove a"},
		"recycle":                       {"POST", "/recycle", `{"id":"x"}`, nil, 202, ``, "recycle x"},
		"recycle without a name":        {"POST", "/recycle", `{}`, wrap(recycle.ErrInvalid), 400, `Bad Request`, "recycle "},
		"recycle rubbish":               {"POST", "/recycle", `[]`, nil, 400, `Bad Request`, ""},
		"recycle while there are tasks": {"POST", "/recycle", `{"id":"x"}`, wrap(task.ErrConflict), 409, `Conflict`, "recycle x"},
		"recycled":                      {"GET", "/recycle", ``, nil, 200, `{"clean":false,"reasons":["why"]}`, "recycled"},
		"recycled, about to exit":       {"GET", "/recycle", ``, recycle.ErrExiting, 503, `about to exit`, "recycled"},
		"recycle with another method":   {"DELETE", "/recycle", ``, nil, 405, `method not allowed`, ""},
		"health":                        {"GET", "/health", ``, nil, 200, `{"status":"healthy"}`, ""},
		"a path that isn't there":       {"GET", "/", ``, nil, 404, `{"code":"Not Found","message":"no such path"}`, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tasks := &fakeTasks{list: list, err: tc.err}
			srv := httptest.NewServer(NewHandler(tasks, fakeRecycler{tasks}, quiet))
			defer srv.Close()
			req, err := http.NewRequestWithContext(t.Context(), tc.method, srv.URL+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tc.wantStatus || !strings.Contains(string(body), tc.wantBody) || tasks.asked != tc.wantAsked {
				t.Errorf("%d %s, asked %q, want %d %s, asked %q", resp.StatusCode, body, tasks.asked, tc.wantStatus, tc.wantBody, tc.wantAsked)
			}
			if len(body) > 0 && (!json.Valid(body) || resp.Header.Get("Content-Type") != "application/json") {
				t.Errorf("no JSON: %s %s", resp.Header.Get("Content-Type"), body)
			}
			if tc.path == "/getTasks" && resp.Header.Get(taskexecutor.RevisionHeader) != "r2" {
				t.Errorf("headers %v lack the revision", resp.Header)
			}
		})
	}
}

// serve runs a whole server and returns its address and a function that stops it.
func serve(t *testing.T, tasks Tasks) (addr string, stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, NewServer(ctx, NewHandler(tasks, fakeRecycler{&fakeTasks{}}, quiet), quiet), l, 10*time.Second)
	}()
	return l.Addr().String(), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestStoppingEndsWaitingRequests: a long poll must not hold up the end of the server.
func TestStoppingEndsWaitingRequests(t *testing.T) {
	waiting := make(chan struct{})
	addr, stop := serve(t, &fakeTasks{list: []taskexecutor.Task{}, wait: func(ctx context.Context) {
		close(waiting)
		<-ctx.Done()
	}})
	client := taskexecutor.New("http://" + addr)
	defer client.CloseIdleConnections()
	answered := make(chan error, 1)
	go func() {
		_, rev, err := client.Wait(context.Background(), "r1", time.Minute)
		if err == nil && rev != "r2" {
			err = fmt.Errorf("revision %q", rev)
		}
		answered <- err
	}()
	<-waiting
	stop()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestAClientThatHangsUpFreesItsPlace: the context of a waiting request ends with its connection.
func TestAClientThatHangsUpFreesItsPlace(t *testing.T) {
	waiting, left := make(chan struct{}), make(chan struct{})
	addr, stop := serve(t, &fakeTasks{wait: func(ctx context.Context) {
		close(waiting)
		<-ctx.Done()
		close(left)
	}})
	defer stop()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /getTasks?wait=5m&since=r1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-waiting
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-left
}

// TestRubbishOnTheWire: what isn't HTTP is refused, and the next client is served.
func TestRubbishOnTheWire(t *testing.T) {
	addr, stop := serve(t, &fakeTasks{})
	defer stop()
	for _, rubbish := range []string{"\x16\x03\x01\x00\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST /setTasks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, rubbish); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, "400") && !strings.Contains(line, "505") {
			t.Errorf("%q was answered with %q, %v", rubbish, line, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	client := taskexecutor.New("http://" + addr)
	defer client.CloseIdleConnections()
	if err := client.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServerLimits(t *testing.T) {
	srv := NewServer(t.Context(), http.NotFoundHandler(), quiet)
	if srv.ReadHeaderTimeout <= 0 || srv.ReadTimeout <= 0 || srv.WriteTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 {
		t.Errorf("a server without a limit: %+v", srv)
	}
}

// TestTooManyWaitAreAnsweredAtOnce: the number of requests that wait is bounded.
func TestTooManyWaitAreAnsweredAtOnce(t *testing.T) {
	tasks := &fakeTasks{list: []taskexecutor.Task{}}
	a := &api{tasks: tasks, log: quiet, waiting: make(chan struct{}, 1)}
	a.waiting <- struct{}{}
	rec := httptest.NewRecorder()
	a.handle(a.getTasks).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/getTasks?wait=20s&since=r1", nil))
	if diff := cmp.Diff(`wait "r1" 0s`, tasks.asked); diff != "" || rec.Code != http.StatusOK {
		t.Errorf("%d, (-want +got):\n%s", rec.Code, diff)
	}
}

// FuzzDecode: whatever a body holds, it is a set that can be kept, or refused; nothing dies of it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"name":"a","process":{"command":["sh","-c"],"args":["x"],"env":[{"name":"A","value":"1"}],"timeoutSeconds":3}}]`))
	f.Add([]byte(`[{"name":"../a","process":{"command":[""],"timeoutSeconds":-1}}]`))
	f.Add([]byte(`[null,{"name":"\u0000"}]`))
	f.Add([]byte(`[{"name":"a","processStatus":{"running":{"startedAt":"x"}}}]`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		tasks, err := decodeJSON[[]taskexecutor.Task](body)
		if err != nil {
			if statusOf(err) != http.StatusBadRequest {
				t.Errorf("status %d for %q", statusOf(err), body)
			}
			return
		}
		if taskexecutor.ValidateSet(tasks) != nil {
			return
		}
		for _, task := range tasks {
			if strings.ContainsAny(task.Name, "/\x00\n") || task.Name == "." || task.Name == ".." || len(task.Name) > 253 || len(task.Process.Command) == 0 {
				t.Errorf("took %+v", task)
			}
		}
	})
}
