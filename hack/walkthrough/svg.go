// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// The measures of the terminal, in pixels but for columns. A column is as wide as in common monospaced fonts, whose letters
// are 0.602 em wide or less.
const (
	columns    = 110
	fontSize   = 14
	lineHeight = 20
	padding    = 16
	bar        = 36
	width      = columns*fontSize*602/1000 + 2*padding
	tabStop    = 8
)

// The colours of the terminal. Each text has a contrast of at least 7 with what is behind it; the frame is seen on a light page and on
// a dark one.
const (
	background    = "#0d1117"
	barBackground = "#21262d"
	frame         = "#6e7681"
	outputColour  = "#c9d1d9"
	commandColour = "#ffffff"
	promptColour  = "#7ee787"
	commentColour = "#a5b1bd"
)

const prompt = "$ "

// row is a line of the terminal.
type row struct {
	text   string
	colour string
	// prompted tells that the text is a command and its first characters the prompt.
	prompted bool
}

// render draws a terminal in which the steps were run. The same steps are always the same bytes. Every character counts as one
// column, so wide ones make a line longer than the window.
func render(title string, steps []shownStep) []byte {
	rows := terminal(steps)
	height := bar + len(rows)*lineHeight + 2*padding
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n", escape(title), escape(describe(steps)))
	fmt.Fprintf(&b, `<rect x="0.5" y="0.5" width="%d" height="%d" rx="8" fill="%s" stroke="%s"/>`+"\n", width-1, height-1, background, frame)
	fmt.Fprintf(&b, `<path d="M1 %d V8 A7 7 0 0 1 8 1 H%d A7 7 0 0 1 %d 8 V%d Z" fill="%s"/>`+"\n", bar, width-8, width-1, bar, barBackground)
	for i, colour := range []string{"#ff5f57", "#febc2e", "#28c840"} {
		fmt.Fprintf(&b, `<circle cx="%d" cy="%d" r="6" fill="%s"/>`+"\n", padding+6+i*20, bar/2, colour)
	}
	fmt.Fprintf(&b, `<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace" font-size="%d" fill="%s">`+"\n",
		fontSize, outputColour)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", width/2, bar/2+5, escape(title))
	for i, r := range rows {
		if r.text == "" {
			continue
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" xml:space="preserve"%s>%s</text>`+"\n", padding, bar+padding+i*lineHeight+fontSize, fill(r.colour), content(r))
	}
	b.WriteString("</g>\n</svg>\n")
	return []byte(b.String())
}

// terminal lays the steps out in rows: a comment in one of its own, with a blank one before it, the command after the prompt, and then
// its output.
func terminal(steps []shownStep) []row {
	var rows []row
	for i, s := range steps {
		if s.comment != "" {
			if i > 0 {
				rows = append(rows, row{})
			}
			rows = append(rows, painted("# "+s.comment, commentColour)...)
		}
		command := painted(prompt+s.command, commandColour)
		command[0].prompted = true
		rows = append(rows, command...)
		for line := range strings.Lines(s.output) {
			rows = append(rows, painted(expandTabs(strings.TrimRight(line, "\r\n")), outputColour)...)
		}
	}
	return rows
}

// painted is a line in rows of that colour, one at least.
func painted(line, colour string) []row {
	var rows []row
	for _, text := range wrap(line) {
		rows = append(rows, row{text: text, colour: colour})
	}
	return rows
}

// wrap splits a line into pieces of at most as many characters as there are columns, which together are the line. It splits
// after a space, if there is one in the last third of a piece.
func wrap(line string) []string {
	rest := []rune(line)
	var pieces []string
	for len(rest) > columns {
		end := columns
		for i := columns; i > columns*2/3; i-- {
			if rest[i-1] == ' ' {
				end = i
				break
			}
		}
		pieces = append(pieces, string(rest[:end]))
		rest = rest[end:]
	}
	return append(pieces, string(rest))
}

// expandTabs puts spaces in place of tabs, up to the next multiple of tabStop.
func expandTabs(line string) string {
	var b strings.Builder
	column := 0
	for _, r := range line {
		if r != '\t' {
			b.WriteRune(r)
			column++
			continue
		}
		spaces := tabStop - column%tabStop
		b.WriteString(strings.Repeat(" ", spaces))
		column += spaces
	}
	return b.String()
}

// describe says in words what the picture shows.
func describe(steps []shownStep) string {
	var b strings.Builder
	b.WriteString("A terminal in which these commands were run, with their output.")
	for _, s := range steps {
		b.WriteString(" ")
		if s.comment != "" {
			fmt.Fprintf(&b, "%s: ", s.comment)
		}
		b.WriteString(s.command + ".")
	}
	return b.String()
}

// content is the row's text, with the prompt in its colour.
func content(r row) string {
	if !r.prompted {
		return escape(r.text)
	}
	return fmt.Sprintf(`<tspan%s>%s</tspan>%s`, fill(promptColour), prompt, escape(strings.TrimPrefix(r.text, prompt)))
}

// fill is the attribute for a colour; that of output is inherited.
func fill(colour string) string {
	if colour == outputColour {
		return ""
	}
	return fmt.Sprintf(` fill="%s"`, colour)
}

// escape makes text of XML out of s; what XML can't hold, as control characters, becomes the replacement character.
func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err) // a Builder takes everything
	}
	return b.String()
}
