// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() Result {
	metrics := func(lag, writes float64) []Metric {
		return []Metric{{Key: "lagP99", What: "lag, p99", Unit: "ms", Goal: AtMost(250), Value: lag}, {Key: "writes", What: "writes", Value: writes}}
	}
	return Result{
		Scenario: "tasks", Command: "make bench BENCH=tasks", Time: "2026-01-02T03:04:05Z",
		Machine: Machine{CPUs: 2, Model: "x", MemoryGB: 24, Load: 0.5}, Sizes: map[string]float64{"n": 2000, "rate": 500},
		Runs: [][]Metric{metrics(300, 2), metrics(100, 1), metrics(200, 3)},
	}
}

func TestTheTableShowsMediansAndGoals(t *testing.T) {
	want := `tasks: n 2000, rate 500
2 cores (x), 24 GiB, load 0.5 before
measured  unit  median of 3  least  most  goal
lag, p99  ms    200          100    300   ≤ 250
writes          2            1      3     
`
	if diff := cmp.Diff(want, sample().Table()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestAMissedGoalIsTold(t *testing.T) {
	r := sample()
	for i, value := range []float64{300, 100, 400} { // least and most don't count
		r.Runs[i][0].Value = value
	}
	if got := r.Table(); !strings.Contains(got, "≤ 250 (missed)") {
		t.Errorf("the table doesn't tell that 300 is above 250:\n%s", got)
	}
}

func TestGoals(t *testing.T) {
	for name, test := range map[string]struct {
		goal Goal
		want string
	}{
		"none":                   {Goal{}, ""},
		"at most, below":         {AtMost(6), "≤ 6"},
		"at most, just so":       {AtMost(5), "≤ 5"},
		"at most, above":         {AtMost(4), "≤ 4 (missed)"},
		"at most nothing, above": {AtMost(0), "≤ 0 (missed)"},
		"at least, above":        {AtLeast(4), "≥ 4"},
		"at least, just so":      {AtLeast(5), "≥ 5"},
		"at least, below":        {AtLeast(6), "≥ 6 (missed)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := row{Metric: Metric{Goal: test.goal}, median: 5}
			if got := r.verdict(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Which kinds of writes there were may differ from run to run.
func TestARunThatLacksAMetricCountsAsZero(t *testing.T) {
	r := sample()
	r.Runs[1] = append(r.Runs[1], Metric{Key: "rare", What: "rare", Value: 9})
	if got := r.rows(); len(got) != 3 || got[2].Key != "rare" || got[2].median != 0 || got[2].top != 9 {
		t.Errorf("rows %+v, want the third to be rare, with a median of 0 and at most 9", got)
	}
}

func TestTheLineOfJSONHasMediansAndRuns(t *testing.T) {
	line, err := sample().JSON()
	if err != nil || strings.Contains(line, "\n") {
		t.Fatalf("%q is no line (%v)", line, err)
	}
	var got struct {
		Median map[string]float64
		Runs   map[string][]float64
	}
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"lagP99": 200, "writes": 2}, got.Median); diff != "" {
		t.Errorf("medians (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string][]float64{"lagP99": {300, 100, 200}, "writes": {2, 1, 3}}, got.Runs); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func TestReplaceTouchesNothingButItsTable(t *testing.T) {
	document := "a\n<!-- bench x -->\nold\n<!-- end -->\nb\n<!-- bench y -->\nold\n<!-- end -->\n"
	got, err := Replace(document, "y", "new\n")
	want := "a\n<!-- bench x -->\nold\n<!-- end -->\nb\n<!-- bench y -->\nnew\n<!-- end -->\n"
	if err != nil || got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	if got, err := Replace(document, "z", "new\n"); err == nil {
		t.Errorf("got %q for a scenario without marks, want an error", got)
	}
	if got, err := Replace("<!-- bench x -->\n", "x", "new\n"); err == nil {
		t.Errorf("got %q without an end, want an error", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 2000: "2000", 123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.01234: "0.0123", 10: "10", 1: "1", 0.5: "0.5", -3.456: "-3.46"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}
