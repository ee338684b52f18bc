// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestWireJSON pins the JSON of the API: existing clients read exactly this.
func TestWireJSON(t *testing.T) {
	started := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	finished := started.Add(90*time.Second + 250*time.Millisecond)
	process := Process{
		Command:        []string{"/bin/sh", "-c"},
		Args:           []string{"echo $GREETING"},
		Env:            []EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "EMPTY"}},
		WorkingDir:     "/srv",
		TimeoutSeconds: 30,
	}
	cases := map[string]Task{
		"request":         {Name: "u-0-1", Process: process},
		"request-minimal": {Name: "u-0-1", Process: Process{Command: []string{"true"}}},
		"waiting": {Name: "u-0-1", Process: process, ProcessStatus: &ProcessStatus{
			Waiting: &Waiting{Reason: ReasonStarting, Message: "the process is being started"}}},
		"running": {Name: "u-0-1", Process: process, ProcessStatus: &ProcessStatus{Running: &Running{StartedAt: started}}},
		"terminated": {Name: "u-0-1", Process: process, ProcessStatus: &ProcessStatus{Terminated: &Terminated{
			ExitCode: 0, Reason: ReasonCompleted, StartedAt: started, FinishedAt: finished}}},
		"terminated-signal": {Name: "u-0-1", Process: process, ProcessStatus: &ProcessStatus{Terminated: &Terminated{
			ExitCode: 137, Signal: 9, Reason: ReasonTimedOut, Message: "ran longer than 30s", Output: "one\ntwo",
			StartedAt: started, FinishedAt: finished}}},
		"terminated-start-error": {Name: "u-0-1", Process: process, ProcessStatus: &ProcessStatus{Terminated: &Terminated{
			ExitCode: 128, Reason: ReasonStartError, Message: "no such file", FinishedAt: finished}}},
	}
	for name, task := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(task, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("JSON differs from %s (-want +got):\n%s", path, cmp.Diff(string(want), string(got)))
			}
			var back Task
			if err := json.Unmarshal(want, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(task, back); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIsInfrastructureReason(t *testing.T) {
	want := map[string]bool{
		ReasonCompleted: false, ReasonNonZeroExit: false, ReasonTimedOut: false, ReasonCancelled: false,
		ReasonStartError: true, ReasonSandboxLost: true, ReasonExecutorLost: true, "": false,
	}
	for reason, want := range want {
		if got := IsInfrastructureReason(reason); got != want {
			t.Errorf("IsInfrastructureReason(%q) = %v, want %v", reason, got, want)
		}
	}
}
