// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// view is what a page shows: a skeleton that stays, and parts in it that come, change and go.
type view struct {
	// Title is the document's, and the heading.
	Title string
	// Skeleton is the template of the page without its parts, Head what it is filled with.
	Skeleton string
	Head     any
	// Parts are in the order they stand on the page.
	Parts []part
	// Spoken are sentences about what is worth being read out when it changes, by what they are about.
	Spoken map[string]string
	// Missing says that there is no such object.
	Missing bool
}

// part is an element of a page that is replaced as a whole when Data changes.
type part struct {
	// ID is the element's id, and In that of the element it is a child of.
	ID, In string
	// Template draws it from Data.
	Template string
	Data     any
}

// add appends a part.
func (v *view) add(in, id, template string, data any) {
	v.Parts = append(v.Parts, part{ID: id, In: in, Template: template, Data: data})
}

// notices adds a part for each notice.
func (v *view) notices(notices []notice) {
	for _, n := range notices {
		v.add("notices", "notice-"+n.ID, "notice", n)
	}
}

// notice is a sentence about what the page can't show.
type notice struct {
	ID, Text string
}

// change is what became of one part.
type change struct {
	ID string
	// New is what it is now; nil where it is gone.
	New *part
	// After is the ID of the part before it in the same element, empty for the first one. For a part that was not there.
	After string
	// Came says that it was not there.
	Came bool
}

// changes are what leads from the parts that are shown to others: those that go first, then the others in their order, so that the
// one that a new part stands after is there already.
//
//	| before              | after | change        |
//	| shown               | gone  | goes          |
//	| shown               | same  | none          |
//	| shown               | other | is replaced   |
//	| not shown           | there | comes         |
//	| in another place    | there | goes, comes   |
func changes(before, after []part) []change {
	moved := movedParts(before, after)
	shown := make(map[string]part, len(before))
	for _, p := range before {
		shown[p.ID] = p
	}
	wanted := make(map[string]bool, len(after))
	for _, p := range after {
		wanted[p.ID] = true
	}
	var all []change
	for _, p := range before {
		if !wanted[p.ID] || moved[p.ID] {
			all = append(all, change{ID: p.ID})
		}
	}
	last := make(map[string]string) // by element
	for i := range after {
		p := &after[i]
		old, was := shown[p.ID]
		switch {
		case !was || moved[p.ID]:
			all = append(all, change{ID: p.ID, New: p, After: last[p.In], Came: true})
		case !reflect.DeepEqual(old, *p):
			all = append(all, change{ID: p.ID, New: p})
		}
		last[p.In] = p.ID
	}
	return all
}

// movedParts are those that stand elsewhere than before, among the parts that stay. Lists here are sorted by what doesn't change, so
// this is rare, and where one part moved all that stand behind the first that differs are taken to have moved.
func movedParts(before, after []part) map[string]bool {
	places := func(parts []part, also []part) []string {
		known := make(map[string]bool, len(also))
		for _, p := range also {
			known[p.ID] = true
		}
		var list []string
		for _, p := range parts {
			if known[p.ID] {
				list = append(list, p.In+" "+p.ID)
			}
		}
		return list
	}
	old, now := places(before, after), places(after, before)
	moved := make(map[string]bool)
	same := true
	for i := range min(len(old), len(now)) {
		same = same && old[i] == now[i]
		if !same {
			_, id, _ := strings.Cut(now[i], " ")
			moved[id] = true
		}
	}
	return moved
}

// maxSpoken is how many changes are read out one by one; more are counted.
const maxSpoken = 3

// announce is what is read out of what changed since before, in one sentence or a few; empty for nothing.
func announce(before, after map[string]string) string {
	var said []string
	for _, about := range slices.Sorted(maps.Keys(after)) {
		if sentence := after[about]; sentence != "" && sentence != before[about] {
			said = append(said, sentence)
		}
	}
	if len(said) > maxSpoken {
		return fmt.Sprintf("%d changes, the first: %s", len(said), said[0])
	}
	return strings.Join(said, " ")
}
