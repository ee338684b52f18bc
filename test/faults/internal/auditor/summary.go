// SPDX-License-Identifier: Apache-2.0

package auditor

import "opensandbox.io/controller/api/v1alpha1"

// Summary is what a run prints, as JSON.
type Summary struct {
	// Seed draws the same run again.
	Seed uint64 `json:"seed"`

	// Changes are those of the history.
	Changes int `json:"changes"`

	// Deliveries are the batches whose client saw the addresses of all that they asked for, each once.
	Deliveries int `json:"deliveries"`

	// Handed is the number of pods that pools gave to batches.
	Handed int `json:"handed"`

	// Runs are those of tasks.
	Runs int `json:"runs"`

	// LeaderLosses are told from outside: a history doesn't show them.
	LeaderLosses int `json:"leaderLosses"`

	// ByKind has the number of findings of each kind, those without any too.
	ByKind map[Kind]int `json:"byKind"`

	Findings []Finding `json:"findings,omitempty"`
}

// Summarize counts what there was in a run, and what was found in it.
func Summarize(h History, marks []Mark, findings []Finding) Summary {
	sum := Summary{Changes: len(h), Runs: len(marks), Findings: findings, ByKind: map[Kind]int{}}
	for _, k := range []Kind{DoublyHeld, Leaked, Stuck, RunTooOften, EndMisreported, AbovePoolMax, DirtyHandedOut, UnfitHandedOut, GangSplit, Overtaken} {
		sum.ByKind[k] = 0
	}
	for _, f := range findings {
		sum.ByKind[f.Kind]++
	}
	w := newWorld(0)
	for _, c := range h.sorted() {
		s := w.take(c)
		if sb, ok := c.Object.(*v1alpha1.BatchSandbox); ok && sb.Spec.PoolRef != "" {
			sum.Handed += len(s.given)
		}
	}
	for _, b := range w.known {
		if b.delivered {
			sum.Deliveries++
		}
	}
	return sum
}
