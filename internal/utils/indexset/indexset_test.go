// SPDX-License-Identifier: Apache-2.0

package indexset

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestFormat(t *testing.T) {
	cases := map[string]struct {
		indexes []int
		want    string
	}{
		"nothing is the empty text":               {nil, ""},
		"one index stands alone":                  {[]int{7}, "7"},
		"neighbours become a range":               {[]int{0, 1, 2, 3, 7}, "0-3,7"},
		"order and repeats don't matter":          {[]int{5, 1, 5, 0}, "0-1,5"},
		"a range in the middle keeps its borders": {[]int{0, 2, 3, 5}, "0,2-3,5"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Format(c.indexes); got != c.want {
				t.Errorf("Format(%v) = %q, want %q", c.indexes, got, c.want)
			}
		})
	}
}

func TestParseReadsWhatFormatWrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		indexes := slices.Sorted(slices.Values(rapid.SliceOfDistinct(rapid.IntRange(0, 50), rapid.ID[int]).Draw(t, "indexes")))
		got, err := Parse(Format(indexes))
		if err != nil {
			t.Fatal(err)
		}
		if len(indexes) > 0 && !cmp.Equal(indexes, got) {
			t.Fatalf("got %v, want %v", got, indexes)
		}
	})
}

func TestParseRefusesWhatFormatNeverWrites(t *testing.T) {
	for _, text := range []string{",", "a", "-1", "3-1", "1-", "0-2147483647", "99999999999"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", text, got)
		}
	}
}
