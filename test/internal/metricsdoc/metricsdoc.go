// SPDX-License-Identifier: Apache-2.0

// Package metricsdoc reads the tables of docs/metrics.md.
package metricsdoc

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Metric is one row.
type Metric struct {
	// Name is the metric's name. One that ends with * stands for all that begin so.
	Name string

	// Type is counter, gauge or histogram.
	Type string

	// Labels are the labels with the values they may have; none for any.
	Labels map[string][]string
}

// Covers says whether the row tells of a metric.
func (m Metric) Covers(name string) bool {
	prefix, all := strings.CutSuffix(m.Name, "*")
	return name == m.Name || (all && strings.HasPrefix(name, prefix))
}

// label is a name in backquotes, with its values in parentheses where these are known.
var label = regexp.MustCompile("`([a-z_]+)`(?: \\(([^)]*)\\))?")

// Read returns the metrics of a document, in its order: the rows of its tables whose first cell is a name in backquotes, and whose
// second and third are the type and the labels.
func Read(path string) ([]Metric, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var metrics []Metric
	for line := range strings.Lines(string(content)) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < 5 {
			continue
		}
		m := Metric{Name: strings.Trim(cells[1], " `"), Type: strings.TrimSpace(cells[2]), Labels: labels(cells[3])}
		if slices.ContainsFunc(metrics, func(other Metric) bool { return other.Name == m.Name }) {
			return nil, fmt.Errorf("%s tells of %s twice", path, m.Name)
		}
		metrics = append(metrics, m)
	}
	if len(metrics) == 0 {
		return nil, fmt.Errorf("%s has no table of metrics", path)
	}
	return metrics, nil
}

// labels reads a cell with labels.
func labels(cell string) map[string][]string {
	read := map[string][]string{}
	for _, found := range label.FindAllStringSubmatch(cell, -1) {
		var values []string
		for value := range strings.SplitSeq(found[2], ",") {
			if value = strings.TrimSpace(value); value != "" {
				values = append(values, value)
			}
		}
		read[found[1]] = values
	}
	return read
}

// Find returns the row of a metric; nil if there is none.
func Find(metrics []Metric, name string) *Metric {
	for i := range metrics {
		if metrics[i].Covers(name) {
			return &metrics[i]
		}
	}
	return nil
}
