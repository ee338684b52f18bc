// SPDX-License-Identifier: Apache-2.0

package indexset

import (
	"slices"
	"testing"
)

// Whatever stands in a list of indexes, what can be read is as much as may be and reads back as it is written.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "0-3,7", "7,0-3", "0-2147483647", "0-32767,0-32767", "-1", "1-", "3-1", ",", "1,,2", "+1", "01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		indexes, err := Parse(text)
		if err != nil {
			return
		}
		if len(indexes) > 2*maxIndexes {
			t.Fatalf("%q stands for %d indexes", text, len(indexes))
		}
		again, err := Parse(Format(indexes))
		want := slices.Compact(slices.Sorted(slices.Values(indexes)))
		if err != nil && len(want) <= maxIndexes || err == nil && !slices.Equal(want, again) {
			t.Fatalf("%q is %d indexes, which are read back as %d: %v", text, len(want), len(again), err)
		}
	})
}
