// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestForecastTarget(t *testing.T) {
	tests := map[string]struct {
		forecast Forecast
		want     int
	}{
		"nothing is known":                           {Forecast{}, 0},
		"nobody takes pods":                          {Forecast{StartTime: time.Minute}, 0},
		"no pod has started yet":                     {Forecast{ClaimRate: 5}, 0},
		"two a second for ten seconds":               {Forecast{ClaimRate: 2, StartTime: 10 * time.Second}, 20},
		"a part of a pod is one":                     {Forecast{ClaimRate: 0.01, StartTime: 10 * time.Second}, 1},
		"rounded up":                                 {Forecast{ClaimRate: 0.21, StartTime: 10 * time.Second}, 3},
		"more than an API object can say is cut":     {Forecast{ClaimRate: 1e12, StartTime: time.Hour}, math.MaxInt32},
		"what is no number predicts nothing":         {Forecast{ClaimRate: math.NaN(), StartTime: time.Hour}, 0},
		"a rate below zero can't be, and is nothing": {Forecast{ClaimRate: -1, StartTime: time.Hour}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.forecast.Target(); got != tt.want {
				t.Errorf("target %d, want %d", got, tt.want)
			}
		})
	}
}

func TestClaimRate(t *testing.T) {
	start := time.Unix(1000, 0)
	// stream claims n pods each second for so many seconds, and returns the rate then.
	stream := func(perSecond, seconds int) (ClaimRate, time.Time) {
		var c ClaimRate
		now := start
		for i := range seconds {
			now = start.Add(time.Duration(i+1) * time.Second)
			c.Observe(perSecond*(i+1), now)
		}
		return c, now
	}
	about := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.02*want+1e-9 {
			t.Errorf("%s: %.3f claims/s, want about %.3f", what, got, want)
		}
	}
	var none ClaimRate
	about("no claims", none.At(start), 0)
	half, _ := stream(4, 60)
	about("a stream of one half-life", half.At(start.Add(time.Minute)), 2)
	long, now := stream(4, 900)
	about("a long stream", long.At(now), 4)
	about("a minute after it", long.At(now.Add(time.Minute)), 2)
	about("ten minutes after it", long.At(now.Add(10*time.Minute)), 4.0/1024)
	about("a clock that went back", long.At(start), 4)

	seldom := ClaimRate{}
	for i := 1; i <= 15; i++ { // looked at each minute alone
		seldom.Observe(240*i, start.Add(time.Duration(i)*time.Minute))
	}
	if got := seldom.At(start.Add(15*time.Minute + 30*time.Second)); got < 3 || got > 5 {
		t.Errorf("a long stream looked at once a minute: %.2f claims/s, want about 4", got)
	}
	again := long
	again.Observe(60, now) // the count began anew
	about("a count that began anew", again.At(now), 4+60*math.Ln2/60)
}

func TestMedian(t *testing.T) {
	s := func(seconds ...int) (samples []time.Duration) {
		for _, n := range seconds {
			samples = append(samples, time.Duration(n)*time.Second)
		}
		return samples
	}
	tests := map[string]struct {
		samples []time.Duration
		want    time.Duration
	}{
		"none":                            {nil, 0},
		"one":                             {s(7), 7 * time.Second},
		"of two the smaller":              {s(9, 7), 7 * time.Second},
		"one slow pull changes nothing":   {s(3, 2, 300, 2, 3), 3 * time.Second},
		"half of them slow changes a lot": {s(300, 2, 300, 2, 300), 300 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := append([]time.Duration{}, tt.samples...)
			if got := median(tt.samples); got != tt.want {
				t.Errorf("median %v, want %v", got, tt.want)
			}
			if diff := cmp.Diff(before, append([]time.Duration{}, tt.samples...)); diff != "" {
				t.Errorf("the samples were changed:\n%s", diff)
			}
		})
	}
}

func TestActivity(t *testing.T) {
	l, _ := newPool(2)
	become := func(name string, version string, state PodState, took time.Duration, change ...func(*Pod)) {
		pod := readyPod(name)
		pod.ResourceVersion, pod.State, pod.StartTime = version, state, took
		for _, c := range change {
			c(&pod)
		}
		l.ObservePod(poolP, pod)
	}
	want := func(what string, want Activity) {
		t.Helper()
		if diff := cmp.Diff(want, l.Activity(poolP)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want("pods that were Ready before are no starts", Activity{})
	l.ExpectPod(poolP, "new", "r1")
	become("new", "1", PodStarting, 0)
	become("new", "2", PodReady, 9*time.Second)
	want("a pod that this process made", Activity{Started: 1, StartTime: 9 * time.Second})
	become("new", "3", PodStarting, 0)
	become("new", "4", PodReady, time.Hour)
	want("it was not Ready for a while: that is no start time", Activity{Started: 2, StartTime: 9 * time.Second})
	become("new", "5", PodStarting, 0, func(p *Pod) { p.Recycling = true })
	become("new", "6", PodReady, time.Hour)
	want("a recycling is no start", Activity{Started: 2, StartTime: 9 * time.Second})
	become("found", "1", PodStarting, 0)
	become("found", "2", PodReady, time.Hour)
	want("another process made it", Activity{Started: 3, StartTime: 9 * time.Second})
	become("old", "1", PodStarting, 0, func(p *Pod) { p.Revision = "r0" })
	become("old", "2", PodReady, time.Hour, func(p *Pod) { p.Revision = "r0" })
	want("a pod of an old revision", Activity{Started: 3, StartTime: 9 * time.Second})
	l.Assume(demand("b", 0, 0, 1))
	want("two pods are taken", Activity{Started: 3, Claimed: 2, StartTime: 9 * time.Second})
	for i := range 40 {
		name := string(rune('A'+i)) + "x"
		l.ExpectPod(poolP, name, "r1")
		become(name, "1", PodReady, time.Second)
	}
	if got := l.Activity(poolP).StartTime; got != time.Second {
		t.Errorf("median %v after many fast starts, want 1 s", got)
	}
	if got := len(l.pools[poolP].startTimes); got != startSamples {
		t.Errorf("%d samples are kept, want %d", got, startSamples)
	}
}
