// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"opensandbox.io/controller/test/bench/internal/plot"
)

// floorName begins the names of samples of the floor, which are drawn in dashes.
const floorName = "floor"

// distributions draws how the samples of all runs together are distributed, the smallest first.
func distributions(title string, scale plot.Scale) func([]findings) plot.Chart {
	return func(runs []findings) plot.Chart {
		chart := plot.Chart{Title: title, X: plot.Axis{Label: "ms", Scale: scale}, Y: plot.Axis{Label: "%"}}
		for _, s := range together(runs) {
			chart.Curves = append(chart.Curves, plot.Curve{
				Name: s.name, Points: plot.Distribution(milliseconds(s.times)), Dashed: strings.HasPrefix(s.name, floorName),
			})
		}
		return chart
	}
}

// together joins the samples of all runs by name, in the order in which the names first came.
func together(runs []findings) []sample {
	var all []sample
	at := map[string]int{}
	for _, run := range runs {
		for _, s := range run.samples {
			i, known := at[s.name]
			if !known {
				i = len(all)
				at[s.name] = i
				all = append(all, sample{name: s.name})
			}
			all[i].times = append(all[i].times, s.times...)
		}
	}
	return all
}
