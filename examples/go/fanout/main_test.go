// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	tests := map[string]struct {
		indexes string
		want    []int
		wantErr bool
	}{
		"none":                          {indexes: ""},
		"ranges and single ones":        {indexes: "0-2,5,7-8", want: []int{0, 1, 2, 5, 7, 8}},
		"an index the batch has not":    {indexes: "8-10", wantErr: true},
		"something else than an index":  {indexes: "0,x", wantErr: true},
		"a range that ends with a dash": {indexes: "3-", wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := expand(tc.indexes, 10)
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %t", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); err == nil && diff != "" {
				t.Errorf("indexes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTaskOutput(t *testing.T) {
	const log = `time=2026-11-23T06:41:34.162Z level=INFO msg=serving address=[::]:5758
task=uid-1-1 stream=stdout | a | b
task=uid-11-1 stream=stdout | of another index
task=other-1-1 stream=stdout | of another batch
task=uid-1-1 stream=stderr | c
task=uid-1-1 stream=end | reason=Completed exitCode=0
time=2026-11-23T06:41:37.725Z level=INFO msg="task ended" task=uid-1-1 reason=Completed exitCode=0
`
	if got, want := taskOutput([]byte(log), "uid-1-"), "a | b\nc\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}
