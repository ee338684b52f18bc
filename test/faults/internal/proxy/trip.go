// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// errReplyCut is the fate of a reply that the client never gets.
var errReplyCut = errors.New("the connection was cut before the reply")

// trip takes one request to the API server, or not, and what comes back to the controller. An error means that the connection
// to the controller is closed.
type trip struct {
	proxy  *Proxy
	req    request
	draw   draw
	fault  Kind                    // "" for none
	cancel context.CancelCauseFunc // ends the request
}

// RoundTrip implements [http.RoundTripper].
func (t trip) RoundTrip(r *http.Request) (*http.Response, error) {
	switch t.fault {
	case Conflict, TooManyRequests, InternalError, ExpiredWatch, RefusedWatchList:
		if err := drain(r.Body); err != nil {
			return nil, err
		}
		return t.answer(r)
	case StaleList:
		if reply, ok := t.proxy.lists.pick(keyOf(r), t.draw.stale); ok {
			t.proxy.count(StaleList)
			return reply.response(r), nil
		}
	}
	if t.req.verb == verbWatch {
		return t.watch(r)
	}
	resp, err := t.proxy.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if t.req.answersAnyVersion() && resp.StatusCode == http.StatusOK {
		reply := listReply{key: keyOf(r), header: resp.Header.Clone()}
		resp.Body = &recording{ReadCloser: resp.Body, done: func(body []byte) {
			reply.body = body
			t.proxy.lists.keep(reply)
		}}
	}
	return t.reply(r, resp)
}

// reply does to the API server's reply what was drawn for it.
func (t trip) reply(r *http.Request, resp *http.Response) (*http.Response, error) {
	landed := resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusMultipleChoices
	switch {
	case t.fault == SlowReply:
		t.proxy.count(SlowReply)
		if err := wait(r.Context(), t.proxy.slow.at(t.draw.share)); err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
	case (t.fault == LostReply || t.fault == RepeatedWrite) && landed:
		if err := drain(resp.Body); err != nil {
			return nil, err
		}
		return t.answer(r)
	case t.fault == CutReply && landed:
		t.proxy.count(CutReply)
		return nil, errors.Join(errReplyCut, drain(resp.Body))
	}
	return resp, nil
}

// answer returns the reply of a fault that is one.
func (t trip) answer(r *http.Request) (*http.Response, error) {
	status, ok := statusOf(t.fault, t.req)
	if !ok {
		return nil, fmt.Errorf("%s is no reply", t.fault)
	}
	t.proxy.count(t.fault)
	return replyOf(status, r)
}

// watch starts a watch, with its events and its end under control.
func (t trip) watch(r *http.Request) (*http.Response, error) {
	resp, err := t.proxy.transport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	status, _ := statusOf(ExpiredEvent, t.req)
	s := &stream{
		ctx: r.Context(), body: resp.Body, events: bufio.NewReader(resp.Body), framing: framingOf(resp.Header),
		hold: t.hold, ended: t.proxy.count, expired: status,
	}
	t.proxy.running.Go(func() { t.age(r.Context(), s.framing) }) // ends with the request
	resp.Body = s
	return resp, nil
}

// age ends a watch when its time has come.
func (t trip) age(ctx context.Context, framing framing) {
	span := func() time.Duration { return max(time.Millisecond, t.proxy.watchLife.at(t.draw.spans.Float64())) }
	for wait(ctx, span()) == nil {
		switch pickOf(perSpan, t.rates(), t.draw.spans.Float64()) {
		case WatchCut:
			t.cancel(errWatchCut)
		case ExpiredEvent:
			if framing.event != nil {
				t.cancel(errExpired)
			}
		}
	}
}

// hold returns how long the next event of the watch is held back.
func (t trip) hold() time.Duration {
	pick, share := t.draw.event.Float64(), t.draw.event.Float64()
	if pickOf(perEvent, t.rates(), pick) == "" {
		return 0
	}
	t.proxy.count(DelayedEvent)
	return t.proxy.eventDelay.at(share)
}

// rates returns how often requests as this one meet faults now.
func (t trip) rates() map[Kind]float64 { return t.proxy.rates.Load().of(t.req) }

// drain reads a body to its end, so that its connection can be used again.
func drain(body io.ReadCloser) error {
	if body == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}
