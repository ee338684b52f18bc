// SPDX-License-Identifier: Apache-2.0

// Package store keeps what must outlive the executor's process: which tasks it was given, which processes it started for
// them, and how they ended.
//
// Every task has a directory t-<name>, which holds record.json and the files of its output. A record appears by rename,
// so that a reader finds the old one or the new one. A record that can't be read is set aside as record.json.corrupt; its
// task is still known by the name of the directory, and is never run a second time. A directory that never had a record is
// that of a task that never began: its first record was being written when the executor ended.
package store

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	recordVersion = 1
	recordFile    = "record.json"
	idFile        = "id"
	lockFile      = "lock"
	taskPrefix    = "t-"
	removedPrefix = "removed-"
	corruptSuffix = ".corrupt"
	tempSuffix    = ".tmp"

	// maxRecordBytes bounds a record: a task is at most a request's body, and encoding it may double that.
	maxRecordBytes = 4 << 20
)

// ErrInUse says that another executor uses the directory.
var ErrInUse = errors.New("another executor uses this data directory")

// Record is what is kept of one task.
type Record struct {
	Version int `json:"version"`
	// Name is the task's name.
	Name string `json:"name"`
	// Process is what was asked for; nil when the record of it was lost.
	Process *taskexecutor.Process `json:"process,omitempty"`
	// Marker is what the task's processes are recognised by.
	Marker string `json:"marker,omitempty"`
	// Start is set before the command is executed.
	Start *Start `json:"start,omitempty"`
	// End is set once the run has ended. It never changes after that.
	End *taskexecutor.Terminated `json:"end,omitempty"`
}

// Start is the start of a main process.
type Start struct {
	procfs.ID
	// Boot is the machine's start in which the process lived: start times count from it.
	Boot string    `json:"boot"`
	At   time.Time `json:"at"`
}

// Store is a data directory in use by this process alone.
type Store struct {
	dir  string
	id   string
	lock *os.File
	log  *slog.Logger
}

// Open makes the directory dir if it isn't there, and takes it for this process. The error is ErrInUse when another
// process has it.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	s := &Store{dir: dir, lock: lock, log: log}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("lock data directory %s: %w", dir, err), lock.Close())
	}
	if err := s.readID(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// Close gives the directory back.
func (s *Store) Close() error { return s.lock.Close() }

// ID names the data directory; it is the same in every life of the executor.
func (s *Store) ID() string { return s.id }

func (s *Store) readID() error {
	path := filepath.Join(s.dir, idFile)
	data, err := os.ReadFile(path)
	if err == nil && len(data) > 0 {
		s.id = string(data)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read id of data directory: %w", err)
	}
	s.id = rand.Text()
	if err := writeFile(path, []byte(s.id)); err != nil {
		return fmt.Errorf("write id of data directory: %w", err)
	}
	return nil
}

// TaskDir returns the directory of a task, which Save makes.
func (s *Store) TaskDir(name string) string { return filepath.Join(s.dir, taskPrefix+name) }

// Save keeps a record in place of the one before.
func (s *Store) Save(r Record) error {
	if err := taskexecutor.ValidateName(r.Name); err != nil {
		return fmt.Errorf("save record: %w", err) // it would be a path of somewhere else
	}
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of %q: %w", r.Name, err)
	}
	dir := s.TaskDir(r.Name)
	if err := s.makeDir(dir); err != nil {
		return fmt.Errorf("make directory of %q: %w", r.Name, err)
	}
	if err := writeFile(filepath.Join(dir, recordFile), data); err != nil {
		return fmt.Errorf("write record of %q: %w", r.Name, err)
	}
	return nil
}

// makeDir makes a task's directory, so that it outlives the machine. One that is there was made so.
func (s *Store) makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return nil
}

// Remove forgets a task. Its directory leaves its name first, so that a half removed one is never read as a task.
func (s *Store) Remove(name string) error {
	away := filepath.Join(s.dir, removedPrefix+rand.Text())
	err := os.Rename(s.TaskDir(name), away)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(syncDir(s.dir), os.RemoveAll(away))
	}
	if err != nil {
		return fmt.Errorf("remove record of %q: %w", name, err)
	}
	return nil
}

// Forget drops every record and takes a new ID, so that nothing of the lives before is known any more.
func (s *Store) Forget() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), taskPrefix) && !strings.HasPrefix(entry.Name(), removedPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, entry.Name())); err != nil {
			return fmt.Errorf("forget records: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(s.dir, idFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget id of data directory: %w", err)
	}
	return s.readID()
}

// Load returns all records, sorted by name. A record that can't be read is set aside and told in the log; in its place
// stands one with nothing but the name. Leftovers of an earlier life are removed.
func (s *Store) Load() ([]Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	var records []Record
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), removedPrefix) {
			if err := os.RemoveAll(filepath.Join(s.dir, entry.Name())); err != nil {
				s.log.Warn("could not remove leftovers", "dir", entry.Name(), "err", err)
			}
			continue
		}
		name, ok := strings.CutPrefix(entry.Name(), taskPrefix)
		if !ok || !entry.IsDir() || taskexecutor.ValidateName(name) != nil {
			continue // not of ours
		}
		if !s.hasRecord(name) {
			if err := s.Remove(name); err != nil {
				return nil, err // else its name could be taken for that of a task whose record was lost
			}
			continue
		}
		records = append(records, s.load(name))
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return records, nil
}

// hasRecord reports whether a task has a record, be it one that was set aside. What can't be looked at counts as one.
func (s *Store) hasRecord(name string) bool {
	path := filepath.Join(s.TaskDir(name), recordFile)
	for _, path := range []string{path, path + corruptSuffix} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

func (s *Store) load(name string) Record {
	path := filepath.Join(s.TaskDir(name), recordFile)
	r, err := readRecord(path, name)
	if err == nil {
		return r
	}
	s.log.Error("set aside a record that can't be read", "task", name, "err", err)
	if err := os.Rename(path, path+corruptSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("could not set a record aside", "task", name, "err", err)
	}
	return Record{Version: recordVersion, Name: name}
}

func readRecord(path, name string) (Record, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Record{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecordBytes {
		return Record{}, fmt.Errorf("mode %s, %d bytes: no record of ours", info.Mode(), info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	return parseRecord(data, name)
}

// parseRecord reads a record and checks that it is whole.
func parseRecord(data []byte, name string) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	switch {
	case r.Version != recordVersion:
		return Record{}, fmt.Errorf("record of version %d: this executor reads version %d", r.Version, recordVersion)
	case r.Name != name:
		return Record{}, fmt.Errorf("record of %q in the directory of %q", r.Name, name)
	case r.Process == nil && r.End == nil:
		return Record{}, errors.New("record with neither a process nor an end")
	case r.Process != nil && r.Process.Validate() != nil:
		return Record{}, fmt.Errorf("record with a process that can't be: %w", r.Process.Validate())
	case r.Start != nil && r.Start.PID <= 0:
		return Record{}, fmt.Errorf("record with the PID %d", r.Start.PID)
	}
	return r, nil
}

// writeFile makes a file appear whole or not at all.
func writeFile(path string, data []byte) error {
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
