// SPDX-License-Identifier: Apache-2.0

package results

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/internal/kubectl/tasklog"
	"opensandbox.io/controller/internal/kubectl/tasks"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

func line(try int, stream, text string) tasklog.Line {
	return tasklog.Line{Try: try, LogLine: taskexecutor.LogLine{Stream: stream, Text: []byte(text)}}
}

func TestAddLog(t *testing.T) {
	lines := []tasklog.Line{
		line(1, "stdout", "first try"), line(1, "end", "reason=NonZeroExit exitCode=9"),
		line(2, "stdout", "a"), line(2, "stderr", "b"), line(2, "end", "reason=NonZeroExit exitCode=3"),
	}
	for name, tc := range map[string]struct {
		task, want tasks.Task
	}{
		"the last try's lines and exit code are added": {
			tasks.Task{State: tasks.Failed, Tries: 2}, tasks.Task{State: tasks.Failed, Tries: 2, ExitCode: ptr.To(int32(3)), Output: "a\nb"},
		},
		"what the status has stays": {
			tasks.Task{State: tasks.Failed, Tries: 2, ExitCode: ptr.To(int32(4)), Output: "known"},
			tasks.Task{State: tasks.Failed, Tries: 2, ExitCode: ptr.To(int32(4)), Output: "known"},
		},
		"a try that runs has no exit code": {
			tasks.Task{State: tasks.Running, Tries: 3}, tasks.Task{State: tasks.Running, Tries: 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			addLog(&tc.task, lines)
			if diff := cmp.Diff(tc.want, tc.task); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRows(t *testing.T) {
	got := rows([]tasks.Task{
		{Index: 0, State: tasks.Succeeded, ExitCode: ptr.To(int32(0)), Tries: 1, Pod: "p", Output: "first\nlast\n"},
		{Index: 1, State: tasks.Failed, Reason: "SandboxLost", Message: "its pod is gone", Tries: 4, Output: strings.Repeat("ä", 61)},
		{Index: 2, State: tasks.Pending},
	})
	want := [][]any{
		{0, "Succeeded", "0", "", 1, "p", "", "last"},
		{1, "Failed", "", "SandboxLost", 4, "", "its pod is gone", strings.Repeat("ä", 59) + "…"},
		{2, "Pending", "", "", 0, "", "", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, row := range got {
		if len(row) != len(columns) {
			t.Errorf("row %d has %d cells, want %d", i, len(row), len(columns))
		}
	}
}
