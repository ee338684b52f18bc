// SPDX-License-Identifier: Apache-2.0

// Package audit counts what clients asked of the API server, by its audit log.
package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Log is the API server's audit log. The API server writes a line before it answers, so a call whose answer was seen
// stands in it.
type Log struct{ path string }

// Open returns the log at a path.
func Open(path string) Log { return Log{path} }

// Mark is a place in the log.
type Mark int64

// Now is the place where the next line will stand.
func (l Log) Now() (Mark, error) {
	info, err := os.Stat(l.path)
	if err != nil {
		return 0, fmt.Errorf("find the end of the audit log: %w", err)
	}
	return Mark(info.Size()), nil
}

// Call says what kind of change was made.
type Call struct {
	// Client is the beginning of the user agent, up to the first slash.
	Client string
	// Verb is the verb of the API, such as patch.
	Verb string
	// Resource is the plural, with the subresource after a slash.
	Resource string
	// Refused says that nothing was changed: the answer was an error.
	Refused bool
}

// Calls are numbers of calls by kind.
type Calls map[Call]int

// Sum is the number of calls of a client; of one resource, if one is given.
func (c Calls) Sum(client, resource string) int {
	n := 0
	for call, count := range c {
		if call.Client == client && (resource == "" || call.Resource == resource) {
			n += count
		}
	}
	return n
}

// Writes counts the changes since a mark, those that were refused too. Events are counted as any other.
func (l Log) Writes(since Mark) (Calls, error) {
	file, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from
	if _, err := file.Seek(int64(since), io.SeekStart); err != nil {
		return nil, err
	}
	calls, err := countWrites(file)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return calls, nil
}

// countWrites reads whole lines. The last one may still be being written.
func countWrites(r io.Reader) (Calls, error) {
	calls := Calls{}
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return calls, nil
		}
		if err != nil {
			return nil, err
		}
		var entry struct {
			Verb      string `json:"verb"`
			UserAgent string `json:"userAgent"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, err
		}
		switch entry.Verb {
		case "create", "update", "patch", "delete", "deletecollection":
		default:
			continue
		}
		client, _, _ := strings.Cut(entry.UserAgent, "/")
		resource := entry.ObjectRef.Resource
		if entry.ObjectRef.Subresource != "" {
			resource += "/" + entry.ObjectRef.Subresource
		}
		calls[Call{Client: client, Verb: entry.Verb, Resource: resource, Refused: entry.ResponseStatus.Code >= 400}]++
	}
}
