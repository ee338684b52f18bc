// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// barWidth is the width of a bar: its lengths are percentages, so that its labels have the size of text.
	barWidth = 100.0

	// chartWidth and chartHeight are the size of a chart in units of its own. The page stretches its width alone.
	chartWidth  = 600.0
	chartHeight = 96.0
)

// segment is a piece of a bar: from X on, W wide, in percent.
type segment struct {
	Class string
	X, W  string
}

// mark is a bound in a drawing: in a bar At percent from the left, in a chart At units from the top.
type mark struct {
	Label string
	At    string
	// Anchor is the end of the label that stands at the mark: start, middle or end.
	Anchor string
}

// barView is a pool as a bar.
type barView struct {
	Segments []segment
	Bounds   []mark
	// Buffer is where the pods that nobody holds should end: between bufferMin and bufferMax behind the held ones.
	Buffer segment
	// Beyond says that poolMax is too far to the right to be drawn.
	Beyond bool
}

// newBar draws held, idle, starting and unusable pods after each other, then the sandboxes that are waited for, in a width that
// stands for poolMax.
//
//	| poolMax                                 | the width stands for                           |
//	| up to four times what there is to draw  | poolMax, or what there is to draw if that is more |
//	| more                                    | one and a half times what there is to draw     |
func newBar(s v1alpha1.PoolStatus, c v1alpha1.CapacitySpec) barView {
	pods := max(float64(s.Total), float64(s.Allocated)+float64(s.Available)+float64(s.Starting))
	drawn := max(pods+float64(s.Waiting), float64(s.Allocated)+float64(c.BufferMax), float64(c.PoolMin), 1)
	width, beyond := max(drawn, float64(c.PoolMax)), false
	if float64(c.PoolMax) > 4*drawn {
		width, beyond = 1.5*drawn, true
	}
	scale := func(n float64) float64 { return n / width * barWidth }

	bar := barView{Beyond: beyond}
	at := 0.0
	for _, part := range []struct {
		class string
		n     int32
	}{
		{"held", s.Allocated}, {"idle", s.Available}, {"starting", s.Starting},
		{"unusable", unusable(s)}, {"waiting", s.Waiting},
	} {
		if part.n <= 0 {
			continue
		}
		bar.Segments = append(bar.Segments, segment{Class: part.class, X: number(scale(at)), W: number(scale(float64(part.n)))})
		at += float64(part.n)
	}
	held := float64(s.Allocated)
	bar.Buffer = segment{Class: "buffer", X: number(scale(held + float64(c.BufferMin))), W: number(max(0.7, scale(float64(c.BufferMax-c.BufferMin))))}
	if c.PoolMin > 0 {
		bar.Bounds = append(bar.Bounds, newMark("poolMin", c.PoolMin, scale(float64(c.PoolMin))))
	}
	if !beyond {
		bar.Bounds = append(bar.Bounds, newMark("poolMax", c.PoolMax, scale(float64(c.PoolMax))))
	}
	return bar
}

func newMark(name string, n int32, at float64) mark {
	m := mark{Label: fmt.Sprintf("%s %d", name, n), At: number(at), Anchor: "middle"}
	switch {
	case at < 12:
		m.Anchor = "start"
	case at > barWidth-12:
		m.Anchor = "end"
	}
	return m
}

// unusable is how many pods of a pool are neither held, idle nor starting.
func unusable(s v1alpha1.PoolStatus) int32 {
	others := int64(s.Allocated) + int64(s.Available) + int64(s.Starting)
	return int32(max(0, int64(s.Total)-others)) //nolint:gosec // at most the total
}

// shape is a filled area, or a line, of a chart.
type shape struct {
	Class, Path string
}

// chartView is a pool over time.
type chartView struct {
	Areas  []shape // stacked, the lowest first
	Line   string  // what is waited for, empty for nothing
	Bounds []mark
	Top    string // what the upper edge stands for
	Span   string // what the width stands for
	Text   string // for those who don't see it
	Empty  bool
}

// spans are the times that a chart may show: of so many columns of so many samples each.
var spans = [...]struct {
	columns, step int
	name          string
}{
	{30, 1, "1 min"},
	{90, 1, "3 min"},
	{90, 5, "15 min"},
}

// newChart draws a history: the newest column at the right, as much time as there is.
func newChart(h *history, c v1alpha1.CapacitySpec) chartView {
	span := spans[0]
	for _, longer := range spans[1:] {
		if h.taken > span.columns*span.step {
			span = longer
		}
	}
	columns := h.columns(span.step, span.columns)
	width := chartWidth / float64(span.columns)
	view := chartView{Span: span.name, Empty: len(columns) == 0}
	if view.Empty {
		return view
	}
	top := topOf(columns, c)
	height := func(n int32) float64 { return chartHeight - float64(n)/float64(top)*chartHeight }
	view.Top = strconv.Itoa(int(top))

	base := make([]int32, len(columns))
	for _, part := range []struct {
		class string
		of    func(sample) int32
	}{
		{"held", func(s sample) int32 { return s.held }},
		{"idle", func(s sample) int32 { return s.idle }},
		{"starting", func(s sample) int32 { return s.starting }},
	} {
		upper := make([]int32, len(columns))
		for i, s := range columns {
			upper[i] = base[i] + part.of(s)
		}
		view.Areas = append(view.Areas, shape{Class: part.class, Path: "M" + steps(upper, width, height) + "L" + reversed(steps(base, width, height)) + "Z"})
		base = upper
	}
	waiting := make([]int32, len(columns))
	for i, s := range columns {
		waiting[i] = s.waiting
	}
	if slices.Max(waiting) > 0 {
		view.Line = "M" + steps(waiting, width, height)
	}
	view.Bounds = chartBounds(c, top, height)
	view.Text = chartText(columns, span.name)
	return view
}

// chartBounds are the bounds that can be seen. Two that lie on each other are one line.
func chartBounds(c v1alpha1.CapacitySpec, top int32, height func(int32) float64) []mark {
	var bounds []mark
	if c.PoolMax <= top {
		bounds = append(bounds, mark{Label: fmt.Sprintf("poolMax %d", c.PoolMax), At: number(height(c.PoolMax))})
	}
	if c.PoolMin > 0 && c.PoolMin != c.PoolMax && c.PoolMin <= top {
		bounds = append(bounds, mark{Label: fmt.Sprintf("poolMin %d", c.PoolMin), At: number(height(c.PoolMin))})
	}
	return bounds
}

// topOf is what the upper edge stands for: room for all there is, and for poolMax where that isn't far above it.
func topOf(columns []sample, c v1alpha1.CapacitySpec) int32 {
	most := max(c.PoolMin, 1)
	for _, s := range columns {
		most = max(most, s.held+s.idle+s.starting, s.waiting)
	}
	if int64(c.PoolMax) <= 3*int64(most) {
		return max(most, c.PoolMax)
	}
	return most + most/4 + 1
}

// steps is a line with a step wherever the value changes, which ends at the right. Each value is so wide. One that stays needs no points.
func steps(values []int32, width float64, height func(int32) float64) string {
	left := chartWidth - float64(len(values))*width
	point := func(x float64, v int32) string { return number(x) + " " + number(height(v)) }
	points := []string{point(left, values[0])}
	for i, v := range values {
		if i > 0 && v != values[i-1] {
			x := left + float64(i)*width
			points = append(points, point(x, values[i-1]), point(x, v))
		}
	}
	return strings.Join(append(points, point(chartWidth, values[len(values)-1])), "L")
}

// reversed is a line from its end to its beginning.
func reversed(line string) string {
	points := strings.Split(line, "L")
	slices.Reverse(points)
	return strings.Join(points, "L")
}

// chartText tells what a chart shows.
func chartText(columns []sample, span string) string {
	least, most := columns[0], columns[0]
	for _, s := range columns[1:] {
		least = sample{min(least.held, s.held), min(least.idle, s.idle), min(least.starting, s.starting), min(least.waiting, s.waiting)}
		most = sample{max(most.held, s.held), max(most.idle, s.idle), max(most.starting, s.starting), max(most.waiting, s.waiting)}
	}
	return fmt.Sprintf("Within the last %s: held %s, idle %s, starting %s, waiting %s", span,
		between(least.held, most.held), between(least.idle, most.idle), between(least.starting, most.starting), between(least.waiting, most.waiting))
}

func between(least, most int32) string {
	if least == most {
		return strconv.Itoa(int(most))
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// number writes a coordinate with at most two decimals.
func number(x float64) string {
	return strconv.FormatFloat(math.Round(x*100)/100, 'f', -1, 64)
}
