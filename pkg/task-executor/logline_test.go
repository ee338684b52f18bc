// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLogLine(t *testing.T) {
	cases := map[string]struct {
		line string
		want *LogLine
	}{
		"output":                          {"task=a-0-1 stream=stdout | hi", &LogLine{"a-0-1", StdoutStream, []byte("hi")}},
		"an empty line of output":         {"task=a-0-1 stream=stderr | ", &LogLine{"a-0-1", StderrStream, []byte{}}},
		"output that looks like a line":   {"task=a stream=stdout | task=b stream=end | x", &LogLine{"a", StdoutStream, []byte("task=b stream=end | x")}},
		"the daemon's own log":            {`time=2026-11-23T06:41:34Z level=INFO msg="task ended" task=a-0-1`, nil},
		"a line that was torn":            {"task=a-0-1 stream=std", nil},
		"a line that was torn in its end": {"task=a-0-1 stream=stdout |", nil},
		"nothing":                         {"", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, ok := ParseLogLine([]byte(tc.line))
			if ok != (tc.want != nil) {
				t.Fatalf("it is a line: %v, %+v", ok, got)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(*tc.want, got); diff != "" {
				t.Error(diff)
			}
			if again := string(AppendLogLine(nil, got)); again != tc.line+"\n" {
				t.Errorf("written again it is %q", again)
			}
		})
	}
}
