// SPDX-License-Identifier: Apache-2.0

// Package plot draws charts of curves as SVG.
package plot

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Chart is what is drawn.
type Chart struct {
	Title  string
	X, Y   Axis
	Curves []Curve
}

// Axis is one direction of a chart.
type Axis struct {
	// Label says what is along it, and in what unit.
	Label string
	// Scale is linear if it is not told.
	Scale Scale
}

// Scale says how values become lengths.
type Scale int

// The scales. With Log every value must be above 0; those that are not are left out.
const (
	Linear Scale = iota
	Log
)

// Curve is a line through points.
type Curve struct {
	Name string
	// Points are in the order in which they are joined.
	Points []Point
	// Dashed sets apart what is compared with.
	Dashed bool
}

// Point is one value against another.
type Point struct{ X, Y float64 }

// Distribution is the curve of the share of values, in %, that are no greater than X. Of many values, so many are drawn
// that nobody can tell.
func Distribution(values []float64) []Point {
	const most = 400
	sorted := slices.Sorted(slices.Values(values))
	step := max(1, (len(sorted)+most-1)/most)
	var points []Point
	for i, v := range sorted {
		if (i+1)%step == 0 || i == 0 || i == len(sorted)-1 {
			points = append(points, Point{v, float64(i+1) / float64(len(sorted)) * 100})
		}
	}
	return points
}

// The measures of a chart, in pixels.
const (
	width, height            = 720, 360
	left, right, top, bottom = 64, 24, 40, 56
)

// colours tell curves apart, also for those who see few colours. They go round.
func colours() []string {
	return []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}
}

// SVG draws the chart. The same chart is always the same text.
func (c Chart) SVG() string {
	x, y := c.scales()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, width/2, 22, `text-anchor="middle" font-size="15"`, c.Title)
	for _, tick := range x.ticks() {
		at := coordinate(x.place(tick))
		fmt.Fprintf(&b, `<path d="M%s %dV%d" stroke="#dddddd"/>`+"\n", at, top, height-bottom)
		fmt.Fprintf(&b, `<text x="%s" y="%d" text-anchor="middle">%s</text>`+"\n", at, height-bottom+18, label(tick))
	}
	for _, tick := range y.ticks() {
		at := coordinate(y.place(tick))
		fmt.Fprintf(&b, `<path d="M%d %sH%d" stroke="#dddddd"/>`+"\n", left, at, width-right)
		fmt.Fprintf(&b, `<text x="%d" y="%s" text-anchor="end" dominant-baseline="middle">%s</text>`+"\n", left-8, at, label(tick))
	}
	text(&b, (left+width-right)/2, height-12, `text-anchor="middle"`, c.X.Label)
	text(&b, 16, (top+height-bottom)/2, fmt.Sprintf(`text-anchor="middle" transform="rotate(-90 16 %d)"`, (top+height-bottom)/2), c.Y.Label)
	for i, curve := range c.Curves {
		colour := colours()[i%len(colours())]
		dashes := ""
		if curve.Dashed {
			dashes = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path(curve.Points, x, y), colour, dashes)
		row := top + 14 + 18*i
		fmt.Fprintf(&b, `<path d="M%d %dh26" stroke="%s" stroke-width="2"%s/>`+"\n", left+12, row, colour, dashes)
		text(&b, left+46, row+4, "", curve.Name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func text(b *strings.Builder, x, y int, attributes, words string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(b, `<text x="%d" y="%d"%s>`, x, y, attributes)
	_ = xml.EscapeText(b, []byte(words)) // a strings.Builder takes all
	b.WriteString("</text>\n")
}

func path(points []Point, x, y scale) string {
	var parts []string
	for _, p := range points {
		if !x.has(p.X) || !y.has(p.Y) {
			continue
		}
		command := "L"
		if len(parts) == 0 {
			command = "M"
		}
		parts = append(parts, command+coordinate(x.place(p.X))+" "+coordinate(y.place(p.Y)))
	}
	return strings.Join(parts, "")
}

func coordinate(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func label(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// scale is an axis with its bounds, and where on the picture they are.
type scale struct {
	kind        Scale
	low, high   float64
	first, last float64
}

func (c Chart) scales() (x, y scale) {
	x = scale{kind: c.X.Scale, first: left, last: width - right}
	y = scale{kind: c.Y.Scale, first: height - bottom, last: top}
	var xs, ys []float64
	for _, curve := range c.Curves {
		for _, p := range curve.Points {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	x.bound(xs)
	y.bound(ys)
	return x, y
}

// bound sets the bounds so that all values are inside: on a linear scale from 0 to a whole number of steps, on a
// logarithmic one between numbers that are 1, 2 or 5 and zeros.
func (s *scale) bound(values []float64) {
	values = slices.DeleteFunc(values, func(v float64) bool { return !s.has(v) })
	if len(values) == 0 {
		values = []float64{1}
	}
	low, high := slices.Min(values), slices.Max(values)
	if s.kind == Log {
		for s.low = roundDown(low); s.low >= high; { // one value alone still has a width
			high *= 2
		}
		for s.high = roundDown(high); s.high < high; {
			s.high = next(s.high)
		}
		return
	}
	s.low, s.high = 0, 1
	if high > 0 {
		step := stepFor(high)
		s.high = math.Ceil(high/step) * step
	}
}

func (s scale) has(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (s.kind != Log || v > 0)
}

func (s scale) place(v float64) float64 {
	low, high := s.low, s.high
	if s.kind == Log {
		v, low, high = math.Log(v), math.Log(low), math.Log(high)
	}
	return s.first + (s.last-s.first)*(v-low)/(high-low)
}

func (s scale) ticks() []float64 {
	var ticks []float64
	if s.kind == Log {
		for v := s.low; v <= s.high*1.0001; v = next(v) {
			ticks = append(ticks, v)
		}
		return ticks
	}
	step := stepFor(s.high)
	for i := 0; float64(i)*step <= s.high*1.0001; i++ {
		ticks = append(ticks, float64(i)*step)
	}
	return ticks
}

// stepFor is a round number of which 4 to 10 reach up to high.
func stepFor(high float64) float64 {
	step := roundDown(high / 4)
	for high/step > 10 {
		step = next(step)
	}
	return step
}

// roundDown is the greatest number not above v that is 1, 2 or 5 and zeros.
func roundDown(v float64) float64 {
	ten := math.Pow(10, math.Floor(math.Log10(v)))
	for _, digit := range []float64{5, 2} {
		if digit*ten <= v*1.0001 {
			return digit * ten
		}
	}
	return ten
}

// next is the round number after a round number.
func next(v float64) float64 {
	ten := math.Pow(10, math.Floor(math.Log10(v*1.0001)))
	switch digit := math.Round(v / ten); digit {
	case 1:
		return 2 * ten
	case 2:
		return 5 * ten
	default:
		return 10 * ten
	}
}
