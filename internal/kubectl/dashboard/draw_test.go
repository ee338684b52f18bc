// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func status(held, idle, starting, total, waiting int32) v1alpha1.PoolStatus {
	return v1alpha1.PoolStatus{Allocated: held, Available: idle, Starting: starting, Total: total, Waiting: waiting}
}

func TestNewBar(t *testing.T) {
	for name, c := range map[string]struct {
		status   v1alpha1.PoolStatus
		capacity v1alpha1.CapacitySpec
		want     string // segments, then the buffer, then the bounds
	}{
		"a pool with room: its width is poolMax": {
			status: status(4, 3, 1, 8, 0), capacity: v1alpha1.CapacitySpec{BufferMin: 2, BufferMax: 4, PoolMin: 2, PoolMax: 20},
			want: "held 0+20 idle 20+15 starting 35+5 | buffer 30+10 | poolMin 2 at 10 start, poolMax 20 at 100 end",
		},
		"more is waited for than poolMax permits: the width is all of it": {
			status: status(5, 0, 0, 5, 5), capacity: v1alpha1.CapacitySpec{BufferMin: 0, BufferMax: 5, PoolMax: 5},
			want: "held 0+50 waiting 50+50 | buffer 50+50 | poolMax 5 at 50 middle",
		},
		"pods that are good for nothing are shown": {
			status: status(1, 1, 0, 4, 0), capacity: v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 1, PoolMax: 4},
			want: "held 0+25 idle 25+25 unusable 50+50 | buffer 50+0.7 | poolMax 4 at 100 end",
		},
		"poolMax is far away: it is not drawn": {
			status: status(2, 2, 0, 4, 0), capacity: v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 2, PoolMax: 1_000_000},
			want: "held 0+33.33 idle 33.33+33.33 | buffer 50+16.67 |  beyond",
		},
		"an empty pool has a bar without a segment": {
			capacity: v1alpha1.CapacitySpec{}, want: " | buffer 0+0.7 | poolMax 0 at 0 start",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describeBar(newBar(c.status, c.capacity)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func describeBar(b barView) string {
	var segments, bounds []string
	for _, s := range b.Segments {
		segments = append(segments, s.Class+" "+s.X+"+"+s.W)
	}
	for _, m := range b.Bounds {
		bounds = append(bounds, m.Label+" at "+m.At+" "+m.Anchor)
	}
	text := strings.Join(segments, " ") + " | buffer " + b.Buffer.X + "+" + b.Buffer.W + " | " + strings.Join(bounds, ", ")
	if b.Beyond {
		text += " beyond"
	}
	return text
}

// Whatever a status says, nothing is drawn outside of the bar.
func TestBarsStayWithinTheirWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(label string) int32 { return rapid.Int32Range(0, 1<<31-1).Draw(t, label) }
		s := status(n("held"), n("idle"), n("starting"), n("total"), n("waiting"))
		c := v1alpha1.CapacitySpec{BufferMin: n("bufferMin"), PoolMin: n("poolMin")}
		c.BufferMax, c.PoolMax = max(c.BufferMin, n("bufferMax")), max(c.PoolMin, n("poolMax"))
		bar := newBar(s, c)
		for _, seg := range append(bar.Segments, bar.Buffer) {
			var x, w float64
			if _, err := fmt.Sscan(seg.X, &x); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscan(seg.W, &w); err != nil {
				t.Fatal(err)
			}
			if x < 0 || w < 0 || x+w > barWidth+1 {
				t.Fatalf("%s is at %s+%s", seg.Class, seg.X, seg.W)
			}
		}
	})
}

func TestNewChart(t *testing.T) {
	h := &history{}
	capacity := v1alpha1.CapacitySpec{PoolMin: 2, PoolMax: 8}
	if c := newChart(h, capacity); !c.Empty {
		t.Errorf("without a sample there is a chart: %+v", c)
	}
	h.add(sample{held: 0, idle: 4})
	h.add(sample{held: 0, idle: 4})
	h.add(sample{held: 4, starting: 2, waiting: 4})
	got := newChart(h, capacity)
	want := chartView{
		Areas: []shape{
			{"held", "M540 96L580 96L580 48L600 48L600 96L540 96Z"},
			{"idle", "M540 48L600 48L600 48L580 48L580 96L540 96Z"},
			{"starting", "M540 48L580 48L580 24L600 24L600 48L540 48Z"},
		},
		Line:   "M540 96L580 96L580 48L600 48",
		Bounds: []mark{{Label: "poolMax 8", At: "0"}, {Label: "poolMin 2", At: "72"}},
		Top:    "8", Span: "1 min",
		Text: "Within the last 1 min: held 0 to 4, idle 0 to 4, starting 0 to 2, waiting 0 to 4",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the chart differs (-want +got):\n%s", diff)
	}
}

func TestAChartOfAPoolAtRestStaysTheSame(t *testing.T) {
	h := &history{}
	for range 2 * maxSamples {
		h.add(sample{held: 3, idle: 2})
	}
	before := newChart(h, v1alpha1.CapacitySpec{PoolMax: 9})
	for range 7 {
		h.add(sample{held: 3, idle: 2})
	}
	if diff := cmp.Diff(before, newChart(h, v1alpha1.CapacitySpec{PoolMax: 9})); diff != "" {
		t.Errorf("it changed:\n%s", diff)
	}
}

func TestColumnsAreTheLastSamplesOfTheirTime(t *testing.T) {
	for name, c := range map[string]struct {
		taken, step, count int
		want               []int32 // held is the number of the sample
	}{
		"no sample":                            {taken: 0, step: 1, count: 3},
		"fewer than there is room for":         {taken: 2, step: 1, count: 3, want: []int32{0, 1}},
		"the newest":                           {taken: 9, step: 1, count: 3, want: []int32{6, 7, 8}},
		"a column that is not full":            {taken: 12, step: 5, count: 3, want: []int32{4, 9, 11}},
		"what was overwritten has no column":   {taken: maxSamples + 7, step: 5, count: maxSamples, want: nil},
		"a column of which a part was dropped": {taken: maxSamples + 2, step: maxSamples, count: 9, want: []int32{maxSamples + 1}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{}
			for i := range c.taken {
				h.add(sample{held: int32(i)})
			}
			var got []int32
			for _, s := range h.columns(c.step, c.count) {
				got = append(got, s.held)
			}
			if c.want == nil && c.taken > maxSamples { // told by its ends
				if first, last := got[0], got[len(got)-1]; first != 14 || last != int32(c.taken-1) {
					t.Errorf("the columns are of samples %d to %d", first, last)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHistoriesAreBoundedAndForgotten(t *testing.T) {
	r := newRecorder()
	var pools []*v1alpha1.Pool
	for i := range maxHistories + 5 {
		pools = append(pools, wrappers.MakePool("ns", fmt.Sprint("pool-", i)).Obj())
	}
	r.record(pools)
	r.record(pools[:maxHistories+5])
	if len(r.pools) != maxHistories {
		t.Errorf("%d pools have a history, want %d", len(r.pools), maxHistories)
	}
	r.record(pools[:1])
	if len(r.pools) != 1 || r.pools[types.NamespacedName{Namespace: "ns", Name: "pool-0"}].taken != 3 {
		t.Errorf("%d histories are left, want that of the pool that is", len(r.pools))
	}
	if chart := r.chart(pools[2]); !chart.Empty {
		t.Error("a pool without a history has a chart")
	}
}
