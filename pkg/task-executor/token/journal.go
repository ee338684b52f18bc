// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// journalFile has the tokens that were used lately, one per line: the ID, a space, and until when it has to be
	// remembered, in seconds since 1970. journalFile+olderSuffix has those before them.
	journalFile = "used-tokens"
	olderSuffix = ".older"

	// journalTurn is how long one file is written to. No token is good for that long after it was used, so that all those in
	// the older file may be forgotten when the next one becomes the older.
	journalTurn = Lifetime + 4*Leeway

	// maxIDBytes bounds the ID of a token; those that are made have 26 bytes.
	maxIDBytes = 128
)

// journal remembers used tokens beyond the life of the process, at the cost of one write each. It isn't flushed to disk: it
// outlives a process that was killed, not the machine, whose restart takes longer than a token's life.
type journal struct {
	path string

	mu     sync.Mutex // held while the file is written: the writes have an order
	file   *os.File
	torn   bool // the last write failed, perhaps in the middle of a line
	turnAt time.Time
}

func newJournal(dir string, now time.Time) *journal {
	return &journal{path: filepath.Join(dir, journalFile), turnAt: now.Add(journalTurn)}
}

// begin writes down what still has to be remembered, in place of the files there are.
func (j *journal) begin(used map[string]time.Time) error {
	var lines strings.Builder
	for id, until := range used {
		lines.WriteString(lineOf(id, until))
	}
	temp := j.path + ".tmp"
	if err := os.WriteFile(temp, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(temp, j.path); err != nil {
		return err
	}
	if err := os.Remove(j.path + olderSuffix); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func lineOf(id string, until time.Time) string { return fmt.Sprintf("%s %d\n", id, until.Unix()) }

// append adds a line.
func (j *journal) append(id string, until, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.ready(now); err != nil {
		return fmt.Errorf("remember a used token: %w", err)
	}
	line := lineOf(id, until)
	if j.torn {
		line = "\n" + line // else both lines were none
	}
	_, err := j.file.WriteString(line)
	j.torn = err != nil
	if err != nil {
		return fmt.Errorf("remember a used token: %w", err)
	}
	return nil
}

// ready opens the file, a new one when its time has come.
func (j *journal) ready(now time.Time) error {
	if j.file != nil && now.Before(j.turnAt) {
		return nil
	}
	if !now.Before(j.turnAt) {
		if err := j.turn(); err != nil {
			return err
		}
		j.turnAt = now.Add(journalTurn)
	}
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	j.file = f
	return err
}

func (j *journal) turn() error {
	if j.file != nil {
		file := j.file
		j.file = nil
		if err := file.Close(); err != nil {
			return err
		}
	}
	err := os.Rename(j.path, j.path+olderSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readJournal returns the tokens that still have to be remembered. A line that was cut off is of a call that was not let
// through.
func readJournal(dir string, now time.Time) (map[string]time.Time, error) {
	used := map[string]time.Time{}
	for _, name := range []string{journalFile + olderSuffix, journalFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			id, seconds, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			at, err := strconv.ParseInt(seconds, 10, 64)
			if until := time.Unix(at, 0); err == nil && !now.After(until) {
				used[id] = until
			}
		}
	}
	return used, nil
}
