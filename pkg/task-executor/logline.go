// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import "bytes"

// The streams of the daemon's standard output.
const (
	StdoutStream = "stdout"
	StderrStream = "stderr"
	// EndStream has one line for each run, when its main process has ended: everything that was written until then stands above it.
	// Children that the process left behind may write more.
	EndStream = "end"
)

// LogLine is a line of the daemon's standard output, which the log of its container has among others:
// "task=NAME stream=STREAM | TEXT".
type LogLine struct {
	Task   string
	Stream string
	Text   []byte
}

// The parts of a line.
var (
	logTask   = []byte("task=")
	logStream = []byte(" stream=")
	logText   = []byte(" | ")
)

// AppendLogLine appends a line with its end to buf.
func AppendLogLine(buf []byte, l LogLine) []byte {
	buf = append(append(buf, logTask...), l.Task...)
	buf = append(append(buf, logStream...), l.Stream...)
	buf = append(append(buf, logText...), l.Text...)
	return append(buf, '\n')
}

// ParseLogLine reads a line without its end. Other lines of the log are none. Text is a part of line.
func ParseLogLine(line []byte) (LogLine, bool) {
	rest, ok := bytes.CutPrefix(line, logTask)
	if !ok {
		return LogLine{}, false
	}
	task, rest, ok := bytes.Cut(rest, logStream)
	if !ok {
		return LogLine{}, false
	}
	stream, text, ok := bytes.Cut(rest, logText)
	if !ok {
		return LogLine{}, false
	}
	return LogLine{Task: string(task), Stream: string(stream), Text: text}, true
}
