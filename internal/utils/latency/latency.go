// SPDX-License-Identifier: Apache-2.0

// Package latency gives every histogram of durations one form.
package latency

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// nativeFactor bounds the width of a native bucket: a quantile is at most 10% off.
	nativeFactor = 1.1

	// nativeBuckets bounds the memory of one native histogram; beyond it neighbouring buckets are merged, or all of them are
	// emptied if nativeReset has passed since the last time.
	nativeBuckets = 100
	nativeReset   = time.Hour
)

// Options are those of a histogram of seconds from 1 ms to 60 s: buckets that every scraper reads, and beside them native
// ones for a scraper that asks for these.
func Options(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help,
		Buckets:                         []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  nativeBuckets,
		NativeHistogramMinResetDuration: nativeReset,
	}
}
