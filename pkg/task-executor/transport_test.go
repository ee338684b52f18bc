// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// peer is a server of raw connections: handle gets each one with its number, from 1, and closes it by returning.
func peer(t *testing.T, handle func(n int, conn net.Conn, requests *bufio.Reader)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close() //nolint:errcheck // the test is over
				handle(n, conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// get makes one call, and returns the status and the body.
func get(ctx context.Context, rt http.RoundTripper, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func read(t *testing.T, requests *bufio.Reader) string {
	req, err := http.ReadRequest(requests)
	if err != nil {
		t.Error(err)
		return ""
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

func newTransport(t *testing.T) *Transport {
	rt := NewTransport()
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

func TestCallsInARowShareAConnection(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what is missing is missing in the answer
		_, _ = w.Write(body)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	rt := newTransport(t)
	for _, body := range []string{"a", "", strings.Repeat("b", 100_000)} {
		if status, got, err := get(t.Context(), rt, srv.URL, body); err != nil || status != 200 || got != body {
			t.Fatalf("status %d, %d bytes (%v), want 200 and the %d bytes that were sent", status, len(got), err, len(body))
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestACallThatWaitsHasNoGoroutineBesideItsCaller(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	url := peer(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
		read(t, requests)
		close(arrived)
		<-answer
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	wg.Go(func() {
		if status, _, err := get(t.Context(), newTransport(t), url, "x"); err != nil || status != 200 {
			t.Errorf("status %d (%v), want 200", status, err)
		}
	})
	<-arrived
	if extra := runtime.NumGoroutine() - before; extra != 2 { // the caller, and who serves it
		t.Errorf("%d goroutines more, want the caller's and its server's", extra)
	}
	close(answer)
	wg.Wait()
}

// A connection on which the executor has hung up meanwhile costs a dial, and no error.
func TestACallOverAConnectionThatWasClosedMeanwhileIsMadeAgain(t *testing.T) {
	var bodies sync.Map
	closed := make(chan struct{})
	url := peer(t, func(n int, conn net.Conn, requests *bufio.Reader) {
		bodies.Store(n, read(t, requests))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if n == 1 {
			_ = conn.Close()
			close(closed)
		}
	})
	rt := newTransport(t)
	if _, _, err := get(t.Context(), rt, url, "first"); err != nil {
		t.Fatal(err)
	}
	<-closed
	if status, _, err := get(t.Context(), rt, url, "second"); err != nil || status != 200 {
		t.Fatalf("status %d (%v), want 200", status, err)
	}
	if got, _ := bodies.Load(2); got != "second" {
		t.Errorf("the new connection got %q, want the whole second call", got)
	}
}

func TestACallOverANewConnectionIsMadeOnce(t *testing.T) {
	var conns atomic.Int32
	url := peer(t, func(_ int, _ net.Conn, requests *bufio.Reader) {
		conns.Add(1)
		read(t, requests)
	})
	if _, _, err := get(t.Context(), newTransport(t), url, "x"); !errors.Is(err, errNoAnswer) || conns.Load() != 1 {
		t.Errorf("error %v over %d connections, want errNoAnswer over 1", err, conns.Load())
	}
}

// An executor refuses a call without reading its body, as the real one does for a wrong token.
func TestAnAnswerBeforeTheEndOfTheRequestIsRead(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	t.Cleanup(srv.Close)
	status, body, err := get(t.Context(), newTransport(t), srv.URL, strings.Repeat("x", 8<<20))
	if err != nil || status != http.StatusUnauthorized || body != "no\n" {
		t.Errorf("status %d, body %q (%v), want 401 and no", status, body, err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"no HTTP":                            "hello\r\n\r\n",
		"headers without an end":             ok + "A: b\r\n",
		"headers above 64 KiB":               ok + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 70) + "Content-Length: 0\r\n\r\n",
		"a line without an end above 64 KiB": ok + "A: " + strings.Repeat("b", 100_000),
		"a body that is cut off":             ok + "Content-Length: 5\r\n\r\n1234",
		"an interim answer":                  "HTTP/1.1 103 Early Hints\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n",
		"a switch to something else":         "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"chunks of no length":                ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"trailers above all bounds":          ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 2200) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			url := peer(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
				read(t, requests)
				_, _ = io.WriteString(conn, answer)
			})
			rt := newTransport(t)
			if status, body, err := get(t.Context(), rt, url, "x"); err == nil {
				t.Errorf("status %d, body %q, want an error", status, body)
			}
			if len(rt.idle) > 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

func TestConnectionsThatAreNotKept(t *testing.T) {
	for name, answer := range map[string]string{
		"the executor says so":               "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1",
		"the body has no length":             "HTTP/1.1 200 OK\r\n\r\n1",
		"something follows":                  "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"the executor speaks an old version": "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1",
	} {
		t.Run(name, func(t *testing.T) {
			url := peer(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
				read(t, requests)
				_, _ = io.WriteString(conn, answer)
			})
			rt := newTransport(t)
			if status, body, err := get(t.Context(), rt, url, "x"); err != nil || status != 200 || body != "1" {
				t.Errorf("status %d, body %q (%v), want 200 and 1", status, body, err)
			}
			if len(rt.idle) > 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	arrived, hungUp := make(chan struct{}), make(chan error, 1)
	url := peer(t, func(_ int, _ net.Conn, requests *bufio.Reader) {
		read(t, requests)
		close(arrived)
		_, err := requests.ReadByte()
		hungUp <- err
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, _, err := get(ctx, newTransport(t), url, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if err := <-hungUp; !errors.Is(err, io.EOF) {
		t.Errorf("the executor sees %v, want the end of the connection", err)
	}
}

func TestExecutorsAreSpokenToByHTTPAlone(t *testing.T) {
	if _, _, err := get(t.Context(), newTransport(t), "https://127.0.0.1:1", ""); err == nil || !strings.Contains(err.Error(), "http") {
		t.Errorf("error %v, want one that says http", err)
	}
}

func TestNoConnectionIsKeptWhereThatIsNotWanted(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	rt := newTransport(t)
	rt.DisableKeepAlives = true
	if status, _, err := get(t.Context(), rt, srv.URL, ""); err != nil || status != http.StatusNotFound || len(rt.idle) > 0 {
		t.Errorf("status %d, %d idle connections (%v), want 404 and none", status, len(rt.idle), err)
	}
}

func TestIdleConnectionsAreClosedAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := NewTransport()
		near, far := net.Pipe()
		rt.keep("a", near)
		time.Sleep(idleTimeout - time.Second)
		if got := rt.take("a"); got != near {
			t.Fatalf("got %v before the time is over, want the connection", got)
		}
		rt.keep("a", near)
		time.Sleep(idleTimeout + time.Second)
		if len(rt.idle) > 0 || rt.take("a") != nil {
			t.Error("it is kept after the time is over")
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the other side sees %v, want the end", err)
		}
	})
}

func TestOneIdleConnectionIsKeptPerExecutor(t *testing.T) {
	rt := NewTransport()
	first, _ := net.Pipe()
	second, far := net.Pipe()
	rt.keep("a", first)
	rt.keep("a", second)
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the second one's other side sees %v, want the end", err)
	}
	if rt.take("b") != nil || rt.take("a") != first || rt.take("a") != nil {
		t.Error("want the first connection, once, for its executor")
	}
}
