// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/task-executor/procfs"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closed by some tests themselves
	return s
}

func record(name string) Record {
	return Record{
		Version: recordVersion, Name: name, Marker: "m." + name,
		Process: &taskexecutor.Process{Command: []string{"sleep", "1"}, Env: []taskexecutor.EnvVar{{Name: "A", Value: "b"}}},
		Start:   &Start{ID: procfs.ID{PID: 42, Start: 99}, Boot: "boot", At: time.Unix(1700000000, 5).UTC()},
		End:     &taskexecutor.Terminated{ExitCode: 3, Reason: taskexecutor.ReasonNonZeroExit, FinishedAt: time.Unix(1700000001, 0).UTC()},
	}
}

func TestSaveLoadRemove(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	long := strings.Repeat("n", taskexecutor.MaxNameBytes)
	begun := record("b")
	begun.Start, begun.End = nil, nil
	for _, r := range []Record{begun, record(".hidden"), record(long), record("a")} {
		if err := s.Save(r); err != nil {
			t.Fatal(err)
		}
	}
	changed := record("b")
	if err := s.Save(changed); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Remove("a"), s.Remove("never there"), s.Close()); err != nil {
		t.Fatal(err)
	}

	again := open(t, dir)
	got, err := again.Load()
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{record(".hidden"), changed, record(long)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again.ID() != s.ID() || s.ID() == "" {
		t.Errorf("id %q in the second life, %q in the first", again.ID(), s.ID())
	}
}

func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
}

func TestSaveRefusesNamesThatArePaths(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", "..", "a/b", "../../etc"} {
		if err := s.Save(record(name)); err == nil {
			t.Errorf("saved a record named %q", name)
		}
	}
}

func TestLoadSetsAsideWhatItCannotRead(t *testing.T) {
	good, err := json.Marshal(record("a"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]func(path string) error{
		"cut off":         func(path string) error { return os.WriteFile(path, good[:len(good)/2], 0o600) },
		"empty":           func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"another version": func(path string) error { return os.WriteFile(path, []byte(`{"version":2,"name":"a"}`), 0o600) },
		"another name":    func(path string) error { return os.WriteFile(path, []byte(`{"version":1,"name":"b"}`), 0o600) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":          func(path string) error { return os.Symlink("/dev/zero", path) },
		"too large":       func(path string) error { return os.WriteFile(path, make([]byte, maxRecordBytes+1), 0o600) },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if err := s.Save(record("a")); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(s.TaskDir("a"), recordFile)
			if err := errors.Join(os.Remove(path), spoil(path)); err != nil {
				t.Fatal(err)
			}
			got, err := s.Load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]Record{{Version: recordVersion, Name: "a"}}, got); diff != "" {
				t.Errorf("the name must stay known (-want +got):\n%s", diff)
			}
			if _, err := os.Lstat(path + corruptSuffix); err != nil {
				t.Errorf("not set aside: %v", err)
			}
		})
	}
}

// An executor that is killed while it writes the first record of a task leaves a directory, and perhaps half a record that no
// one reads. The task never began: it must be free to begin.
func TestATaskWhoseFirstRecordWasNotFinishedIsNotKnown(t *testing.T) {
	for name, files := range map[string][]string{
		"before the file was made": nil,
		"before it had its name":   {recordFile + tempSuffix},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if err := os.Mkdir(s.TaskDir("a"), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if err := os.WriteFile(filepath.Join(s.TaskDir("a"), file), []byte(`{"ver`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := s.Load(); err != nil || len(got) > 0 {
				t.Errorf("records %v, %v, want none", got, err)
			}
			if _, err := os.Lstat(s.TaskDir("a")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its directory is still there: %v", err)
			}
		})
	}
}

// A record that was set aside in an earlier life, which then ended before it could write what is known instead.
func TestATaskWhoseRecordWasSetAsideStaysKnown(t *testing.T) {
	s := open(t, t.TempDir())
	if err := os.Mkdir(s.TaskDir("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.TaskDir("a"), recordFile+corruptSuffix), []byte(`{"ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load()
	if diff := cmp.Diff([]Record{{Version: recordVersion, Name: "a"}}, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestLoadIgnoresAndClearsStrangers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, name := range []string{"removed-x/deep", "t-...", "lost+found"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "t-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load()
	if err != nil || len(got) != 0 {
		t.Errorf("records %v, error %v, want none", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "removed-x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftovers are still there: %v", err)
	}
}

// FuzzParseRecord: whatever stands in a record, reading it ends in a record of that name that is whole, or in an error.
func FuzzParseRecord(f *testing.F) {
	whole, err := json.Marshal(record("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"version":1,"name":"a","process":{"command":["x"]}}`))
	f.Add([]byte(`{"version":1,"name":"a","start":{"pid":-1}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data, "a")
		if err != nil {
			return
		}
		if r.Name != "a" || r.Version != recordVersion || (r.Process == nil && r.End == nil) {
			t.Fatalf("took %+v", r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseRecord(again, "a")
		if err != nil {
			t.Fatal(err)
		}
		third, err := json.Marshal(back)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(again), string(third)); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}
