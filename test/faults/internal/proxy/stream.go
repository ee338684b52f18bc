// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
)

// maxEvent bounds one event of a watch, in bytes; the API server's objects are smaller by far.
const maxEvent = 64 << 20

// Why a watch ends before its time.
var (
	errWatchCut = errors.New("the watch was cut")
	errExpired  = errors.New("the watch's resource version expired")
	errTooLong  = errors.New("no event is so long")
)

// stream is the body of a watch's reply, handed on event by event. It is read by one goroutine.
type stream struct {
	ctx     context.Context // of the watch; its cause says why it ends
	body    io.ReadCloser   // from the API server
	events  *bufio.Reader   // of the body
	framing framing
	hold    func() time.Duration // how long the next event is held back
	ended   func(Kind)           // counts
	expired metav1.Status        // what an expired watch ends with

	rest []byte // what is left of an event that didn't fit into the reader's buffer
	err  error  // comes after it
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 && s.err == nil {
		s.rest, s.err = s.next()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if len(s.rest) > 0 {
		return n, nil
	}
	return n, s.err
}

// next returns the next event, and what comes after it if that is the end.
func (s *stream) next() ([]byte, error) {
	event, err := s.read()
	switch cause := context.Cause(s.ctx); {
	case errors.Is(cause, errWatchCut):
		s.ended(WatchCut)
		return nil, cause
	case errors.Is(cause, errExpired):
		return s.last()
	case cause != nil:
		return nil, cause
	default:
		return event, err
	}
}

// last returns the event that ends an expired watch.
func (s *stream) last() ([]byte, error) {
	event, err := s.framing.event(s.expired)
	if err != nil {
		return nil, fmt.Errorf("encode the last event of a watch: %w", err)
	}
	s.ended(ExpiredEvent)
	return event, io.EOF
}

// read waits for the next event, and as long as it is held back.
func (s *stream) read() ([]byte, error) {
	if err := s.ctx.Err(); err != nil { // also where so many events wait that no read would notice
		return nil, err
	}
	event, err := s.framing.next(s.events)
	if err != nil {
		return event, err
	}
	return event, wait(s.ctx, s.hold())
}

// Close implements [io.Closer].
func (s *stream) Close() error { return s.body.Close() }

// wait returns after a time, or when the context ends with its error.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// framing is how the events of a watch follow each other.
type framing struct {
	// next returns the bytes of the next event as they came; at the end also those of a part of one, with the error.
	next func(*bufio.Reader) ([]byte, error)
	// event returns an ERROR event; nil if the proxy can't write this format.
	event func(metav1.Status) ([]byte, error)
}

// framingOf returns how the events of a reply are told apart. Formats that aren't known are handed on as the bytes come, so
// that such watches can be cut and delayed but can't expire.
func framingOf(header http.Header) framing {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	switch {
	case err != nil || header.Get("Content-Encoding") != "":
		return framing{next: nextBytes}
	case mediaType == runtime.ContentTypeJSON:
		return framing{next: nextLine, event: jsonEvent}
	case mediaType == runtime.ContentTypeProtobuf:
		return framing{next: nextDelimited, event: protobufEvent}
	default:
		return framing{next: nextBytes}
	}
}

// nextLine reads a JSON event: the API server ends each with a line break and has none inside.
func nextLine(r *bufio.Reader) ([]byte, error) { return r.ReadBytes('\n') }

// nextDelimited reads a protobuf event: its length in four bytes, then itself.
func nextDelimited(r *bufio.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if n, err := io.ReadFull(r, head); err != nil {
		return head[:n], err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxEvent {
		return nil, fmt.Errorf("%w: %d bytes", errTooLong, size)
	}
	event := make([]byte, 4+size)
	copy(event, head)
	n, err := io.ReadFull(r, event[4:])
	return event[:4+n], err
}

// nextBytes reads what there is.
func nextBytes(r *bufio.Reader) ([]byte, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	chunk := make([]byte, r.Buffered())
	n, err := r.Read(chunk)
	return chunk[:n], err
}

func jsonEvent(status metav1.Status) ([]byte, error) {
	object, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	event, err := json.Marshal(metav1.WatchEvent{Type: string(watch.Error), Object: runtime.RawExtension{Raw: object}})
	return append(event, '\n'), err
}

func protobufEvent(status metav1.Status) ([]byte, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.Unversioned)
	object, err := runtime.Encode(protobuf.NewSerializer(scheme, scheme), &status)
	if err != nil {
		return nil, err
	}
	event, err := (&metav1.WatchEvent{Type: string(watch.Error), Object: runtime.RawExtension{Raw: object}}).Marshal()
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...), nil
}
