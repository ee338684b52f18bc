// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"opensandbox.io/controller/test/faults/internal/auditor"
)

// Files of a run, in a directory of its own.
const (
	historyFile = "history.jsonl.gz"
	marksFile   = "marks.json"
	summaryFile = "summary.json"
)

// verdict is what a run prints as its last line.
type verdict struct {
	auditor.Summary
	// Seconds is how long the run took, without the start and the end of the cluster.
	Seconds float64 `json:"seconds"`
	// Faults are those injected, Hands what was done to controllers and objects, by kind.
	Faults map[string]int64 `json:"faults,omitempty"`
	Hands  map[string]int64 `json:"hands,omitempty"`

	history  auditor.History
	marks    []auditor.Mark
	end      time.Time
	cutOff   bool // at a finding, in the midst of it all
	findings []auditor.Finding
}

// settingsAt are what the auditor is told of a run that is over.
func settingsAt(end time.Time) auditor.Settings {
	return auditor.Settings{End: end, Settle: settle, Flight: 30 * time.Second}
}

// settingsCutOff are what the auditor is told of a run that is in the midst of it all: nothing is at rest yet.
func settingsCutOff(end time.Time) auditor.Settings {
	s := settingsAt(end)
	s.Settle = 1000 * time.Hour // longer than any run: nothing counts as wrong for as long as that
	return s
}

// judge has the auditor judge the run.
func (v *verdict) judge() {
	settings := settingsAt(v.end)
	if v.cutOff {
		settings = settingsCutOff(v.end)
	}
	v.take(auditor.Audit(v.history, v.marks, settings))
}

// take takes findings over.
func (v *verdict) take(findings []auditor.Finding) {
	v.findings = findings
	v.Summary = auditor.Summarize(v.history, v.marks, v.findings)
	v.Findings = nil // each is told on a line of its own
}

// tell prints the findings and then the summary, each as a line of JSON. Any finding is an error.
func (v *verdict) tell() error {
	out := json.NewEncoder(os.Stdout)
	for _, f := range v.findings {
		if err := out.Encode(f); err != nil {
			return err
		}
	}
	if err := out.Encode(v); err != nil {
		return err
	}
	if n := len(v.findings); n > 0 {
		return fmt.Errorf("the auditor has %d findings", n)
	}
	return nil
}

// publish tells the verdict. What was recorded is kept if there are findings, or if that was asked for.
func (s *show) publish(v verdict) error {
	if len(v.findings) == 0 && !s.options.Keep {
		return errors.Join(v.tell(), os.RemoveAll(s.dir))
	}
	err := errors.Join(
		writeJSON(filepath.Join(s.dir, marksFile), saved{v.marks, v.end, v.cutOff, s.options.Seed, v.LeaderLosses}),
		writeJSON(filepath.Join(s.dir, summaryFile), struct {
			verdict
			Findings []auditor.Finding `json:"findings"`
		}{v, v.findings}))
	if told := v.tell(); told != nil {
		return errors.Join(err, fmt.Errorf("%w: seed %d, history and logs in %s", told, s.options.Seed, s.dir))
	}
	return err
}

// saved is what the history doesn't have.
type saved struct {
	Marks        []auditor.Mark `json:"marks"`
	End          time.Time      `json:"end"`
	CutOff       bool           `json:"cutOff,omitempty"`
	Seed         uint64         `json:"seed"`
	LeaderLosses int            `json:"leaderLosses"`
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// judgeAgain judges what an earlier run left, as after a change of the auditor.
func judgeAgain(dir string) error {
	file, err := os.Open(filepath.Join(dir, historyFile))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read from
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return fmt.Errorf("read the history: %w", err)
	}
	history, err := auditor.ReadHistory(unpacked)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, marksFile))
	if err != nil {
		return err
	}
	var rest saved
	if err := json.Unmarshal(data, &rest); err != nil {
		return fmt.Errorf("read the runs of tasks: %w", err)
	}
	v := verdict{history: history, marks: rest.Marks, end: rest.End, cutOff: rest.CutOff}
	v.judge()
	v.Seed, v.LeaderLosses = rest.Seed, rest.LeaderLosses
	return v.tell()
}
