// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultTimeout bounds a call, beside the caller's context. Wait adds the time it asks the executor to wait.
const DefaultTimeout = 10 * time.Second

// ErrBodyTooLarge says that a response was larger than MaxBodyBytes and was not read to its end.
var ErrBodyTooLarge = errors.New("response is larger than 1 MiB")

// ErrRequestTooLarge says that a request would be larger than MaxBodyBytes and was not sent.
var ErrRequestTooLarge = errors.New("request is larger than 1 MiB")

// StatusError is an answer of an executor that isn't a success.
type StatusError struct {
	// Status is the HTTP status, such as 404.
	Status int
	// Code is the code of the JSON body, such as "Not Found"; the text of Status when there was no such body.
	Code string
	// Message is the message of the JSON body, stripped of control characters. It may be empty.
	Message string
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("executor answered %d %s", e.Status, e.Code)
	}
	return fmt.Sprintf("executor answered %d %s: %s", e.Status, e.Code, e.Message)
}

// IsNotFound reports whether err says that the executor doesn't know the task.
func IsNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

// IsConflict reports whether err says that a task of that name is known with another process, or is being stopped.
func IsConflict(err error) bool { return hasStatus(err, http.StatusConflict) }

func hasStatus(err error, status int) bool {
	var statusErr *StatusError
	return errors.As(err, &statusErr) && statusErr.Status == status
}

// Client talks to one executor, and trusts it with nothing: it follows no redirect, uses no proxy, reads at most 1 MiB,
// and strips control characters from what it hands on. It may be used by many goroutines.
type Client struct {
	baseURL string
	timeout time.Duration
	sign    Sign
	http    *http.Client
}

// Sign returns the token of one call: its method, its path with the query, and its body.
type Sign func(method, path string, body []byte) (string, error)

// Option changes a Client under construction.
type Option func(*Client)

// WithTransport makes the client send through rt. Many clients should share one [NewTransport], since connections are kept
// per transport. A rt that isn't made by NewTransport must itself use no proxy.
func WithTransport(rt http.RoundTripper) Option {
	return func(c *Client) { c.http.Transport = rt }
}

// WithTimeout bounds each call by d instead of DefaultTimeout.
func WithTimeout(d time.Duration) Option {
	return func(c *Client) { c.timeout = d }
}

// WithTokens makes the client send a token with each call, for an executor that asks for one.
func WithTokens(sign Sign) Option {
	return func(c *Client) { c.sign = sign }
}

// New returns a client of the executor at baseURL, such as "http://10.0.0.7:5758". A malformed URL surfaces as the error
// of the calls.
func New(baseURL string, opts ...Option) *Client {
	c := &Client{
		baseURL: strings.TrimRight(baseURL, "/"),
		timeout: DefaultTimeout,
		http: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	for _, opt := range opts {
		opt(c)
	}
	if c.http.Transport == nil {
		c.http.Transport = NewTransport()
	}
	return c
}

// BaseURL returns the URL of the executor's API on a pod's IP and the default port.
func BaseURL(podIP string) string {
	return "http://" + net.JoinHostPort(podIP, fmt.Sprint(DefaultPort))
}

// CloseIdleConnections closes the connections that no call uses. With a shared transport those of all its clients.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Set makes tasks the whole desired set: new names start, missing ones are stopped and forgotten, known ones stay as they
// are. It returns the list after that, in which tasks being stopped still stand.
func (c *Client) Set(ctx context.Context, tasks []Task) ([]Task, error) {
	if tasks == nil {
		tasks = []Task{} // null is not a set
	}
	var out []Task
	if _, err := c.do(ctx, call{method: http.MethodPost, path: "/setTasks", in: tasks, out: &out}); err != nil {
		return nil, fmt.Errorf("set tasks: %w", err)
	}
	return sanitize(out), nil
}

// Get returns all known tasks, sorted by name.
func (c *Client) Get(ctx context.Context) ([]Task, error) {
	var out []Task
	if _, err := c.do(ctx, call{method: http.MethodGet, path: "/getTasks", out: &out}); err != nil {
		return nil, fmt.Errorf("get tasks: %w", err)
	}
	return sanitize(out), nil
}

// Wait returns all known tasks and the revision of that list as soon as it differs from since, or after wait (at most
// MaxWait). An empty since is answered at once. An empty rev means that the executor doesn't know this call and has
// answered at once: the caller has to pace itself.
func (c *Client) Wait(ctx context.Context, since string, wait time.Duration) (tasks []Task, rev string, err error) {
	wait = min(max(wait, 0), MaxWait)
	query := url.Values{"wait": {wait.String()}}
	if since != "" {
		query.Set("since", since)
	}
	var out []Task
	header, err := c.do(ctx, call{method: http.MethodGet, path: "/getTasks?" + query.Encode(), out: &out, extra: wait})
	if err != nil {
		return nil, "", fmt.Errorf("wait for tasks: %w", err)
	}
	return sanitize(out), oneLine(header.Get(RevisionHeader), maxRevisionBytes), nil
}

// Create adds one task to the desired set.
func (c *Client) Create(ctx context.Context, task Task) (*Task, error) {
	out := make([]Task, 1)
	if _, err := c.do(ctx, call{method: http.MethodPost, path: "/tasks", in: task, out: &out[0]}); err != nil {
		return nil, fmt.Errorf("create task %q: %w", task.Name, err)
	}
	return &sanitize(out)[0], nil
}

// GetTask returns one task; IsNotFound tells when it isn't known.
func (c *Client) GetTask(ctx context.Context, name string) (*Task, error) {
	out := make([]Task, 1)
	if _, err := c.do(ctx, call{method: http.MethodGet, path: taskPath(name), out: &out[0]}); err != nil {
		return nil, fmt.Errorf("get task %q: %w", name, err)
	}
	return &sanitize(out)[0], nil
}

// Delete takes one task out of the desired set; IsNotFound tells when it isn't known. It returns before the task's
// processes are gone: the task stays listed until then.
func (c *Client) Delete(ctx context.Context, name string) error {
	if _, err := c.do(ctx, call{method: http.MethodDelete, path: taskPath(name)}); err != nil {
		return fmt.Errorf("delete task %q: %w", name, err)
	}
	return nil
}

// Health returns nil when the executor answers and calls itself healthy.
func (c *Client) Health(ctx context.Context) error {
	var health Health
	if _, err := c.do(ctx, call{method: http.MethodGet, path: "/health", out: &health}); err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	if health.Status != StatusHealthy {
		return fmt.Errorf("check health: executor calls itself %q", oneLine(health.Status, maxReasonBytes))
	}
	return nil
}

func taskPath(name string) string { return "/tasks/" + url.PathEscape(name) }

// call is one request: in is its JSON body if not nil, out takes the JSON of the answer if not nil, extra is how long the
// executor was asked to wait before it answers.
type call struct {
	method, path string
	in, out      any
	extra        time.Duration
}

func (c *Client) do(ctx context.Context, call call) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+call.extra)
	defer cancel()
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // the body has been read, or the error of reading it is returned
	body, err := readBody(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, statusError(resp.StatusCode, body)
	}
	if call.out == nil {
		return resp.Header, nil
	}
	if err := json.Unmarshal(body, call.out); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return resp.Header, nil
}

func (c *Client) request(ctx context.Context, call call) (*http.Request, error) {
	var data []byte
	if call.in != nil {
		var err error
		if data, err = json.Marshal(call.in); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		if len(data) > MaxBodyBytes {
			return nil, fmt.Errorf("encode request of %d bytes: %w", len(data), ErrRequestTooLarge)
		}
	}
	req, err := http.NewRequestWithContext(ctx, call.method, c.baseURL+call.path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if c.sign != nil {
		token, err := c.sign(req.Method, req.URL.RequestURI(), data)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if call.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	return req, nil
}

func readBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBodyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > MaxBodyBytes {
		return nil, ErrBodyTooLarge
	}
	return body, nil
}

// statusError reads the JSON error of an answer; a body of another kind is dropped, for it could be anything.
func statusError(status int, body []byte) *StatusError {
	e := &StatusError{Status: status, Code: http.StatusText(status)}
	var parsed ErrorBody
	if json.Unmarshal(body, &parsed) == nil && parsed.Code != "" {
		e.Code, e.Message = oneLine(parsed.Code, maxReasonBytes), oneLine(parsed.Message, maxMessageBytes)
	}
	return e
}
