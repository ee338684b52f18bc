// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"strings"
	"unicode/utf8"
)

// Lengths, in bytes, to which strings from an executor are cut: root in a sandbox can take the executor's port and
// answer what it likes, and these strings reach the status of an object.
const (
	maxReasonBytes   = 128
	maxMessageBytes  = 1 << 10
	maxRevisionBytes = 128
)

// sanitize returns tasks with every string that may reach an object's status stripped of control characters and cut.
// Names are left alone: the caller compares them with those it chose.
func sanitize(tasks []Task) []Task {
	for i := range tasks {
		status := tasks[i].ProcessStatus
		if status == nil {
			continue
		}
		if w := status.Waiting; w != nil {
			w.Reason, w.Message = oneLine(w.Reason, maxReasonBytes), oneLine(w.Message, maxMessageBytes)
		}
		if t := status.Terminated; t != nil {
			t.Reason, t.Message = oneLine(t.Reason, maxReasonBytes), oneLine(t.Message, maxMessageBytes)
			t.Output = cutHead(stripInvisible(t.Output, "\n\t"), MaxOutputBytes)
		}
	}
	return tasks
}

// oneLine strips every control character and keeps the first limit bytes.
func oneLine(s string, limit int) string {
	return cutTail(stripInvisible(s, ""), limit)
}

// stripInvisible drops control and formatting characters but those in keep, and what isn't UTF-8.
func stripInvisible(s, keep string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(keep, r) {
			return r
		}
		if isInvisible(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}

// cutTail keeps at most the first limit bytes, whole characters only.
func cutTail(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// cutHead keeps at most the last limit bytes, whole characters only.
func cutHead(s string, limit int) string {
	from := len(s) - limit
	if from <= 0 {
		return s
	}
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return s[from:]
}
