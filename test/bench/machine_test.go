// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"
)

func TestTheLoadIsReadUntilItFallsNoMore(t *testing.T) {
	falling := make([]float64, 2*loadTurns)
	for i := range falling {
		falling[i] = 100 - float64(i)
	}
	cases := map[string]struct {
		readings []float64
		want     float64
		reads    int
	}{
		"a machine at rest":                         {[]float64{0.1, 0.2, 5}, 0.2, 2},
		"what was started comes to rest":            {[]float64{3, 2, 0.6, 0.5, 9}, 0.5, 4},
		"somebody else keeps it busy":               {[]float64{2.1, 2, 9}, 2, 2},
		"somebody else begins":                      {[]float64{3, 1, 4, 9}, 4, 3},
		"a load that falls on and on is taken once": {falling, falling[loadTurns-1], loadTurns},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			reads := 0
			got, err := settledLoad(t.Context(), func(context.Context) (float64, error) {
				reads++
				return tc.readings[reads-1], nil
			})
			if err != nil || got != tc.want || reads != tc.reads {
				t.Errorf("load %v after %d readings (%v), want %v after %d", got, reads, err, tc.want, tc.reads)
			}
		})
	}
}

func TestTheLoadIsNotWaitedForAfterAnInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := settledLoad(ctx, loadNow); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the interrupt", err)
	}
}
