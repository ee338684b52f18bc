// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// block is one fenced block of a Markdown document.
type block struct {
	line     int    // of its opening fence, counted from 1
	language string // the word after the fence, "" for none
	body     string // normalised
}

func (b block) isYAML() bool { return b.language == "yaml" || b.language == "yml" }

// isProse says that the block's text is in the document's language, so that a translation may differ.
func (b block) isProse() bool {
	return b.language == "" || b.language == "text" || b.language == "mermaid"
}

// fencedBlocks returns the blocks between ``` fences in their order. An unclosed block ends with the document.
func fencedBlocks(document string) []block {
	var blocks []block
	var body []string
	open := -1 // index in blocks of the block being read, -1 for none
	for i, line := range strings.Split(document, "\n") {
		info, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open < 0:
			language, _, _ := strings.Cut(strings.TrimSpace(info), " ")
			blocks = append(blocks, block{line: i + 1, language: language})
			open, body = len(blocks)-1, nil
		case isFence:
			blocks[open].body = normalise(strings.Join(body, "\n"))
			open = -1
		case open >= 0:
			body = append(body, line)
		}
	}
	if open >= 0 {
		blocks[open].body = normalise(strings.Join(body, "\n"))
	}
	return blocks
}

// normalise drops what may differ between equal blocks: empty lines, lines that are a comment, space at the end of lines,
// and the indentation of the whole block.
func normalise(body string) string {
	var lines []string
	indent := -1
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimRight(line, " \t\r")
		text := strings.TrimLeft(line, " ")
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if n := len(line) - len(text); indent < 0 || n < indent {
			indent = n
		}
		lines = append(lines, line)
	}
	for i := range lines {
		lines[i] = lines[i][indent:]
	}
	return strings.Join(lines, "\n")
}

// compareBlocks returns the first difference between the blocks of the two READMEs, if any.
func compareBlocks(first, second []block) []string {
	for i := range min(len(first), len(second)) {
		a, b := first[i], second[i]
		if a.language != b.language || (!a.isProse() && a.body != b.body) {
			return []string{fmt.Sprintf("%s:%d and %s:%d show different blocks. fix: make them equal (comments may differ)",
				readmes[0], a.line, readmes[1], b.line)}
		}
	}
	if len(first) != len(second) {
		return []string{fmt.Sprintf("%s has %d blocks, %s has %d. fix: show the same in both", readmes[0], len(first), readmes[1], len(second))}
	}
	return nil
}
