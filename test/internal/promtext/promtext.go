// SPDX-License-Identifier: Apache-2.0

// Package promtext reads the text that metrics are served as.
package promtext

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxLine bounds a line, in bytes.
const maxLine = 1 << 20

// Sample is one line.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Samples are those of one reading.
type Samples []Sample

// Sum adds up the values of a metric whose labels have these values; pairs are name, value, name, value.
func (s Samples) Sum(name string, pairs ...string) float64 {
	sum := 0.0
	for _, sample := range s {
		if sample.Name == name && sample.matches(pairs) {
			sum += sample.Value
		}
	}
	return sum
}

func (s Sample) matches(pairs []string) bool {
	for i := 0; i+1 < len(pairs); i += 2 {
		if s.Labels[pairs[i]] != pairs[i+1] {
			return false
		}
	}
	return true
}

// Parse reads all samples. Comments, time stamps and exemplars are skipped.
func Parse(r io.Reader) (Samples, error) {
	var samples Samples
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		sample, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("read metric %q: %w", line, err)
		}
		samples = append(samples, sample)
	}
	return samples, lines.Err()
}

func parseLine(line string) (Sample, error) {
	end := strings.IndexAny(line, "{ \t")
	if end < 0 {
		return Sample{}, fmt.Errorf("no value")
	}
	s := Sample{Name: line[:end], Labels: map[string]string{}}
	rest := line[end:]
	if rest[0] == '{' {
		var err error
		if rest, err = parseLabels(rest[1:], s.Labels); err != nil {
			return Sample{}, err
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return Sample{}, fmt.Errorf("no value")
	}
	var err error
	s.Value, err = strconv.ParseFloat(fields[0], 64)
	return s, err
}

// parseLabels reads name="value" pairs up to the closing brace, and returns what follows it.
func parseLabels(text string, into map[string]string) (rest string, err error) {
	for {
		text = strings.TrimLeft(text, ", \t")
		if after, closed := strings.CutPrefix(text, "}"); closed {
			return after, nil
		}
		name, after, found := strings.Cut(text, `="`)
		if !found {
			return "", fmt.Errorf("labels don't end")
		}
		value, after, err := unquote(after)
		if err != nil {
			return "", err
		}
		into[name], text = value, after
	}
}

// unquote reads up to the closing quote, and returns what follows it.
func unquote(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
			if text[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", fmt.Errorf("the value of a label doesn't end")
}

// Fetch reads the metrics that are served at a URL.
func Fetch(ctx context.Context, c *http.Client, url string) (Samples, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get metrics: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get metrics: %s", resp.Status)
	}
	return Parse(resp.Body)
}
