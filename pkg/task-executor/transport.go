// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxResponseHeaderBytes bounds the headers of a response.
	maxResponseHeaderBytes = 64 << 10

	dialTimeout   = 5 * time.Second
	keepAlive     = 30 * time.Second
	idleTimeout   = 90 * time.Second
	requestBuffer = 2 << 10 // headers with a token fit into it
	answerBuffer  = 1 << 10

	// lastWords is how long an executor may take for an answer after it has refused the rest of a request.
	lastWords = time.Second
)

// errNoAnswer says that a connection ended before the first byte of an answer.
var errNoAnswer = errors.New("the executor closed the connection before it answered")

// Transport is an [http.RoundTripper] for talking to executors by plain HTTP/1.1, made for thousands of calls that wait: a
// call costs one connection, no goroutine beside the caller's, and no buffer until its answer begins. It uses no proxy and no
// compression, bounds headers to 64 KiB and bodies to MaxBodyBytes and one, dials for at most 5 s, and keeps at most one idle
// connection per executor, for 90 s. Make it with [NewTransport].
type Transport struct {
	// DisableKeepAlives closes each connection after its call. Set it before the first call.
	DisableKeepAlives bool

	dialer net.Dialer

	mu   sync.Mutex
	idle map[string]*idleConn // by address
}

// idleConn is a connection that waits for the next call, or for its end.
type idleConn struct {
	net.Conn
	end *time.Timer
}

// NewTransport returns a transport without connections.
func NewTransport() *Transport {
	return &Transport{dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}, idle: map[string]*idleConn{}}
}

// RoundTrip implements [http.RoundTripper]. The body of the answer has been read when it returns, up to one byte above
// MaxBodyBytes.
//
// A call over a connection that was idle, and that ends without an answer, is made once more over a new one: the executor may
// have closed the old one meanwhile. Should it have taken the first call nevertheless, it refuses the second for its token.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close() //nolint:errcheck // only read from
	}
	if req.URL.Scheme != "http" {
		return nil, fmt.Errorf("%s: executors speak http", req.URL.Scheme)
	}
	address := hostPort(req)
	if conn := t.take(address); conn != nil {
		resp, err := t.call(conn, address, req)
		if !errors.Is(err, errNoAnswer) || req.Context().Err() != nil {
			return resp, err
		}
		if req, err = again(req); err != nil {
			return nil, err
		}
	}
	conn, err := t.dialer.DialContext(req.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return t.call(conn, address, req)
}

func hostPort(req *http.Request) string {
	if req.URL.Port() == "" {
		return net.JoinHostPort(req.URL.Hostname(), "80")
	}
	return req.URL.Host
}

// again is the same request with its body from the start.
func again(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	if req.GetBody == nil {
		return nil, errNoAnswer
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	repeated := *req
	repeated.Body = body
	return &repeated, nil
}

// call makes one call over a connection, and keeps or closes the connection.
func (t *Transport) call(conn net.Conn, address string, req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed one needs none
	resp, reusable, err := exchange(conn, req)
	stopped := stop()
	if err == nil && reusable && stopped && !t.DisableKeepAlives {
		t.keep(address, conn)
		return resp, nil
	}
	_ = conn.Close() // nobody waits for what is left on it
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return resp, err
}

// exchange sends a request and reads its whole answer. A request that is refused before it was all read may have one too.
func exchange(conn net.Conn, req *http.Request) (resp *http.Response, reusable bool, err error) {
	sendErr := send(conn, req)
	if sendErr != nil {
		//nolint:forbidigo // deadlines of connections are times of the real clock
		_ = conn.SetReadDeadline(time.Now().Add(lastWords)) // one that is closed needs none
	}
	var first [1]byte // the buffer comes when there is something to be read
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoAnswer, cmp.Or(sendErr, err))
	}
	resp, reusable, err = receive(io.MultiReader(bytes.NewReader(first[:]), conn), req)
	return resp, reusable && sendErr == nil, err
}

func send(conn net.Conn, req *http.Request) error {
	w := bufio.NewWriterSize(conn, requestBuffer)
	if err := req.Write(w); err != nil {
		return err
	}
	return w.Flush()
}

// receive reads an answer. The connection can be used again if nothing of it is left.
func receive(from io.Reader, req *http.Request) (resp *http.Response, reusable bool, err error) {
	bounded := &io.LimitedReader{R: from, N: maxResponseHeaderBytes}
	r := bufio.NewReaderSize(bounded, answerBuffer)
	resp, err = http.ReadResponse(r, req)
	if err != nil {
		if bounded.N == 0 {
			err = fmt.Errorf("headers are larger than %d bytes: %w", maxResponseHeaderBytes, err)
		}
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode < http.StatusOK {
		return nil, false, fmt.Errorf("read answer: unexpected status %d", resp.StatusCode)
	}
	bounded.N = 2 * MaxBodyBytes // chunks are framed
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBodyBytes+1))
	if err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, len(body) <= MaxBodyBytes && !resp.Close && r.Buffered() == 0, nil
}

// take returns an idle connection, nil for none.
func (t *Transport) take(address string) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.idle[address]
	if !ok {
		return nil
	}
	delete(t.idle, address)
	if !c.end.Stop() {
		return nil // it is being closed
	}
	return c.Conn
}

// keep keeps a connection for the next call, or closes it if there is one already.
func (t *Transport) keep(address string, conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle[address] != nil {
		_ = conn.Close() // nobody waits for what is left on it
		return
	}
	c := &idleConn{Conn: conn}
	c.end = time.AfterFunc(idleTimeout, func() { t.expire(address, c) })
	t.idle[address] = c
}

func (t *Transport) expire(address string, c *idleConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle[address] == c {
		delete(t.idle, address)
	}
	_ = c.Close() // nobody waits for what is left on it
}

// CloseIdleConnections closes the connections that no call uses.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for address, c := range t.idle {
		delete(t.idle, address)
		if c.end.Stop() {
			_ = c.Close() // nobody waits for what is left on it
		}
	}
}
