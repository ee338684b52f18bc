// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		list    string
		want    []step
		wantErr string
	}{
		"commands, comments and what fails": {
			list: "## for the reader\n\n# first\ntrue\n! false\n",
			want: []step{{comment: "first", command: "true"}, {command: "false", fails: true}},
		},
		"a comment without a command": {
			list:    "true\n# lost\n",
			wantErr: `no command follows the comment "lost"`,
		},
		"a comment after a comment": {
			list:    "# lost\n# kept\ntrue\n",
			wantErr: `no command follows the comment "lost"`,
		},
		"nothing to run": {
			list:    "## nothing\n",
			wantErr: "there is no command",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tc.list)
			if message(err) != tc.wantErr {
				t.Fatalf("error %q, want %q", message(err), tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(step{})); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

// The list that the README's picture is made from.
func TestParseCommands(t *testing.T) {
	list, err := os.ReadFile("commands.txt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(string(list)); err != nil {
		t.Error(err)
	}
}

func TestPlay(t *testing.T) {
	tests := map[string]struct {
		steps   []step
		want    []string // output
		wantErr string
	}{
		"stdout and stderr in their order": {
			steps: []step{{command: "echo a; echo b >&2; echo c"}},
			want:  []string{"a\nb\nc\n"},
		},
		"a command sees the code of the one before": {
			steps: []step{{command: "exit 3", fails: true}, {command: "echo $?"}, {command: "echo $?"}},
			want:  []string{"", "3\n", "0\n"},
		},
		"a command fails unexpectedly": {
			steps:   []step{{command: "exit 3"}, {command: "true"}},
			wantErr: `"exit 3" ended with code 3, which is not what the list of commands expects`,
		},
		"a command succeeds unexpectedly": {
			steps:   []step{{command: "true", fails: true}},
			wantErr: `"true" ended with code 0, which is not what the list of commands expects`,
		},
		"a command is killed": {
			steps:   []step{{command: "kill -9 $$", fails: true}},
			wantErr: `run "kill -9 $$": signal: killed`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			shown, err := play(t.Context(), tc.steps, io.Discard)
			if message(err) != tc.wantErr {
				t.Fatalf("error %q, want %q", message(err), tc.wantErr)
			}
			var got []string
			for _, s := range shown {
				got = append(got, s.output)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// message is the error's, "" where there is none.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
