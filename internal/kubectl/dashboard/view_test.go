// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func p(in, id string, data any) part { return part{In: in, ID: id, Template: "none", Data: data} }

func TestChanges(t *testing.T) {
	for name, c := range map[string]struct {
		before, after []part
		want          string
	}{
		"nothing changed: nothing is told": {
			before: []part{p("a", "1", "x"), p("a", "2", "y")}, after: []part{p("a", "1", "x"), p("a", "2", "y")}, want: "[]",
		},
		"one of two changed: it alone is replaced": {
			before: []part{p("a", "1", "x"), p("a", "2", "y")}, after: []part{p("a", "1", "x"), p("a", "2", "z")}, want: "[2=z]",
		},
		"the first comes before all": {
			before: []part{p("a", "2", "y")}, after: []part{p("a", "1", "x"), p("a", "2", "y")}, want: "[+1=x after ]",
		},
		"one comes after another that came": {
			before: []part{p("a", "3", "z")}, after: []part{p("a", "1", "x"), p("a", "2", "y"), p("a", "3", "z")}, want: "[+1=x after  +2=y after 1]",
		},
		"one goes": {
			before: []part{p("a", "1", "x"), p("a", "2", "y")}, after: []part{p("a", "2", "y")}, want: "[-1]",
		},
		"elements don't mix": {
			before: []part{p("a", "1", "x")}, after: []part{p("a", "1", "x"), p("b", "2", "y")}, want: "[+2=y after ]",
		},
		"two that change places go and come": {
			before: []part{p("a", "1", "x"), p("a", "2", "y")}, after: []part{p("a", "2", "y"), p("a", "1", "x")}, want: "[-1 -2 +2=y after  +1=x after 2]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := []string{}
			for _, ch := range changes(c.before, c.after) {
				switch {
				case ch.New == nil:
					got = append(got, "-"+ch.ID)
				case ch.Came:
					got = append(got, fmt.Sprintf("+%s=%v after %s", ch.ID, ch.New.Data, ch.After))
				default:
					got = append(got, fmt.Sprintf("%s=%v", ch.ID, ch.New.Data))
				}
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

// Whatever was shown, a page that does what it is told shows what it should.
func TestChangesLeadFromAnyViewToAnyOther(t *testing.T) {
	list := rapid.Custom(func(t *rapid.T) []part {
		ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 10, rapid.ID[int]).Draw(t, "ids")
		parts := make([]part, len(ids))
		for i, id := range ids {
			parts[i] = p(fmt.Sprint("in", id%2), fmt.Sprint(id), rapid.IntRange(0, 2).Draw(t, "data"))
		}
		return parts
	})
	rapid.Check(t, func(t *rapid.T) {
		before, after := list.Draw(t, "before"), list.Draw(t, "after")
		page := byElement(before)
		for _, c := range changes(before, after) {
			applyTo(page, c)
		}
		if diff := cmp.Diff(byElement(after), page); diff != "" {
			t.Fatalf("the page shows something else (-want +got):\n%s", diff)
		}
	})
}

// applyTo does what the page's script does.
func applyTo(page map[string][]part, c change) {
	for in, parts := range page {
		at := slices.IndexFunc(parts, func(p part) bool { return p.ID == c.ID })
		switch {
		case at < 0:
		case c.New == nil:
			page[in] = slices.Delete(parts, at, at+1)
			return
		default:
			parts[at] = *c.New
			return
		}
	}
	if c.New == nil || !c.Came {
		return
	}
	parts := page[c.New.In]
	at := slices.IndexFunc(parts, func(p part) bool { return p.ID == c.After }) // -1: the first
	page[c.New.In] = slices.Insert(parts, at+1, *c.New)
}

func byElement(parts []part) map[string][]part {
	page := map[string][]part{"in0": {}, "in1": {}}
	for _, p := range parts {
		page[p.In] = append(page[p.In], p)
	}
	return page
}

func TestAnnounce(t *testing.T) {
	for name, c := range map[string]struct {
		before, after map[string]string
		want          string
	}{
		"nothing new":                   {before: map[string]string{"a": "A is done."}, after: map[string]string{"a": "A is done."}},
		"what is gone is not told":      {before: map[string]string{"a": "A is done."}, after: map[string]string{}},
		"what is calm again is not":     {before: map[string]string{"a": "A fails."}, after: map[string]string{"a": ""}},
		"what is new is told":           {before: map[string]string{"a": ""}, after: map[string]string{"a": "A is done.", "b": "B fails."}, want: "A is done. B fails."},
		"of many the first and a count": {after: map[string]string{"a": "A.", "b": "B.", "c": "C.", "d": "D."}, want: "4 changes, the first: A."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := announce(c.before, c.after); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestAPageIsToldAllOnceThenWhatChangedAndIsReadOutAtAPace(t *testing.T) {
	render, err := newRenderer("/t/", "host", "")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	see := func(shown int, spoken string) view {
		v := overviewPage(overviewInput{})
		v.Parts = []part{p("shown", "one", shown), p("shown", "two", 0)}
		v.Spoken = map[string]string{"a": spoken}
		return v
	}
	page := &teller{render: render}
	for i, step := range []struct {
		after     time.Duration
		view      view
		wantMain  bool
		wantParts int
		wantSay   string
	}{
		{after: 0, view: see(1, "A starts."), wantMain: true},
		{after: time.Second, view: see(1, "A starts.")},
		{after: time.Second, view: see(2, "A fails."), wantParts: 1},
		{after: time.Second, view: see(2, "A fails.")},
		{after: 2 * time.Second, view: see(2, "A fails."), wantSay: "A fails."},
		{after: time.Minute, view: see(2, "A fails.")},
		{after: time.Second, view: poolPage(poolInput{}), wantMain: true},
	} {
		at = at.Add(step.after)
		m, news, err := page.next(step.view, at)
		if err != nil {
			t.Fatal(err)
		}
		if (m.Main != "") != step.wantMain || len(m.Parts) != step.wantParts || m.Say != step.wantSay {
			t.Errorf("step %d: told main %v, %d parts and %q, want %v, %d and %q", i,
				m.Main != "", len(m.Parts), m.Say, step.wantMain, step.wantParts, step.wantSay)
		}
		if news != (step.wantMain || step.wantParts > 0 || step.wantSay != "") {
			t.Errorf("step %d: news is %v", i, news)
		}
	}
}
