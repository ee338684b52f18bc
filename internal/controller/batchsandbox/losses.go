// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"strings"

	"opensandbox.io/controller/internal/utils/podutil"
)

// maxNamed is how many pods one event names; the others are counted.
const maxNamed = 3

// mishap is something that happened to a sandbox and is still to be told.
type mishap struct {
	pod string
	why string // "" where there is nothing to add
}

// lossMemory knows which losses of sandboxes are told. After a restart of the controller a loss whose pod is still there
// as an object may be told once more.
type lossMemory struct {
	// noted are the keys of lost sandboxes that are told, or are none of which to tell: this controller deletes them.
	noted map[string]bool
	// serving are the pods that serve the indexes of a batch without pool, by index: such a pod may be gone before it was
	// seen to go. One that no cache has shown yet is none of them: only news tell that a pod is lost.
	serving map[int]sandbox
	// untold is what the next event tells.
	untold []mishap
}

// note finds sandboxes that were lost since the last look:
//
//	| pod of the index                            | wanted | known | noted as lost                    |
//	| usable                                      | -      | -     | no                               |
//	| lost: deleted, evicted, failed, node lost   | yes    | no    | yes, with why                    |
//	| lost, and released by this controller or an | -      | -     | no                               |
//	| older one: marked, given back               |        |       |                                  |
//	| none, there was one, and nobody released it | yes    | no    | yes, as deleted (without a pool) |
func (l *lossMemory) note(obs *observed) {
	present := map[string]bool{}
	serving := map[int]sandbox{}
	for i, s := range obs.sandboxes {
		before, served := l.serving[i]
		switch {
		case !obs.wanted(i):
		case s.podName == "" && served:
			l.lose(before, podutil.LossDeleted)
		case s.lost && !s.recycling && !s.givenBack:
			l.lose(s, s.why)
		}
		if l.noted[s.key()] {
			present[s.key()] = true
		}
		if s.usable() && !obs.pooled() && !s.unseen {
			serving[i] = s
		}
	}
	l.noted, l.serving = present, serving
}

func (l *lossMemory) lose(s sandbox, why string) {
	if !l.noted[s.key()] {
		l.untold = append(l.untold, mishap{pod: s.podName, why: why})
	}
	l.expect(s)
}

// expect says that the end of this sandbox is no loss.
func (l *lossMemory) expect(s sandbox) {
	if l.noted == nil {
		l.noted = map[string]bool{}
	}
	l.noted[s.key()] = true
}

// released says that this controller gave these indexes back.
func (l *lossMemory) released(obs *observed, indexes []int) {
	for _, index := range indexes {
		l.expect(obs.sandboxes[index])
		delete(l.serving, index)
	}
}

// restartMemory counts the restarts of sandbox containers while they are held. Like retryMemory it has an absolute number.
type restartMemory struct {
	// start is what the status had when this controller looked first, and seen what it has seen since.
	start, seen int32
	// counts are what the held pods had at the last look, by key; nil before the first. A pod that is new to this batch
	// begins with what it has: the restarts of its recycling are not the batch's.
	counts map[string]int32
	// untold is what the next event tells.
	untold []mishap
}

// note counts the restarts since the last look.
func (m *restartMemory) note(obs *observed) {
	if m.counts == nil {
		m.start = obs.sb.Status.Restarts
	}
	counts := make(map[string]int32, len(obs.sandboxes))
	for _, s := range obs.sandboxes {
		if !s.usable() {
			continue
		}
		counts[s.key()] = s.restarts
		if last, known := m.counts[s.key()]; known && s.restarts > last {
			m.seen += s.restarts - last
			m.untold = append(m.untold, mishap{pod: s.podName})
		}
	}
	m.counts = counts
	obs.restarts = max(obs.sb.Status.Restarts, m.start+m.seen)
}

// tellMishaps tells what happened to sandboxes, once it is noted in the status or its consequences are.
func (r *Reconciler) tellMishaps(obs *observed, m *memory) {
	r.events.sandboxesLost(obs.sb, m.losses.untold)
	m.losses.untold = nil
	if obs.sb.Status.Restarts >= obs.restarts {
		r.events.sandboxesRestarted(obs.sb, m.restarts.untold)
		m.restarts.untold = nil
	}
}

// sentence counts mishaps and names the first of them: "2 sandboxes: a (deleted), b (failed)".
func sentence(mishaps []mishap) string {
	var b strings.Builder
	noun := "sandboxes"
	if len(mishaps) == 1 {
		noun = "sandbox"
	}
	fmt.Fprintf(&b, "%d %s: ", len(mishaps), noun)
	for i, m := range mishaps[:min(len(mishaps), maxNamed)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(m.pod)
		if m.why != "" {
			b.WriteString(" (" + m.why + ")")
		}
	}
	if more := len(mishaps) - maxNamed; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}
