// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRender(t *testing.T) {
	long := strings.Repeat("x", columns)
	tests := map[string]struct {
		steps []shownStep
		want  []string // the texts below the title bar
	}{
		"a command follows the prompt, its output follows in rows": {
			steps: []shownStep{{step: step{command: "echo hi"}, output: "hi\nthere\n"}},
			want:  []string{"$ echo hi", "hi", "there"},
		},
		"a command without output has one row": {
			steps: []shownStep{{step: step{command: "true"}}},
			want:  []string{"$ true"},
		},
		"a comment stands above its command": {
			steps: []shownStep{{step: step{comment: "nothing", command: "true"}}},
			want:  []string{"# nothing", "$ true"},
		},
		"what XML has a meaning for stays text": {
			steps: []shownStep{{step: step{command: "a <b> && c"}, output: "</text><script>\"'&amp;\n"}},
			want:  []string{"$ a <b> && c", "</text><script>\"'&amp;"},
		},
		"what XML can't hold is replaced": {
			steps: []shownStep{{step: step{command: "x"}, output: "\x1b[1mbold\x00\xff\n"}},
			want:  []string{"$ x", "\ufffd[1mbold\ufffd\ufffd"},
		},
		"a row that is exactly full is not split": {
			steps: []shownStep{{step: step{command: "x"}, output: long + "\n"}},
			want:  []string{"$ x", long},
		},
		"a line without spaces is split where the row ends": {
			steps: []shownStep{{step: step{command: "x"}, output: long + "y\n"}},
			want:  []string{"$ x", long, "y"},
		},
		"a line is split after the last space that fits": {
			steps: []shownStep{{step: step{command: "x"}, output: long[:100] + " yyyyyyyyyyyyyyyyyy\n"}},
			want:  []string{"$ x", long[:100] + " ", "yyyyyyyyyyyyyyyyyy"},
		},
		"a long command keeps its words": {
			steps: []shownStep{{step: step{command: long + "z"}}},
			want:  []string{"$ " + long[2:], "xxz"},
		},
		"tabs become spaces, spaces are kept, and the end of a line doesn't matter": {
			steps: []shownStep{{step: step{command: "x"}, output: "real\t0m1s\r\n\t  a\nlast"}},
			want:  []string{"$ x", "real    0m1s", "          a", "last"},
		},
		"empty lines take room and no text": {
			steps: []shownStep{{step: step{command: "x"}, output: "\n\na\n"}},
			want:  []string{"$ x", "a"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			picture := render("the title", tc.steps)
			got := texts(t, picture)
			if diff := cmp.Diff(append([]string{"the title"}, tc.want...), got); diff != "" {
				t.Errorf("texts (-want +got):\n%s", diff)
			}
			if again := render("the title", tc.steps); !bytes.Equal(picture, again) {
				t.Error("the same steps were drawn in another way")
			}
		})
	}
}

// texts parses the picture and returns its text elements; it fails where the picture is no XML, or has what an image in a page
// must not have or need.
func texts(t *testing.T, picture []byte) []string {
	t.Helper()
	var found []string
	var current *strings.Builder
	row := 0 // 0 is the title bar
	decoder := xml.NewDecoder(bytes.NewReader(picture))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v\n%s", err, picture)
		}
		switch e := token.(type) {
		case xml.StartElement:
			switch e.Name.Local {
			case "text":
				current = &strings.Builder{}
				if spaces := attribute(e, "space"); row > 0 && spaces != "preserve" {
					t.Errorf("row %d has xml:space=%q, which makes one space of several", row, spaces)
				}
				row++
			case "script", "style", "image", "foreignObject", "a":
				t.Errorf("the picture has an element %s", e.Name.Local)
			}
		case xml.EndElement:
			if e.Name.Local == "text" {
				found = append(found, current.String())
				current = nil
			}
		case xml.CharData:
			if current != nil {
				current.Write(e)
			}
		}
	}
}

// attribute is the value of the element's attribute of that name, in whatever namespace. "": it has none.
func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func TestRenderDescribesTheCommands(t *testing.T) {
	picture := string(render("a <title>", []shownStep{{step: step{comment: "a greeting", command: "echo hi >&2"}, output: "hi\n"}}))
	for _, want := range []string{
		`<title id="title">a &lt;title&gt;</title>`,
		`<desc id="desc">A terminal in which these commands were run, with their output. a greeting: echo hi &gt;&amp;2.</desc>`,
		`role="img" aria-labelledby="title desc"`,
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("the picture lacks %s:\n%s", want, picture)
		}
	}
}

func TestRenderIsHighEnough(t *testing.T) {
	height := func(lines int) int {
		var root struct {
			Height int `xml:"height,attr"`
		}
		picture := render("t", []shownStep{{step: step{command: "x"}, output: strings.Repeat("line\n", lines)}})
		if err := xml.Unmarshal(picture, &root); err != nil {
			t.Fatal(err)
		}
		return root.Height
	}
	if got, want := height(30)-height(10), 20*lineHeight; got != want {
		t.Errorf("20 lines more make the picture %d pixels higher, want %d", got, want)
	}
}

func TestWrapLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringOfN(rapid.SampledFrom([]rune("abcä< ")), 0, 3*columns, -1).Draw(t, "line")
		pieces := wrap(line)
		if got := strings.Join(pieces, ""); got != line {
			t.Errorf("the pieces are %q, the line %q", got, line)
		}
		for _, piece := range pieces {
			if n := utf8.RuneCountInString(piece); n > columns {
				t.Errorf("a piece has %d characters: %q", n, piece)
			}
		}
	})
}
