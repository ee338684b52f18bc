// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 ... 1
	}
	for name, tc := range map[string]struct {
		values []float64
		q      float64
		want   float64
	}{
		"of no values it is 0":                       {nil, 0.5, 0},
		"of one value it is that, low":               {[]float64{7}, 0, 7},
		"of one value it is that, high":              {[]float64{7}, 0.99, 7},
		"the middle of three that are not sorted":    {[]float64{9, 1, 5}, 0.5, 5},
		"the lower of the two in the middle":         {[]float64{1, 2, 3, 4}, 0.5, 2},
		"p50 of a hundred":                           {hundred, 0.5, 50},
		"p99 of a hundred leaves one above":          {hundred, 0.99, 99},
		"1 is the largest":                           {hundred, 1, 100},
		"0 is the smallest":                          {hundred, 0, 1},
		"p99 of fewer than a hundred is the largest": {[]float64{1, 2, 3}, 0.99, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Quantile(tc.values, tc.q); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestQuantileLeavesItsInputAsItIs(t *testing.T) {
	values := []time.Duration{3, 1, 2}
	if got := Median(values); got != 2 || values[0] != 3 || values[1] != 1 {
		t.Errorf("median %d of %v, want 2, and the values in their order", got, values)
	}
}

func TestMilliseconds(t *testing.T) {
	if got := Milliseconds(1500 * time.Microsecond); got != 1.5 {
		t.Errorf("got %v, want 1.5", got)
	}
}
