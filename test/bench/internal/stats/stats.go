// SPDX-License-Identifier: Apache-2.0

// Package stats sums up what was measured.
package stats

import (
	"math"
	"slices"
	"time"
)

// Quantile is the smallest of the values that at least the share q of them doesn't exceed: the nearest rank, so that it is
// always one that was measured. q is between 0 and 1; of no values it is 0. The values need not be sorted.
func Quantile[T ~int64 | ~float64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Median is the middle value, or the lower of the two in the middle.
func Median[T ~int64 | ~float64](values []T) T { return Quantile(values, 0.5) }

// Milliseconds is a duration as a number.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
