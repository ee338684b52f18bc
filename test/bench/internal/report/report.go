// SPDX-License-Identifier: Apache-2.0

// Package report shows what was measured: as a table for people, as a line of JSON, and as a table of Markdown.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"opensandbox.io/controller/test/bench/internal/stats"
)

// Metric is one thing that was measured, once in each run.
type Metric struct {
	// Key is its name in JSON.
	Key string
	// What says what it is, Unit in what; "" for a plain number.
	What, Unit string
	// Goal is what is good enough.
	Goal Goal
	// Value is what one run found.
	Value float64
}

// Goal is what is good enough. The zero value asks for nothing.
type Goal struct {
	sign  string
	value float64
}

// AtMost asks for no more than a value.
func AtMost(value float64) Goal { return Goal{"≤", value} }

// AtLeast asks for no less than a value.
func AtLeast(value float64) Goal { return Goal{"≥", value} }

// reached says whether a value is good enough.
func (g Goal) reached(value float64) bool {
	switch g.sign {
	case "≤":
		return value <= g.value
	case "≥":
		return value >= g.value
	default:
		return true
	}
}

// Result is what a scenario found in all its runs.
type Result struct {
	// Scenario is its name, Command what runs it again, and Time when it was done.
	Scenario, Command, Time string
	// Machine says on what.
	Machine Machine
	// Sizes are what it was run with, by name.
	Sizes map[string]float64
	// Runs are the metrics of each run, alike but for their values.
	Runs [][]Metric
}

// Machine is where something was measured.
type Machine struct {
	CPUs     int     `json:"cpus"`
	Model    string  `json:"model"`
	MemoryGB float64 `json:"memoryGB"`
	// Load is the number of threads that wanted to run, on average over a moment before the scenario, with the cluster up and at
	// rest.
	Load float64 `json:"load"`
}

// String describes the machine in a few words.
func (m Machine) String() string {
	return fmt.Sprintf("%d cores (%s), %.0f GiB, load %.1f before", m.CPUs, m.Model, m.MemoryGB, m.Load)
}

// row is a metric over all runs.
type row struct {
	Metric
	values           []float64 // of each run
	median, low, top float64
}

// rows are the metrics of all runs in the order in which they first came. A run that lacks one found nothing of it: 0.
func (r Result) rows() []row {
	values := map[string][]float64{}
	var rows []row
	for i, run := range r.Runs {
		for _, m := range run {
			if values[m.Key] == nil {
				values[m.Key] = make([]float64, len(r.Runs))
				rows = append(rows, row{Metric: m})
			}
			values[m.Key][i] = m.Value
		}
	}
	for i := range rows {
		v := values[rows[i].Key]
		rows[i].values, rows[i].median, rows[i].low, rows[i].top = v, stats.Median(v), slices.Min(v), slices.Max(v)
	}
	return rows
}

// verdict says whether the median reaches the goal, "" if there is none.
func (r row) verdict() string {
	switch {
	case r.Goal == Goal{}:
		return ""
	case r.Goal.reached(r.median):
		return r.Goal.sign + " " + number(r.Goal.value)
	default:
		return r.Goal.sign + " " + number(r.Goal.value) + " (missed)"
	}
}

// Table is for people.
func (r Result) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n%s\n", r.Scenario, r.sizes(), r.Machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "measured\tunit\tmedian of %d\tleast\tmost\tgoal\n", len(r.Runs))
	for _, row := range r.rows() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", row.What, row.Unit, number(row.median), number(row.low), number(row.top), row.verdict())
	}
	_ = w.Flush() // a strings.Builder takes all
	return b.String()
}

// Markdown is for docs/performance.md.
func (r Result) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`, %s, on %s.\n\n", r.Command, r.Time[:min(len(r.Time), len("2006-01-02"))], r.Machine)
	fmt.Fprintf(&b, "| measured | unit | median of %d | least | most | goal |\n|---|---|---:|---:|---:|---|\n", len(r.Runs))
	for _, row := range r.rows() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.What, row.Unit, number(row.median), number(row.low), number(row.top), row.verdict())
	}
	return b.String()
}

// JSON is one line.
func (r Result) JSON() (string, error) {
	medians, runs := map[string]float64{}, map[string][]float64{}
	for _, row := range r.rows() {
		medians[row.Key], runs[row.Key] = row.median, row.values
	}
	line, err := json.Marshal(map[string]any{
		"scenario": r.Scenario, "command": r.Command, "time": r.Time, "machine": r.Machine, "sizes": r.Sizes, "median": medians, "runs": runs,
	})
	return string(line), err
}

func (r Result) sizes() string {
	var parts []string
	for name, value := range r.Sizes {
		parts = append(parts, name+" "+number(value))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// number has three significant digits, and no less than all before the point.
func number(v float64) string {
	if v == 0 || math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	text := strconv.FormatFloat(v, 'f', min(digits, 6), 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// Replace puts a table between the marks of a scenario in a document. Only those marks are where it may go.
func Replace(document, scenario, table string) (string, error) {
	begin, end := "<!-- bench "+scenario+" -->\n", "<!-- end -->"
	before, rest, found := strings.Cut(document, begin)
	if !found {
		return "", fmt.Errorf("the document has no line %q", strings.TrimSpace(begin))
	}
	_, after, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("the document has no %q after %q", end, strings.TrimSpace(begin))
	}
	return before + begin + table + end + after, nil
}
