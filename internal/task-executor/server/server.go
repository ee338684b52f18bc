// SPDX-License-Identifier: Apache-2.0

// Package server serves the executor's HTTP API. A handler decodes, calls, and encodes; what is wrong with a request is
// told as JSON by one function.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"opensandbox.io/controller/internal/task-executor/recycle"
	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// Limits that keep one client from holding the executor up.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 20 * time.Second
	writeTimeout  = 30 * time.Second // more than for reading, so that a body that doesn't come is answered
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// maxWaiting bounds the requests that wait at the same time; more are answered at once.
	maxWaiting = 64
)

// Tasks is what the API is about; *task.Manager in the executor.
type Tasks interface {
	Set(want []taskexecutor.Task) ([]taskexecutor.Task, error)
	Add(want taskexecutor.Task) (taskexecutor.Task, error)
	Get(name string) (taskexecutor.Task, error)
	Remove(name string) error
	Wait(ctx context.Context, since string, wait time.Duration) (tasks []taskexecutor.Task, revision string)
}

// Recycler makes the pod fit for its next user.
type Recycler interface {
	Ask(id string) error
	State() (taskexecutor.RecycleState, error)
}

// errNotAllowed and errNoRoute are what the route table itself answers.
var (
	errNotAllowed = errors.New("method not allowed")
	errNoRoute    = errors.New("no such path")
	errTooLarge   = errors.New("request is larger than 1 MiB")
	errBadRequest = errors.New("bad request")
)

// api holds the handlers.
type api struct {
	tasks   Tasks
	recycle Recycler
	log     *slog.Logger
	waiting chan struct{}

	// lastSet is when the last desired set was signed that was carried out; setting is held while one is.
	setting sync.Mutex
	lastSet int64
}

// NewHandler returns the API. What checks who calls is to be wrapped around it.
func NewHandler(tasks Tasks, recycler Recycler, log *slog.Logger) http.Handler {
	a := &api{tasks: tasks, recycle: recycler, log: log, waiting: make(chan struct{}, maxWaiting)}
	routes := []struct {
		method, path string
		handle       handlerFunc
	}{
		{http.MethodPost, "/setTasks", a.setTasks},
		{http.MethodGet, "/getTasks", a.getTasks},
		{http.MethodPost, "/tasks", a.createTask},
		{http.MethodGet, "/tasks/{name}", a.getTask},
		{http.MethodDelete, "/tasks/{name}", a.deleteTask},
		{http.MethodPost, "/recycle", a.askRecycle},
		{http.MethodGet, "/recycle", a.recycleState},
		{http.MethodGet, "/health", a.health},
	}
	mux := http.NewServeMux()
	paths := map[string]bool{}
	for _, route := range routes {
		mux.Handle(route.method+" "+route.path, a.handle(route.handle))
		if !paths[route.path] {
			paths[route.path] = true
			mux.Handle(route.path, a.handle(fail(errNotAllowed)))
		}
	}
	noRoute := a.handle(fail(errNoRoute))
	mux.Handle("/", noRoute)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern == "" { // as CONNECT has, whose target is no path
			noRoute.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// NewServer returns a server of handler with limits against slow clients. Requests end when ctx does.
func NewServer(ctx context.Context, handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handled(r.Context())
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       baseContext(ctx),
		ConnContext:       connContext,
		ConnState:         auditUnread(log),
		// Else "OPTIONS *" would be answered before the handler.
		DisableGeneralOptionsHandler: true,
	}
}

// response is what a handler answers with: a status, a body to encode (nil for none) and a revision ("" for none).
type response struct {
	status   int
	body     any
	revision string
}

type handlerFunc func(w http.ResponseWriter, r *http.Request) (response, error)

func fail(err error) handlerFunc {
	return func(http.ResponseWriter, *http.Request) (response, error) { return response{}, err }
}

// handle turns a handler into an http.Handler: it owns JSON and errors.
func (a *api) handle(h handlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := h(w, r)
		if err != nil {
			status := statusOf(err)
			a.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
			resp = response{status: status, body: taskexecutor.ErrorBody{Code: http.StatusText(status), Message: err.Error()}}
		}
		if resp.revision != "" {
			w.Header().Set(taskexecutor.RevisionHeader, resp.revision)
		}
		if resp.body == nil {
			w.WriteHeader(resp.status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(resp.status)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(resp.body); err != nil {
			a.log.Debug("could not send an answer", "err", err)
		}
	})
}

// statusOf maps an error to the status of the answer.
func statusOf(err error) int {
	switch {
	case errors.Is(err, task.ErrInvalid), errors.Is(err, recycle.ErrInvalid), errors.Is(err, errBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, task.ErrNotFound), errors.Is(err, errNoRoute):
		return http.StatusNotFound
	case errors.Is(err, task.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, task.ErrClosing), errors.Is(err, recycle.ErrExiting):
		return http.StatusServiceUnavailable
	case errors.Is(err, errNotAllowed):
		return http.StatusMethodNotAllowed
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge
	default:
		return http.StatusInternalServerError
	}
}

func (a *api) setTasks(w http.ResponseWriter, r *http.Request) (response, error) {
	want, err := decode[[]taskexecutor.Task](w, r)
	if err != nil {
		return response{}, err
	}
	if want == nil {
		return response{}, fmt.Errorf("%w: the body is null; send [] to stop all tasks", errBadRequest)
	}
	tasks, err := a.set(want, signedAt(r.Context()))
	return response{status: http.StatusOK, body: tasks}, err
}

// set makes want the desired set, unless a set that was signed later has been: a call that was cut off may arrive after the next one,
// and would begin tasks again that were forgotten meanwhile. One without a token has no such order.
func (a *api) set(want []taskexecutor.Task, signed int64) ([]taskexecutor.Task, error) {
	a.setting.Lock()
	defer a.setting.Unlock()
	if signed != 0 && signed < a.lastSet {
		return nil, fmt.Errorf("%w: a set that was signed %s later has been carried out", task.ErrConflict, time.Duration(a.lastSet-signed))
	}
	tasks, err := a.tasks.Set(want)
	if err == nil {
		a.lastSet = max(a.lastSet, signed)
	}
	return tasks, err
}

func (a *api) getTasks(w http.ResponseWriter, r *http.Request) (response, error) {
	since, wait, err := parseWait(r.URL.Query().Get("since"), r.URL.Query().Get("wait"))
	if err != nil {
		return response{}, err
	}
	if wait > 0 {
		select {
		case a.waiting <- struct{}{}:
			defer func() { <-a.waiting }()
		default:
			wait = 0
		}
	}
	if wait > 0 {
		if err := extend(w, wait); err != nil {
			return response{}, err
		}
	}
	tasks, revision := a.tasks.Wait(r.Context(), since, wait)
	return response{status: http.StatusOK, body: tasks, revision: revision}, nil
}

// extend moves the deadlines of a request that will wait. The one for reading has to go: when it passes, the server
// takes the client for gone.
func extend(w http.ResponseWriter, wait time.Duration) error {
	rc := http.NewResponseController(w)
	//nolint:forbidigo // deadlines of connections are times of the real clock
	if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Now().Add(wait+writeTimeout))); err != nil {
		return fmt.Errorf("extend the request: %w", err)
	}
	return nil
}

// parseWait reads the parameters of a long poll. Without since there is nothing to wait for.
func parseWait(since, wait string) (string, time.Duration, error) {
	if wait == "" || since == "" {
		return "", 0, checkWait(wait)
	}
	d, err := parseDuration(wait)
	return since, min(d, taskexecutor.MaxWait), err
}

func checkWait(wait string) error {
	if wait == "" {
		return nil
	}
	_, err := parseDuration(wait)
	return err
}

// parseDuration takes "20s" and, for the sake of clients that think in seconds, "20".
func parseDuration(s string) (time.Duration, error) {
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%w: wait is %q: it must be a duration such as 20s, not negative", errBadRequest, s)
	}
	return d, nil
}

func (a *api) createTask(w http.ResponseWriter, r *http.Request) (response, error) {
	want, err := decode[taskexecutor.Task](w, r)
	if err != nil {
		return response{}, err
	}
	created, err := a.tasks.Add(want)
	return response{status: http.StatusCreated, body: created}, err
}

func (a *api) getTask(_ http.ResponseWriter, r *http.Request) (response, error) {
	found, err := a.tasks.Get(r.PathValue("name"))
	return response{status: http.StatusOK, body: found}, err
}

func (a *api) deleteTask(_ http.ResponseWriter, r *http.Request) (response, error) {
	return response{status: http.StatusNoContent}, a.tasks.Remove(r.PathValue("name"))
}

func (a *api) askRecycle(w http.ResponseWriter, r *http.Request) (response, error) {
	want, err := decode[taskexecutor.RecycleRequest](w, r)
	if err != nil {
		return response{}, err
	}
	return response{status: http.StatusAccepted}, a.recycle.Ask(want.ID)
}

func (a *api) recycleState(http.ResponseWriter, *http.Request) (response, error) {
	state, err := a.recycle.State()
	return response{status: http.StatusOK, body: state}, err
}

func (a *api) health(http.ResponseWriter, *http.Request) (response, error) {
	return response{status: http.StatusOK, body: taskexecutor.Health{Status: taskexecutor.StatusHealthy}}, nil
}

// decode reads a JSON body of at most 1 MiB.
func decode[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, taskexecutor.MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = errTooLarge
	} else if err != nil {
		err = fmt.Errorf("%w: read body: %w", errBadRequest, err)
	}
	if err != nil {
		var none T
		return none, err
	}
	return decodeJSON[T](data)
}

// decodeJSON reads one JSON value. Fields it doesn't know are left to those who do.
func decodeJSON[T any](data []byte) (T, error) {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		var none T
		return none, fmt.Errorf("%w: decode body: %w", errBadRequest, err)
	}
	return v, nil
}
