// SPDX-License-Identifier: Apache-2.0

package plot

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var write = flag.Bool("update", false, "write golden files anew")

func chart() Chart {
	return Chart{
		Title: "Create & delivered", X: Axis{Label: "ms", Scale: Log}, Y: Axis{Label: "% of deliveries"},
		Curves: []Curve{
			{Name: "controller", Points: Distribution([]float64{40, 12, 25, 90})},
			{Name: "bare <client>", Points: Distribution([]float64{8, 9, 30}), Dashed: true},
		},
	}
}

func TestTheChartIsAsBefore(t *testing.T) {
	golden := filepath.Join("testdata", "chart.svg")
	got := chart().SVG()
	if *write {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("chart (-want +got; go test ./test/bench/internal/plot -update writes it anew):\n%s", diff)
	}
}

func TestEveryChartIsWellFormed(t *testing.T) {
	for name, c := range map[string]Chart{
		"usual":                  chart(),
		"empty":                  {},
		"one value":              {X: Axis{Scale: Log}, Curves: []Curve{{Points: []Point{{5, 5}}}}},
		"zeros on a linear axis": {Curves: []Curve{{Points: []Point{{0, 0}}}}},
		"zeros on a log axis":    {X: Axis{Scale: Log}, Y: Axis{Scale: Log}, Curves: []Curve{{Points: []Point{{0, 0}, {3, 4}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			svg := c.SVG()
			d := xml.NewDecoder(strings.NewReader(svg))
			for {
				_, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%v in\n%s", err, svg)
				}
			}
			if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
				t.Errorf("a place that is no number in\n%s", svg)
			}
		})
	}
}

func TestDistribution(t *testing.T) {
	want := []Point{{1, 25}, {2, 50}, {3, 75}, {10, 100}}
	if diff := cmp.Diff(want, Distribution([]float64{3, 10, 1, 2})); diff != "" {
		t.Errorf("points (-want +got):\n%s", diff)
	}
	many := make([]float64, 10_000)
	for i := range many {
		many[i] = float64(i)
	}
	got := Distribution(many)
	if len(got) > 500 || got[0].X != 0 || got[len(got)-1] != (Point{9999, 100}) {
		t.Errorf("%d points from %v to %v, want few with the first and the last", len(got), got[0], got[len(got)-1])
	}
}

func TestTicks(t *testing.T) {
	for name, test := range map[string]struct {
		kind   Scale
		values []float64
		want   []float64
	}{
		"a share":        {Linear, []float64{100}, []float64{0, 20, 40, 60, 80, 100}},
		"linear, small":  {Linear, []float64{0.7}, []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}},
		"log":            {Log, []float64{3, 70}, []float64{2, 5, 10, 20, 50, 100}},
		"log, just so":   {Log, []float64{1, 1000}, []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}},
		"log, one value": {Log, []float64{20}, []float64{20, 50}},
		"log, below one": {Log, []float64{0.3, 0.9}, []float64{0.2, 0.5, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s := scale{kind: test.kind}
			s.bound(test.values)
			got := s.ticks()
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
				t.Errorf("ticks (-want +got):\n%s", diff)
			}
		})
	}
}
