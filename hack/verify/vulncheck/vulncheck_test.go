// SPDX-License-Identifier: Apache-2.0

// Package vulncheck tests hack/verify/vulncheck.sh with databases of its own.
package vulncheck

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// database is one with a vulnerability of fmt.Println in every Go there ever was.
var database = map[string]string{
	"index/db.json":      `{"modified":"2026-01-01T00:00:00Z"}`,
	"index/modules.json": `[{"path":"stdlib","vulns":[{"id":"GO-2026-9999","modified":"2026-01-01T00:00:00Z"}]}]`,
	"ID/GO-2026-9999.json": `{"schema_version":"1.3.1","id":"GO-2026-9999","modified":"2026-01-01T00:00:00Z","published":"2026-01-01T00:00:00Z",
		"summary":"Printing tells everything","details":"It prints.","database_specific":{"url":"https://example.com/GO-2026-9999"},
		"affected":[{"package":{"name":"stdlib","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],
		"ecosystem_specific":{"imports":[{"path":"fmt","symbols":["Println"]}]}}]}`,
}

// write makes files below a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAVulnerabilityAndACheckThatDidNotHappenAreBothFailures(t *testing.T) {
	known := "file://" + write(t, database)
	tests := map[string]struct {
		database string
		call     string // what the program does with fmt
		wantCode int
		want     string // in the output
	}{
		"calls what is vulnerable":      {known, "fmt.Println()", 1, "GO-2026-9999"},
		"links it and doesn't call it":  {known, "_ = fmt.Sprint()", 0, ""},
		"nothing is known":              {"file://" + write(t, map[string]string{"index/db.json": database["index/db.json"], "index/modules.json": "[]"}), "fmt.Println()", 0, "No vulnerabilities found"},
		"the database can't be read":    {"file://" + t.TempDir() + "/none", "fmt.Println()", 2, "NOTHING WAS CHECKED"},
		"the database can't be reached": {"http://127.0.0.1:1", "fmt.Println()", 2, "NOTHING WAS CHECKED"},
		"the program can't be built":    {known, "nonsense", 2, "NOTHING WAS CHECKED"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{
				"go.mod":        "module example.com/m\n\ngo 1.26.0\n",
				"cmd/x/main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { " + tc.call + " }\n",
			})
			cmd := exec.CommandContext(t.Context(), "../vulncheck.sh", dir)
			cmd.Env = append(os.Environ(), "VULNDB="+tc.database, "GOWORK=off")
			out, err := cmd.CombinedOutput()
			code := 0
			if exit := (&exec.ExitError{}); errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != tc.wantCode || !strings.Contains(string(out), tc.want) {
				t.Errorf("ended with %d, want %d and %q in:\n%s", code, tc.wantCode, tc.want, out)
			}
		})
	}
}
