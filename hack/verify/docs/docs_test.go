// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestNamedPaths(t *testing.T) {
	tests := map[string]struct {
		text string
		want []namedPath
	}{
		"in a sentence":                 {text: "See docs/architecture.md.", want: []namedPath{{1, "docs/architecture.md"}}},
		"in backquotes, second line":    {text: "\n`hack/tools`", want: []namedPath{{2, "hack/tools"}}},
		"a Go pattern is its folder":    {text: "go test ./internal/scheduler/...", want: []namedPath{{1, "internal/scheduler"}}},
		"a variable leaves the folder":  {text: "config/samples/$name", want: []namedPath{{1, "config/samples"}}},
		"inside another path":           {text: "k8s.io/api/core/v1 and /api/v1/pods and https://x.io/docs/a", want: nil},
		"two with a comma between them": {text: "api/v1alpha1,cmd/controller", want: []namedPath{{1, "api/v1alpha1"}}},
		"a link of Markdown":            {text: "[x](docs/adr/0001-x.md)", want: []namedPath{{1, "docs/adr/0001-x.md"}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, namedPaths(tc.text), cmp.AllowUnexported(namedPath{})); diff != "" {
				t.Errorf("unexpected paths (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExists(t *testing.T) {
	root := fstest.MapFS{
		"config/crd/a.yaml":        {},
		"config/rbac/b.yaml":       {},
		"hack/x/test/data.txt":     {},
		"hack/verify/verify-a.sh":  {},
		"internal/scheduler/x.go":  {},
		"internal/scheduler/y.txt": {},
	}
	tests := map[string]struct {
		path string
		want bool
	}{
		"a folder":                         {"config/crd", true},
		"a file":                           {"config/crd/a.yaml", true},
		"nothing":                          {"config/none", false},
		"braces, all there":                {"config/{crd,rbac}", true},
		"braces, one missing":              {"config/{crd,none}", false},
		"a star":                           {"config/*/b.yaml", true},
		"from the naming file's folder":    {"test/data.txt", true},
		"capitals stand for any text":      {"hack/verify/verify-NAME.sh", true},
		"capitals that match nothing":      {"hack/verify/none-NAME.sh", false},
		"a name in a package":              {"internal/scheduler.Allocate", true},
		"a name in a package that is gone": {"internal/none.Allocate", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := exists(root, "hack/x", tc.path); got != tc.want {
				t.Errorf("exists(%q) = %t, want %t", tc.path, got, tc.want)
			}
		})
	}
}

func TestProseOfCode(t *testing.T) {
	goSource := "package a\n\n// See docs/a.md\nvar x = \"docs/b.md\" /* and\n docs/c.md */\n"
	want := []namedPath{{3, "docs/a.md"}, {5, "docs/c.md"}}
	if diff := cmp.Diff(want, namedPaths(proseOf("a.go")([]byte(goSource))), cmp.AllowUnexported(namedPath{})); diff != "" {
		t.Errorf("unexpected paths in Go comments (-want +got):\n%s", diff)
	}
	script := "# See docs/a.md\ncat docs/b.md # not docs/c.md\n"
	want = []namedPath{{1, "docs/a.md"}, {2, "docs/c.md"}}
	if diff := cmp.Diff(want, namedPaths(proseOf("a.sh")([]byte(script))), cmp.AllowUnexported(namedPath{})); diff != "" {
		t.Errorf("unexpected paths in shell comments (-want +got):\n%s", diff)
	}
}

func TestCheckShown(t *testing.T) {
	for name, tc := range map[string]struct {
		document     string
		wantProblems int
	}{
		"a file":             {"- text\n  ```yaml\n  a: 1\n  ```\n", 0},
		"what is no file":    {"```yaml\na: 1\n```\n```yaml\na: 2\n```\n", 1},
		"a file of the rest": {"```yaml\nb: 1\n```\n", 1},
		"nothing":            {"```bash\nmake\n```\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{
				"docs/a.md": {Data: []byte(tc.document)}, "config/x/a.yaml": {Data: []byte("a: 1\n")}, "config/y/b.yaml": {Data: []byte("b: 1\n")},
			}
			problems, err := checkShown(root, "docs/a.md", "config/x")
			if err != nil || len(problems) != tc.wantProblems {
				t.Errorf("problems %q, %v, want %d", problems, err, tc.wantProblems)
			}
		})
	}
}

func TestCheckReadmes(t *testing.T) {
	const yaml = "```yaml\n# a comment\na: 1\n```\n"
	tests := map[string]struct {
		first, second string
		wantProblems  int
	}{
		"equal, and a sample":             {yaml, "```yaml\n# 注释\na: 1\n```\n", 0},
		"YAML that is no sample, in both": {"```yaml\na: 2\n```", "```yaml\na: 2\n```", 2},
		"a block missing in one":          {yaml + "```bash\nmake\n```\n", yaml, 1},
		"different commands":              {"```bash\nmake a\n```", "```bash\nmake b\n```", 1},
		"different prose":                 {"```text\none\n```", "```text\n一\n```", 0},
		"indented in a list":              {"  ```yaml\n  a: 1\n  ```\n", yaml, 0},
		"an unclosed block":               {"```yaml\na: 1\n", yaml, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{
				"README.md":             {Data: []byte(tc.first)},
				"README-ZH.md":          {Data: []byte(tc.second)},
				"config/samples/a.yaml": {Data: []byte("a: 1\n")},
			}
			problems, err := checkReadmes(root)
			if err != nil {
				t.Fatalf("checkReadmes: %v", err)
			}
			if len(problems) != tc.wantProblems {
				t.Errorf("got %d problems, want %d: %q", len(problems), tc.wantProblems, problems)
			}
		})
	}
}
