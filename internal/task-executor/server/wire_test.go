// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// audit is a log that many goroutines write to.
type audit struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (a *audit) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.Write(p)
}

// refusals are the audit lines.
func (a *audit) refusals() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for line := range strings.Lines(a.buf.String()) {
		if strings.Contains(line, "audit=true") {
			lines = append(lines, line)
		}
	}
	return lines
}

// countingTasks counts the sets that came through. A wait lasts as long as it was asked for.
type countingTasks struct {
	fakeTasks
	sets atomic.Int32
}

func (c *countingTasks) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	c.sets.Add(1)
	return want, nil
}

func (c *countingTasks) Wait(ctx context.Context, _ string, wait time.Duration) ([]taskexecutor.Task, string) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return []taskexecutor.Task{}, "r2"
}

// port is a whole guarded server, as the executor serves it.
type port struct {
	t      *testing.T
	dial   func() (net.Conn, error)
	tasks  *countingTasks
	audit  *audit
	signer *token.Signer
	stop   func()
}

// openPort serves on l until stop is called.
func openPort(t *testing.T, l net.Listener, dial func() (net.Conn, error)) *port {
	t.Helper()
	p := &port{t: t, dial: dial, tasks: &countingTasks{}, audit: &audit{}}
	root, err := token.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.signer, err = token.NewSigner(root, clock.RealClock{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(p.audit, nil))
	handler := Guard(NewHandler(p.tasks, fakeRecycler{&p.tasks.fakeTasks}, log), token.NewVerifier(root.Certificate, guardedPod, clock.RealClock{}), log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, NewServer(ctx, handler, log), l, 10*time.Second) }()
	p.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return p
}

func newPort(t *testing.T) *port {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := openPort(t, l, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String()) })
	t.Cleanup(p.stop)
	return p
}

func (p *port) token(method, path, body string) string {
	p.t.Helper()
	raw, err := p.signer.Sign(token.Call{PodUID: guardedPod, Method: method, Path: path, Body: []byte(body)})
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

func (p *port) open() net.Conn {
	p.t.Helper()
	c, err := p.dial()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() }) // closed before by some
	return c
}

// exchange writes text on a connection of its own, and returns the status of every answer until the server hangs up, or
// until want answers have come.
func (p *port) exchange(text string, want int) []int {
	p.t.Helper()
	c := p.open()
	defer c.Close() //nolint:errcheck // all was read that is wanted
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Fatal(err)
	}
	var got []int
	in := bufio.NewReader(c)
	for len(got) < want {
		resp, err := http.ReadResponse(in, nil) //nolint:bodyclose // read to its end below
		if err != nil {
			return got
		}
		got = append(got, resp.StatusCode)
		if resp.StatusCode >= 400 && !resp.Close {
			p.t.Errorf("the connection is kept open after a %d", resp.StatusCode)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return got // of a HEAD there is none
		}
		if resp.Close && resp.StatusCode != http.StatusContinue {
			return got
		}
	}
	return got
}

// request is a request of HTTP/1.1; headers end with a line break each.
func request(line, headers, body string) string {
	return line + " HTTP/1.1\r\nHost: pod\r\n" + headers + "\r\n" + body
}

func auth(raw string) string { return "Authorization: Bearer " + raw + "\r\n" }

func length(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }

func chunked(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }

const someTasks = `[{"name":"a","process":{"command":["true"]}}]`

// Whatever a stranger sends, in whatever way, is answered with a refusal and an audit line, and nothing of it comes through.
func TestTheGuardOnTheWire(t *testing.T) {
	large := strings.Repeat(" ", taskexecutor.MaxBodyBytes+1)
	set := func(p *port) string { return auth(p.token("POST", "/setTasks", someTasks)) }
	for name, tc := range map[string]struct {
		text func(p *port) string
		want []int
		sets int32
	}{
		"a call with its token": {want: []int{200}, sets: 1, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks), someTasks)
		}},
		"its body in chunks": {want: []int{200}, sets: 1, text: func(p *port) string {
			return request("POST /setTasks", set(p)+"Transfer-Encoding: chunked\r\n", chunked(someTasks))
		}},
		"another body in chunks": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", set(p)+"Transfer-Encoding: chunked\r\n", chunked("[]"))
		}},
		"two bodies, by length and in chunks": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks)+"Transfer-Encoding: chunked\r\n", chunked("[]"))
		}},
		"chunks over the limit": {want: []int{413}, text: func(p *port) string {
			return request("POST /setTasks", auth(p.token("POST", "/setTasks", large))+"Transfer-Encoding: chunked\r\n", chunked(large))
		}},
		"a length over the limit, and no body": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", "Content-Length: 99999999999\r\n", "")
		}},
		"a body shorter than its length": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", "Content-Length: 1000\r\n", "[]")
		}},
		"a body longer than its length is another request": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", set(p)+"Content-Length: 2\r\n", "[]"+someTasks)
		}},
		"two calls at once on one connection": {want: []int{200, 200}, sets: 2, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks), someTasks) + request("POST /setTasks", set(p)+length(someTasks), someTasks)
		}},
		"a replay behind its call": {want: []int{200, 401}, sets: 1, text: func(p *port) string {
			one := request("POST /setTasks", set(p)+length(someTasks), someTasks)
			return one + one
		}},
		"a call without a token behind one with": {want: []int{200, 401}, sets: 1, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks), someTasks) + request("POST /setTasks", length(someTasks), someTasks)
		}},
		"a call behind a refused one": {want: []int{401}, text: func(p *port) string {
			return request("GET /getTasks", "", "") + request("POST /setTasks", set(p)+length(someTasks), someTasks)
		}},
		"a call with its token that waits for leave to send its body": {want: []int{100, 200}, sets: 1, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks)+"Expect: 100-continue\r\n", someTasks)
		}},
		"a call without one that waits for leave to send its body": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", length(someTasks)+"Expect: 100-continue\r\n", someTasks)
		}},
		"the second of two tokens": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks", auth("x")+set(p)+length(someTasks), someTasks)
		}},
		"the token in the query": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks?access_token="+p.token("POST", "/setTasks", someTasks), length(someTasks), someTasks)
		}},
		"the path as a whole address": {want: []int{401}, text: func(p *port) string {
			return request("POST http://pod/setTasks", set(p)+length(someTasks), someTasks)
		}},
		"the path written differently": {want: []int{401}, text: func(p *port) string {
			return request("POST /%73etTasks", set(p)+length(someTasks), someTasks)
		}},
		"an empty query behind the path": {want: []int{401}, text: func(p *port) string {
			return request("POST /setTasks?", set(p)+length(someTasks), someTasks)
		}},
		"health":                {want: []int{200}, text: func(*port) string { return request("GET /health", "", "") }},
		"health with a query":   {want: []int{200}, text: func(*port) string { return request("GET /health?a=b", "", "") }},
		"health behind a slash": {want: []int{401}, text: func(*port) string { return request("GET //health", "", "") }},
		"health before a slash": {want: []int{401}, text: func(*port) string { return request("GET /health/", "", "") }},
		"health by a detour":    {want: []int{401}, text: func(*port) string { return request("GET /setTasks/../health", "", "") }},
		"a detour over health":  {want: []int{401}, text: func(*port) string { return request("GET /health/../getTasks", "", "") }},
		"an encoded detour":     {want: []int{401}, text: func(*port) string { return request("GET /health/%2e%2e/getTasks", "", "") }},
		"HEAD of health":        {want: []int{401}, text: func(*port) string { return request("HEAD /health", "", "") }},
		"HEAD of the tasks":     {want: []int{401}, text: func(*port) string { return request("HEAD /getTasks", "", "") }},
		"OPTIONS of a path":     {want: []int{401}, text: func(*port) string { return request("OPTIONS /setTasks", "", "") }},
		"OPTIONS of the server": {want: []int{401}, text: func(*port) string { return request("OPTIONS *", "", "") }},
		"CONNECT":               {want: []int{401}, text: func(*port) string { return request("CONNECT pod:80", "", "") }},
		"another method in health": {want: []int{401}, text: func(*port) string {
			return request("GET /getTasks", "X-HTTP-Method-Override: GET\r\nX-Original-URL: /health\r\n", "")
		}},
		"an upgrade to HTTP/2": {want: []int{401}, text: func(*port) string {
			return request("GET /getTasks", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", "")
		}},
		"HTTP/2": {want: []int{401}, text: func(*port) string { return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" }},
		"headers over the limit": {want: []int{431}, text: func(*port) string {
			return request("GET /getTasks", "X: "+strings.Repeat("x", 64<<10)+"\r\n", "")
		}},
		"headers over the limit behind a call": {want: []int{200, 431}, sets: 1, text: func(p *port) string {
			return request("POST /setTasks", set(p)+length(someTasks), someTasks) + request("GET /getTasks", "X: "+strings.Repeat("x", 64<<10)+"\r\n", "")
		}},
		"a handshake of TLS":      {want: []int{400}, text: func(*port) string { return "\x16\x03\x01\x00\r\n\r\n" }},
		"a version of tomorrow":   {want: []int{505}, text: func(*port) string { return "GET / HTTP/9.9\r\n\r\n" }},
		"a length that is none":   {want: []int{400}, text: func(*port) string { return request("POST /setTasks", "Content-Length: -1\r\n", "") }},
		"a coding that is no one": {want: []int{501}, text: func(*port) string { return request("POST /setTasks", "Transfer-Encoding: zip\r\n", "") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPort(t)
			got := p.exchange(tc.text(p), len(tc.want))
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("answers %v, want %v", got, tc.want)
			}
			if sets := p.tasks.sets.Load(); sets != tc.sets {
				t.Errorf("%d sets came through, want %d", sets, tc.sets)
			}
			refused := 0
			for _, status := range tc.want {
				if status >= 400 {
					refused++
				}
			}
			p.wantRefusals(refused, tc.want[len(tc.want)-1])
		})
	}
}

// wantRefusals waits for the audit lines of n refused calls, the last of them with this status.
func (p *port) wantRefusals(n, status int) {
	p.t.Helper()
	var lines []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // what the server itself refuses is told after its answer
		if lines = p.audit.refusals(); len(lines) >= n || time.Now().After(deadline) {
			break
		}
	}
	if len(lines) != n || (n > 0 && !strings.Contains(lines[n-1], fmt.Sprintf(" status=%d ", status))) {
		p.t.Errorf("audit lines %q, want %d, the last with status %d", lines, n, status)
	}
}

// Of many calls with one token, all at the same instant, exactly one comes through.
func TestOneOfManyReplaysAtTheSameInstantComesThrough(t *testing.T) {
	p := newPort(t)
	text := request("POST /setTasks", auth(p.token("POST", "/setTasks", someTasks))+length(someTasks), someTasks)
	const calls = 32
	begin, let := make(chan struct{}), atomic.Int32{}
	var callers sync.WaitGroup
	for range calls {
		c := p.open()
		if _, err := io.WriteString(c, text[:len(text)-1]); err != nil { // all wait for their last byte
			t.Fatal(err)
		}
		callers.Go(func() {
			<-begin
			if _, err := io.WriteString(c, text[len(text)-1:]); err != nil {
				t.Error(err)
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
			switch resp.StatusCode {
			case http.StatusOK:
				let.Add(1)
			case http.StatusUnauthorized:
			default:
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	close(begin)
	callers.Wait()
	if let.Load() != 1 || p.tasks.sets.Load() != 1 {
		t.Errorf("%d answered with success, %d sets, want 1 and 1", let.Load(), p.tasks.sets.Load())
	}
	if lines := p.audit.refusals(); len(lines) != calls-1 {
		t.Errorf("%d audit lines, want %d", len(lines), calls-1)
	}
}

// Strangers who hold connections open, or send headers a byte at a time, keep nobody out: the oldest of them are closed.
func TestStrangersWithManyConnectionsKeepNobodyOut(t *testing.T) {
	p := newPort(t)
	known := p.open() // of the controller, from before; it must stay
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, request("POST /setTasks", auth(p.token("POST", "/setTasks", someTasks))+length(someTasks), someTasks)); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, %w", resp.StatusCode, err)
		}
		return resp.Body.Close()
	}
	if err := ask(known); err != nil {
		t.Fatal(err)
	}
	var first net.Conn
	for i := range 2 * maxStrangers {
		c := p.open()
		if _, err := io.WriteString(c, "POST /setTasks HTTP/1.1\r\nHost: p"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = c
		}
	}
	if err := ask(p.open()); err != nil {
		t.Errorf("a new connection of the controller: %v", err)
	}
	if err := ask(known); err != nil {
		t.Errorf("its old connection: %v", err)
	}
	if err := first.SetDeadline(time.Now().Add(headerTimeout / 4)); err != nil { // it isn't cut off for being slow
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the stranger's first connection is still open: %v", err)
	}
}

// pipes is a listener of connections in memory, whose deadlines are times of the test's clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (l *pipes) dial() (net.Conn, error) {
	here, there := net.Pipe()
	l.conns <- there
	return here, nil
}

// A client that sends its headers a byte at a time is cut off, and others are served meanwhile.
func TestAClientThatSendsItsHeadersByteByByteIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		p := openPort(t, l, l.dial)
		defer p.stop()
		slow, begun := p.open(), time.Now()
		defer slow.Close() //nolint:errcheck // closed by the server
		answer := make(chan string, 1)
		go func() { // ends with the connection; in memory a write waits for its reader
			told, _ := io.ReadAll(slow) // closed in the end
			answer <- string(told)
		}()
		sent := 0
		for _, b := range []byte(request("POST /setTasks", auth(p.token("POST", "/setTasks", someTasks))+length(someTasks), someTasks)) {
			if _, err := slow.Write([]byte{b}); err != nil {
				break
			}
			sent++
			time.Sleep(500 * time.Millisecond)
			if sent == 5 {
				if got := p.exchange(request("GET /health", "", ""), 1); fmt.Sprint(got) != "[200]" {
					t.Errorf("meanwhile another got %v", got)
				}
			}
		}
		if took := time.Since(begun); took < headerTimeout || took > headerTimeout+time.Second {
			t.Errorf("cut off after %d bytes and %s, want %s", sent, took, headerTimeout)
		}
		if p.tasks.sets.Load() != 0 {
			t.Error("the call came through")
		}
		if got := <-answer; got != tooSlow {
			t.Errorf("it was answered with %q, want a 408", got)
		}
		synctest.Wait()
		p.wantRefusals(1, http.StatusRequestTimeout)
	})
}

// Who connects and says nothing is closed without a word: nobody was refused anything. The same goes for a connection that
// rests after a call.
func TestASilentConnectionIsClosedWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		p := openPort(t, l, l.dial)
		defer p.stop()
		silent, resting := p.open(), p.open()
		if _, err := io.WriteString(resting, request("GET /health", "", "")); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resting)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("health: %v", err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		for name, c := range map[string]io.Reader{"the silent one": silent, "the resting one": in} {
			if told, err := io.ReadAll(c); err != nil || len(told) > 0 {
				t.Errorf("%s was told %q, %v", name, told, err)
			}
		}
		synctest.Wait()
		p.wantRefusals(0, 0)
	})
}

// A body that doesn't come is given up, also for a caller with a token.
func TestABodyThatDoesNotComeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		p := openPort(t, l, l.dial)
		defer p.stop()
		begun := time.Now()
		got := p.exchange(request("POST /setTasks", auth(p.token("POST", "/setTasks", someTasks))+length(someTasks), "["), 1)
		if took := time.Since(begun); fmt.Sprint(got) != "[400]" || took != readTimeout {
			t.Errorf("answers %v after %s, want a 400 after %s", got, took, readTimeout)
		}
		p.wantRefusals(1, http.StatusBadRequest)
	})
}

// A call that waits for the longest time there is gets its answer, though the guard has read it, and its connection serves
// the next.
func TestALongPollBehindTheGuardIsAnsweredAfterItsWholeWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		p := openPort(t, l, l.dial)
		defer p.stop()
		c := p.open()
		in := bufio.NewReader(c)
		const path = "/getTasks?since=r1&wait=5m0s"
		for turn := range 2 {
			begun := time.Now()
			if _, err := io.WriteString(c, request("GET "+path, auth(p.token("GET", path, "")), "")); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(in, nil) //nolint:bodyclose // read to its end below
			if err != nil {
				t.Fatalf("turn %d: %v after %s", turn, err, time.Since(begun))
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || time.Since(begun) != taskexecutor.MaxWait {
				t.Errorf("turn %d: status %d, %v, after %s, want a 200 after %s", turn, resp.StatusCode, err, time.Since(begun), taskexecutor.MaxWait)
			}
			if err := c.SetDeadline(time.Now().Add(10 * time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
