// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
)

// tooSlow is the answer to headers that don't come in time. The server itself would judge what has come, or leave it unanswered.
const tooSlow = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// unread is what is known of a request that no handler has seen yet: what is no request, or is none in time, is refused by the
// server itself, and that is told in the log like every other refusal.
type unread struct {
	begun   atomic.Bool  // some of it has come
	handled atomic.Bool  // a handler has it
	answer  atomic.Int32 // the status that was answered before one had it, 0 for none
}

// waited says that bytes of a request have come, and no handler has it yet.
func (u *unread) waited() bool { return u.begun.Load() && !u.handled.Load() }

// next says that the next request may come.
func (u *unread) next() {
	u.begun.Store(false)
	u.handled.Store(false)
	u.answer.Store(0)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.unread.begun.Store(true)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.unread.waited() {
		_, _ = io.WriteString(c, tooSlow) // who is so slow may have gone
	}
	return n, err
}

// Write implements net.Conn. Of the answers to a request that no handler has seen, the first is written.
func (c *conn) Write(p []byte) (int, error) {
	if !c.unread.waited() {
		return c.Conn.Write(p)
	}
	if !c.unread.answer.CompareAndSwap(0, statusIn(p)) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// statusIn is the status in the first bytes of an answer, 0 for none.
func statusIn(answer []byte) int32 {
	const before, digits = len("HTTP/1.1 "), 3
	if len(answer) < before+digits {
		return 0
	}
	status, err := strconv.ParseInt(string(answer[before:before+digits]), 10, 32)
	if err != nil {
		return 0
	}
	return int32(status)
}

// handled says that the request on the connection of ctx has come to a handler.
func handled(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.unread.handled.Store(true)
	}
}

// auditUnread writes an audit line for each request that the server refused before a handler saw it.
func auditUnread(log *slog.Logger) func(net.Conn, http.ConnState) {
	return func(nc net.Conn, state http.ConnState) {
		c, ok := nc.(*conn)
		if !ok {
			return
		}
		switch state {
		case http.StateIdle:
			c.unread.next()
		case http.StateClosed:
			if status := int(c.unread.answer.Load()); status != 0 && c.unread.waited() {
				log.Warn("refused call", "audit", true, "remote", c.RemoteAddr().String(), "status", status, "reason", whyUnread(status))
			}
		default: // a new connection, or a request that has come
		}
	}
}

// whyUnread is what is wrong with a request that the server itself answered with this status.
func whyUnread(status int) string {
	switch status {
	case http.StatusRequestTimeout:
		return "its headers did not come in time"
	case http.StatusRequestHeaderFieldsTooLarge:
		return "its headers are too large"
	default:
		return "it is no request that can be read"
	}
}
