// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// What is remembered of lists, at most; the oldest are forgotten.
const (
	maxReplies    = 256
	maxReplyBytes = 64 << 20
)

// lists remembers whole replies to lists, of all controllers: an API server has one watch cache for all of them.
type lists struct {
	mu      sync.Mutex
	replies []listReply // oldest first
	bytes   int         // of their bodies
}

// listReply is a list as it was once.
type listReply struct {
	key    string
	header http.Header
	body   []byte
}

// keyOf returns what two lists have in common that ask for the same at different times.
func keyOf(r *http.Request) string {
	query := r.URL.Query()
	for _, name := range []string{"resourceVersion", "resourceVersionMatch", "limit", "timeoutSeconds"} {
		query.Del(name)
	}
	return strings.Join([]string{r.URL.Path, query.Encode(), r.Header.Get("Accept"), r.Header.Get("Accept-Encoding")}, "\n")
}

// keep remembers a reply.
func (l *lists) keep(reply listReply) {
	if len(reply.body) > maxReplyBytes {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replies = append(l.replies, reply)
	l.bytes += len(reply.body)
	for len(l.replies) > maxReplies || l.bytes > maxReplyBytes {
		l.bytes -= len(l.replies[0].body)
		l.replies = slices.Delete(l.replies, 0, 1)
	}
}

// pick returns one of the remembered replies; share, from 0 up to but not 1, says which, from the oldest to the newest.
func (l *lists) pick(key string, share float64) (listReply, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var same []listReply
	for _, reply := range l.replies {
		if reply.key == key {
			same = append(same, reply)
		}
	}
	if len(same) == 0 {
		return listReply{}, false
	}
	return same[int(share*float64(len(same)))], true
}

// response returns the reply to another request.
func (l listReply) response(r *http.Request) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, Header: l.header.Clone(), Body: io.NopCloser(bytes.NewReader(l.body)), ContentLength: int64(len(l.body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
	}
}

// recording is a reply's body that is remembered once it was read to its end.
type recording struct {
	io.ReadCloser
	read bytes.Buffer
	done func([]byte)
}

// Read implements [io.Reader].
func (r *recording) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if r.done == nil {
		return n, err
	}
	r.read.Write(p[:n])
	switch {
	case err == io.EOF:
		r.done(r.read.Bytes())
		r.done = nil
	case r.read.Len() > maxReplyBytes:
		r.done, r.read = nil, bytes.Buffer{}
	}
	return n, err
}
