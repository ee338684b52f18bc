// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// The table of values stands between these lines of the README.
const (
	tableStart = "<!-- Made from values.yaml by `make chart`. -->"
	tableEnd   = "<!-- End of the values. -->"
)

// row is one value with a comment above it.
type row struct{ key, preset, meaning string }

// writeTable replaces the table of a README.
func writeTable(readme, values string) error {
	text, err := os.ReadFile(readme)
	if err != nil {
		return fmt.Errorf("read the chart's README: %w", err)
	}
	preset, err := os.ReadFile(values)
	if err != nil {
		return fmt.Errorf("read values: %w", err)
	}
	rows, err := rowsOf(string(preset))
	if err != nil {
		return fmt.Errorf("read %s: %w", values, err)
	}
	before, rest, ok := strings.Cut(string(text), tableStart)
	_, after, closed := strings.Cut(rest, tableEnd)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the table: add the lines %q and %q", readme, tableStart, tableEnd)
	}
	var b strings.Builder
	b.WriteString(before + tableStart + "\n\n| value | default | meaning |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", r.key, r.preset, strings.ReplaceAll(r.meaning, "|", `\|`))
	}
	b.WriteString("\n" + tableEnd + after)
	if err := os.WriteFile(readme, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write the chart's README: %w", err)
	}
	return nil
}

// rowsOf returns the values that have a comment above them. A comment is that of the key on the next line, and an empty line ends it.
func rowsOf(values string) ([]row, error) {
	var all map[string]any
	if err := yaml.Unmarshal([]byte(values), &all); err != nil {
		return nil, fmt.Errorf("parse YAML: %w", err)
	}
	var rows []row
	var path, comment []string
	for line := range strings.SplitSeq(values, "\n") {
		text := strings.TrimLeft(line, " ")
		if said, ok := strings.CutPrefix(text, "#"); ok {
			comment = append(comment, strings.TrimSpace(said))
			continue
		}
		key, _, ok := strings.Cut(text, ":")
		if depth := (len(line) - len(text)) / 2; ok && depth <= len(path) {
			path = append(path[:depth:depth], key)
		}
		if ok && len(comment) > 0 {
			preset, err := json.Marshal(lookUp(all, path))
			if err != nil {
				return nil, fmt.Errorf("render the default of %s: %w", strings.Join(path, "."), err)
			}
			rows = append(rows, row{key: strings.Join(path, "."), preset: string(preset), meaning: strings.Join(comment, " ")})
		}
		comment = nil
	}
	return rows, nil
}

func lookUp(values map[string]any, path []string) any {
	var value any = values
	for _, key := range path {
		within, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = within[key]
	}
	return value
}
