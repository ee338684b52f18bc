// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// good is a bill as the generator writes it, shortened.
const good = `{
  "bomFormat": "CycloneDX",
  "specVersion": "1.6",
  "metadata": {
    "component": {
      "bom-ref": "pkg:golang/example.com/m@v1.0.0?type=module#cmd/x",
      "name": "example.com/m",
      "version": "v1.0.0",
      "purl": "pkg:golang/example.com/m@v1.0.0?goarch=amd64&goos=linux&type=module#cmd/x"
    },
    "properties": [{"name": "cdx:gomod:binary:hash:SHA-256", "value": "ab12"}]
  },
  "components": [
    {"bom-ref": "ref-a", "name": "example.com/a", "version": "v1.1.0", "purl": "pkg:golang/example.com/a@v1.1.0?type=module"},
    {"bom-ref": "ref-fork", "name": "example.com/fork", "version": "v2.0.0", "purl": "pkg:golang/example.com/fork@v2.0.0?type=module"},
    {"bom-ref": "ref-std", "name": "std", "version": "go1.26.0", "purl": "pkg:golang/std@go1.26.0?type=module"}
  ],
  "dependencies": [{"ref": "pkg:golang/example.com/m@v1.0.0?type=module#cmd/x", "dependsOn": ["ref-a", "ref-fork"]}]
}`

func testBinary() binary {
	return binary{version: "v1.0.0", hash: "ab12", info: &debug.BuildInfo{
		GoVersion: "go1.26.0", Path: "example.com/m/cmd/x", Main: debug.Module{Path: "example.com/m", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: "example.com/a", Version: "v1.1.0"},
			{Path: "example.com/b", Version: "v1.2.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v2.0.0"}},
		},
	}}
}

func TestABillIsThatOfItsBinaryAlone(t *testing.T) {
	tests := map[string]struct {
		old, replacement string // in the good bill
		want             string // the problems
	}{
		"as it is written":         {},
		"another format":           {`"1.6"`, `"1.5"`, `the format is "CycloneDX 1.5", not "CycloneDX 1.6"`},
		"another version of ours":  {`"version": "v1.0.0"`, `"version": "v1.0.1"`, `the version is "v1.0.1", not "v1.0.0"`},
		"the bill of our other":    {`type=module#cmd/x",` + "\n      \"name\"", `type=module#cmd/y",` + "\n      \"name\"", "nothing relates ref-a; nothing relates ref-fork"},
		"the URL of our other":     {`linux&type=module#cmd/x`, `linux&type=module#cmd/y`, `the program is "example.com/m/cmd/y", not "example.com/m/cmd/x"`},
		"made of another file":     {`"ab12"`, `"ab13"`, `the file's SHA-256 is "ab13", not "ab12"`},
		"without the file's hash":  {`SHA-256`, `SHA-1`, "it has no cdx:gomod:binary:hash:SHA-256"},
		"a module in an old state": {`"version": "v1.1.0"`, `"version": "v1.0.9"`, `example.com/a has the URL "pkg:golang/example.com/a@v1.1.0?type=module"; it names example.com/a v1.0.9, which isn't there; nothing names example.com/a v1.1.0`},
		"a module's URL is off":    {`golang/example.com/a@v1.1.0`, `golang/example.com/b@v1.1.0`, `example.com/a has the URL "pkg:golang/example.com/b@v1.1.0?type=module"`},
		"another Go":               {`"go1.26.0", "purl": "pkg:golang/std@go1.26.0?`, `"go1.25.0", "purl": "pkg:golang/std@go1.25.0?`, "it names std go1.25.0, which isn't there; nothing names std go1.26.0"},
		"a module isn't related":   {`["ref-a", "ref-fork"]`, `["ref-a"]`, "nothing relates ref-fork"},
		"a relation to nothing":    {`["ref-a", "ref-fork"]`, `["ref-a", "ref-fork", "ref-c"]`, "it relates ref-c, which isn't there"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.old != "" && strings.Count(good, tc.old) != 1 {
				t.Fatalf("%q is there %d times, want once", tc.old, strings.Count(good, tc.old))
			}
			var b bill
			if err := json.Unmarshal([]byte(strings.Replace(good, tc.old, tc.replacement, 1)), &b); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(check(b, testBinary()), "; "); got != tc.want {
				t.Errorf("problems:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

// This test is a binary too, of other modules.
func TestTheBillOfAnotherBinaryIsRefused(t *testing.T) {
	name := t.TempDir() + "/bill.json"
	if err := os.WriteFile(name, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	err = run([]string{self, name, "v1.0.0"})
	if err == nil || !strings.Contains(err.Error(), "it names example.com/a v1.1.0") || !strings.Contains(err.Error(), "fix: make sbom") {
		t.Errorf("got %v, want that example.com/a isn't there", err)
	}
}
