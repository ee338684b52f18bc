// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithoutRules(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"rules go at every depth, the rest stays": {
			in: `spec:
  versions:
  - schema:
      type: object
      properties:
        a:
          type: string
          x-kubernetes-validations:
          - rule: self != ""
      x-kubernetes-validations:
      - rule: has(self.a)
      x-kubernetes-preserve-unknown-fields: true
`,
			want: `---
spec:
  versions:
  - schema:
      properties:
        a:
          type: string
      type: object
      x-kubernetes-preserve-unknown-fields: true
`,
		},
		"a field named like the keyword stays, its rules go": {
			in: `properties:
  x-kubernetes-validations:
    type: object
    x-kubernetes-validations: []
`,
			want: `---
properties:
  x-kubernetes-validations:
    type: object
`,
		},
		"a field named properties holds fields, not schemas, only one level down": {
			in: `properties:
  properties:
    type: object
    x-kubernetes-validations: []
`,
			want: `---
properties:
  properties:
    type: object
`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := withoutRules([]byte(tc.in))
			if err != nil {
				t.Fatalf("withoutRules: %v", err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("unexpected document (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunRemovesStaleCopies(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "kept.yaml"), "a: 1\n")
	write(t, filepath.Join(to, "stale.yaml"), "a: 1\n")
	if err := run([]string{from, to}); err != nil {
		t.Fatalf("run: %v", err)
	}
	got, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(to, "kept.yaml")}, got); diff != "" {
		t.Errorf("unexpected files (-want +got):\n%s", diff)
	}
}

func TestRunRefusesAnEmptyFolder(t *testing.T) {
	if err := run([]string{t.TempDir(), t.TempDir()}); err == nil {
		t.Error("run on an empty folder: want an error, got none")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
