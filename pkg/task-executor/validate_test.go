// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"fmt"
	"strings"
	"testing"
)

func TestValidateSet(t *testing.T) {
	run := Process{Command: []string{"true"}}
	many := make([]Task, MaxTasks+1)
	for i := range many {
		many[i] = Task{Name: fmt.Sprint("t", i), Process: run}
	}
	cases := map[string]struct {
		tasks   []Task
		wantErr string // empty: valid
	}{
		"the empty set stops everything":      {tasks: []Task{}},
		"a plain task":                        {tasks: []Task{{Name: "a", Process: run}}},
		"dots within a name":                  {tasks: []Task{{Name: "..a", Process: run}, {Name: "a.b", Process: run}}},
		"a name of 253 bytes":                 {tasks: []Task{{Name: strings.Repeat("n", 253), Process: run}}},
		"as many tasks as fit":                {tasks: many[1:]},
		"one task too many":                   {tasks: many, wantErr: "at most 64"},
		"a name of 254 bytes":                 {tasks: []Task{{Name: strings.Repeat("n", 254), Process: run}}, wantErr: "at most 253"},
		"no name":                             {tasks: []Task{{Process: run}}, wantErr: "must not be empty"},
		"dots alone":                          {tasks: []Task{{Name: "..", Process: run}}, wantErr: "dots alone"},
		"a slash":                             {tasks: []Task{{Name: "../a", Process: run}}, wantErr: "slash"},
		"a backslash":                         {tasks: []Task{{Name: `a\b`, Process: run}}, wantErr: "slash"},
		"a newline":                           {tasks: []Task{{Name: "a\nb", Process: run}}, wantErr: "control"},
		"a character that turns text":         {tasks: []Task{{Name: "a\u202eb", Process: run}}, wantErr: "control"},
		"no UTF-8":                            {tasks: []Task{{Name: "a\xff", Process: run}}, wantErr: "UTF-8"},
		"a name twice":                        {tasks: []Task{{Name: "a", Process: run}, {Name: "a", Process: run}}, wantErr: "twice"},
		"no command":                          {tasks: []Task{{Name: "a"}}, wantErr: "command"},
		"an empty program":                    {tasks: []Task{{Name: "a", Process: Process{Command: []string{""}}}}, wantErr: "command"},
		"a negative timeout":                  {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, TimeoutSeconds: -1}}}, wantErr: "timeoutSeconds"},
		"a timeout no duration holds":         {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, TimeoutSeconds: 1 << 62}}}, wantErr: "timeoutSeconds"},
		"a zero byte in an argument":          {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, Args: []string{"a\x00"}}}}, wantErr: "zero byte"},
		"a zero byte in the working dir":      {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, WorkingDir: "\x00"}}}, wantErr: "zero byte"},
		"an environment name with an equals":  {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, Env: []EnvVar{{Name: "A=B"}}}}}, wantErr: "env[0]"},
		"an environment entry without a name": {tasks: []Task{{Name: "a", Process: Process{Command: []string{"x"}, Env: []EnvVar{{Value: "v"}}}}}, wantErr: "env[0]"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := ValidateSet(tc.tasks)
			switch {
			case tc.wantErr == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.wantErr != "" && err == nil:
				t.Errorf("taken, want an error with %q", tc.wantErr)
			case tc.wantErr != "" && !strings.Contains(err.Error(), tc.wantErr):
				t.Errorf("error %q, want one with %q", err, tc.wantErr)
			}
		})
	}
}
