// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheLastNodePutsTheHostBack(t *testing.T) {
	root := t.TempDir()
	h := host{file: filepath.Join(root, "record.json"), lock: root, sysctl: filepath.Join(root, "sys")}
	setting := filepath.Join(h.sysctl, sysctls[0])
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, wantDir bool, wantSetting string) {
		t.Helper()
		if got := exists(filepath.Join(root, "lib", "kubelet")); got != wantDir {
			t.Errorf("%s: mount point exists %v, want %v", when, got, wantDir)
		}
		got, err := os.ReadFile(setting)
		if err != nil || string(got) != wantSetting {
			t.Errorf("%s: setting is %q (%v), want %q", when, got, err, wantSetting)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(setting, "0")
	write(filepath.Join(root, "log", "keep", "file"), "someone's")
	points := []string{filepath.Join(root, "lib", "kubelet"), filepath.Join(root, "lib", "cni"), filepath.Join(root, "log", "pods"), filepath.Join(root, "log", "keep")}

	must(h.leave("never-joined"))
	must(h.join("a", points))
	write(setting, "1") // a's kubelet
	must(h.join("b", points))
	must(h.join("a", points)) // again, after a crash
	must(h.leave("a"))
	check("while b is up", true, "1")
	must(h.leave("never-joined"))
	check("after a stranger left", true, "1")
	must(h.leave("b"))
	check("after the last", false, "0")
	for path, want := range map[string]bool{"lib": false, "log/pods": false, "log/keep/file": true, "record.json": false} {
		if got := exists(filepath.Join(root, path)); got != want {
			t.Errorf("%s exists %v, want %v", path, got, want)
		}
	}
	write(setting, "5")
	must(h.leave("b")) // `down` twice
	check("after leaving twice", false, "5")
}
