// SPDX-License-Identifier: Apache-2.0

// Package indexset writes and reads sets of indexes in the compressed form of an Indexed Job: "0-3,7".
package indexset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxIndexes bounds how many indexes a text may stand for, so that "0-2147483647" costs nothing: more than any batch has replicas.
const maxIndexes = 1 << 15

// Format writes a set of indexes; their order doesn't matter and repeats are dropped.
func Format(indexes []int) string {
	sorted := slices.Compact(slices.Sorted(slices.Values(indexes)))
	var b strings.Builder
	for i := 0; i < len(sorted); {
		j := i
		for j+1 < len(sorted) && sorted[j+1] == sorted[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(sorted[i]))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(sorted[j]))
		}
		i = j + 1
	}
	return b.String()
}

// Parse reads what Format wrote. It refuses negative and descending ranges, and sets of more than maxIndexes.
func Parse(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var indexes []int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("parse index set: %w", err)
		}
		last := first
		if isRange {
			if last, err = strconv.ParseUint(to, 10, 31); err != nil {
				return nil, fmt.Errorf("parse index set: %w", err)
			}
		}
		if last < first || last-first >= maxIndexes || len(indexes) >= maxIndexes {
			return nil, fmt.Errorf("parse index set: range %q is empty or too large", part)
		}
		for i := first; i <= last; i++ {
			indexes = append(indexes, int(i)) //nolint:gosec // at most 31 bits
		}
	}
	return indexes, nil
}
