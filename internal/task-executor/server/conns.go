// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/list"
	"context"
	"net"
	"sync"
)

// maxStrangers bounds the open connections over which no call was let through yet.
const maxStrangers = 256

// strangers is a listener that knows which of its connections are of nobody in particular. When there are too many of those,
// the oldest is closed for each new one: whoever holds connections open, or opens many, keeps nobody else out, for a call that
// is let through needs its connection for an instant only.
type strangers struct {
	net.Listener

	mu   sync.Mutex
	max  int
	open *list.List // of *conn, oldest first
}

func newStrangers(l net.Listener, limit int) *strangers {
	return &strangers{Listener: l, max: limit, open: list.New()}
}

// conn is a connection. It stands in the list until it is closed, or known to be the controller's.
type conn struct {
	net.Conn
	owner *strangers
	place *list.Element // nil when it is in the list no more

	unread unread
}

// Accept implements net.Listener.
func (s *strangers) Accept() (net.Conn, error) {
	accepted, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, owner: s}
	if oldest := s.add(c); oldest != nil {
		_ = oldest.Conn.Close() // who is on the other side has no claim to an orderly end
	}
	return c, nil
}

// add puts a connection into the list, and returns the one that has to go for it, if any.
func (s *strangers) add(c *conn) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.place = s.open.PushBack(c)
	if s.open.Len() <= s.max {
		return nil
	}
	oldest, ok := s.open.Front().Value.(*conn)
	if !ok {
		return nil // nothing else is put in
	}
	s.drop(oldest)
	return oldest
}

func (s *strangers) drop(c *conn) {
	if c.place != nil {
		s.open.Remove(c.place)
		c.place = nil
	}
}

// known takes a connection out of the list.
func (c *conn) known() {
	c.owner.mu.Lock()
	defer c.owner.mu.Unlock()
	c.owner.drop(c)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.known()
	return c.Conn.Close()
}

type connKey struct{}

// connContext makes a request know its connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// vouch says that a call on the connection of ctx was let through.
func vouch(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.known()
	}
}
