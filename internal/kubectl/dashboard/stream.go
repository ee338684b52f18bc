// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"time"
)

const (
	// maxStreams is how many pages may be live at once.
	maxStreams = 32

	// streamPace is the least time between two messages to one page.
	streamPace = 250 * time.Millisecond

	// spokenPace is the least time between two sentences that are read out.
	spokenPace = 5 * time.Second

	// writeTimeout is how long a browser may take to read a message.
	writeTimeout = 10 * time.Second

	// pulse is the time after which a stream that has nothing to tell says so, by which it finds out that nobody listens.
	pulse = 15 * time.Second
)

// message is what a page is told; what is empty stays as it is.
type message struct {
	// Main replaces the content of the page.
	Main string `json:"main,omitempty"`
	// Parts are replaced, come or go, in this order.
	Parts []partMessage `json:"parts,omitempty"`
	// Say is read out.
	Say string `json:"say,omitempty"`
}

// partMessage is a change in the words of the page's script.
type partMessage struct {
	ID string `json:"id"`
	// HTML is empty for a part that goes.
	HTML string `json:"html,omitempty"`
	// In and After say where a part that comes stands.
	In    string `json:"in,omitempty"`
	After string `json:"after,omitempty"`
}

// teller knows what one page shows.
type teller struct {
	render *renderer
	shown  view
	heard  map[string]string
	spoke  time.Time
	begun  bool
}

// next returns what a page is to be told so that it shows v; no news if it does.
//
//	| before                   | told                    |
//	| nothing                  | all                     |
//	| another skeleton or head | all                     |
//	| else                     | the parts that changed  |
func (t *teller) next(v view, now time.Time) (m message, news bool, err error) {
	if !t.begun || t.shown.Skeleton != v.Skeleton || t.shown.Missing != v.Missing || !reflect.DeepEqual(t.shown.Head, v.Head) {
		main, err := t.render.main(v)
		if err != nil {
			return m, false, err
		}
		m.Main = string(main)
	} else if m.Parts, err = t.parts(v); err != nil {
		return m, false, err
	}
	if !t.begun {
		t.heard, t.spoke = v.Spoken, now
	}
	if now.Sub(t.spoke) >= spokenPace {
		if m.Say = announce(t.heard, v.Spoken); m.Say != "" {
			t.spoke = now
		}
		t.heard = v.Spoken
	}
	t.shown, t.begun = v, true
	return m, m.Main != "" || len(m.Parts) > 0 || m.Say != "", nil
}

func (t *teller) parts(v view) ([]partMessage, error) {
	var parts []partMessage
	for _, c := range changes(t.shown.Parts, v.Parts) {
		p := partMessage{ID: c.ID}
		if c.New != nil {
			html, err := t.render.part(*c.New)
			if err != nil {
				return nil, err
			}
			p.HTML = string(html)
		}
		if c.Came {
			p.In, p.After = c.New.In, c.After
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// stream tells a page what changes, as server-sent events, until nobody listens.
func (s *server) stream(w http.ResponseWriter, r *http.Request, o opened) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, fmt.Sprintf("%d pages are open already: close one, and reload this one.", maxStreams), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := events{w: w, control: http.NewResponseController(w), now: s.clock.Now}
	t := &teller{render: s.render}
	s.await(r.Context(), o.known)
	for last := s.clock.Now(); ; {
		rung := s.bell.rung()
		now := s.clock.Now()
		m, news, err := t.next(o.view(), now)
		switch {
		case err != nil:
			return
		case news:
			err, last = out.send(m), now
		case now.Sub(last) >= pulse:
			err, last = out.write(": \n\n"), now
		}
		if err != nil || !s.pause(r, rung) {
			return
		}
	}
}

// pause waits until there may be news, and not less than the pace. It returns false when nobody listens any more.
func (s *server) pause(r *http.Request, rung <-chan struct{}) bool {
	pace := s.clock.NewTimer(streamPace)
	defer pace.Stop()
	select {
	case <-pace.C():
	case <-r.Context().Done():
		return false
	}
	idle := s.clock.NewTimer(pulse)
	defer idle.Stop()
	select {
	case <-rung:
	case <-idle.C():
	case <-r.Context().Done():
		return false
	}
	return true
}

// events writes server-sent events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	now     func() time.Time
}

func (e events) send(m message) error {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false) // it doubles the length
	if err := encoder.Encode(m); err != nil {
		return err
	}
	return e.write("data: " + out.String() + "\n") // Encode has ended the line
}

func (e events) write(text string) error {
	if err := e.control.SetWriteDeadline(e.now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}
