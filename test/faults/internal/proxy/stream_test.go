// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// Events are told apart by the reply's content type, and however they are cut no byte is lost.
func TestEventsAreToldApartByTheirFormat(t *testing.T) {
	for name, c := range map[string]struct {
		header  http.Header
		body    string
		want    []string
		wantErr error
	}{
		"JSON by lines":                           {http.Header{"Content-Type": {"application/json;stream=watch"}}, "{1}\n{22}\n", []string{"{1}\n", "{22}\n", ""}, io.EOF},
		"JSON that ends within a line":            {http.Header{"Content-Type": {"application/json"}}, "{1}\n{2", []string{"{1}\n", "{2"}, io.EOF},
		"protobuf by lengths":                     {http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf;stream=watch"}}, "\x00\x00\x00\x02ab\x00\x00\x00\x01\n", []string{"\x00\x00\x00\x02ab", "\x00\x00\x00\x01\n", ""}, io.EOF},
		"protobuf that ends within a length":      {http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf"}}, "\x00\x00", []string{"\x00\x00"}, io.ErrUnexpectedEOF},
		"protobuf that ends within an event":      {http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf"}}, "\x00\x00\x00\x03ab", []string{"\x00\x00\x00\x03ab"}, io.ErrUnexpectedEOF},
		"an unknown format as it comes":           {http.Header{"Content-Type": {"application/cbor-seq"}}, "ab", []string{"a", "b", ""}, io.EOF},
		"what is compressed as it comes":          {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, "ab", []string{"a", "b", ""}, io.EOF},
		"what has no content type, as it comes":   {http.Header{}, "a", []string{"a", ""}, io.EOF},
		"protobuf that claims more than there is": {http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf"}}, "\xff\xff\xff\xff", []string{""}, errTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(c.body)))
			next := framingOf(c.header).next
			var got []string
			var err error
			for err == nil {
				var event []byte
				event, err = next(r)
				got = append(got, string(event))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !errors.Is(err, c.wantErr) {
				t.Errorf("error is %v, want %v", err, c.wantErr)
			}
		})
	}
}

func TestListsForgetTheOldestFirst(t *testing.T) {
	var l lists
	for range maxReplies {
		l.keep(listReply{key: "small", body: []byte("1")})
	}
	l.keep(listReply{key: "other", body: []byte("22")})
	if got, want := len(l.replies), maxReplies; got != want {
		t.Errorf("%d are remembered, want %d", got, want)
	}
	l.keep(listReply{key: "more than all", body: make([]byte, maxReplyBytes+1)})
	if _, ok := l.pick("more than all", 0); ok || len(l.replies) != maxReplies {
		t.Error("one that has no room was remembered, or others forgotten for it")
	}
	l.keep(listReply{key: "large", body: make([]byte, maxReplyBytes-2)})
	if _, ok := l.pick("small", 0); ok {
		t.Error("the oldest is remembered though there is no room")
	}
	for _, key := range []string{"other", "large"} {
		if _, ok := l.pick(key, 0.999); !ok {
			t.Errorf("%s is forgotten though there is room", key)
		}
	}
	if got, want := l.bytes, maxReplyBytes; got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}
