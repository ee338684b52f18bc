// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"opensandbox.io/controller/test/faults/internal/proxy"
)

func TestTheRatesCanBeMet(t *testing.T) {
	if err := (&proxy.Proxy{}).SetRates(faultRates()); err != nil {
		t.Error(err)
	}
	sum := 0.0
	for _, rate := range executorRates() {
		sum += rate
	}
	if sum <= 0 || sum > 1 {
		t.Errorf("the executors' rates sum up to %v", sum)
	}
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string // part of the error; "" for none
	}{
		"none: ten minutes":   {nil, ""},
		"a time and a seed":   {[]string{"-for=60s", "-seed=7"}, ""},
		"too short":           {[]string{"-for=1s"}, "-for"},
		"no load":             {[]string{"-rate=0"}, "-rate"},
		"a lease too short":   {[]string{"-lease=1ms"}, "-lease"},
		"too few nodes":       {[]string{"-nodes=2"}, "-nodes"},
		"one way to strike":   {[]string{"-strike=freezeLeader"}, ""},
		"no way to strike":    {[]string{"-strike=ask"}, "-strike"},
		"something left over": {[]string{"10m"}, "10m"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(c.args, io.Discard)
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want one that names %q", err, c.want)
			}
		})
	}
	first, _ := parse(nil, io.Discard)
	second, _ := parse(nil, io.Discard)
	third, _ := parse(nil, io.Discard)
	if first.Seed == second.Seed && second.Seed == third.Seed {
		t.Error("the seed is always the same")
	}
}

func TestTheElectionCountsWhoLostTheLead(t *testing.T) {
	e := &election{}
	for _, holder := range []string{"", "a", "a", "", "a", "b", "", "a"} { // a gave it back once and took it again
		e.see(holder)
	}
	if holder, losses := e.state(); holder != "a" || losses != 2 {
		t.Errorf("%s leads after %d losses, want a after 2", holder, losses)
	}
}

func TestDrawnTimesKeepToTheirRange(t *testing.T) {
	random := chance(1)
	for range 10000 {
		if d := between(random, time.Second, 2*time.Second); d < time.Second || d > 2*time.Second {
			t.Fatalf("drew %s between 1 s and 2 s", d)
		}
		if d := exponential(random, time.Second); d < 0 || d > 5*time.Second {
			t.Fatalf("drew %s with a mean of 1 s", d)
		}
	}
}

func TestTheLeadIsTakenAwayInEveryWayOrInOne(t *testing.T) {
	count := func(only string) map[string]int {
		k, n := &killer{random: chance(1), only: only}, map[string]int{}
		for range 1000 {
			n[k.drawStrike()]++
		}
		return n
	}
	if n := count(""); n[killLeader] < 500 || n[freezeLeader] < 200 || n[endLeader] < 70 || n[killBoth] < 70 {
		t.Errorf("drew %v", n)
	}
	if n := count(freezeLeader); n[freezeLeader] != 1000 {
		t.Errorf("drew %v, want one way alone", n)
	}
}
