// SPDX-License-Identifier: Apache-2.0

package tasklog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// Printer writes the output of tasks as they wrote it: what went to stderr goes to stderr. Many readers may use it.
type Printer struct {
	Out, ErrOut io.Writer
	// Prefixed puts the index before each line: "[3] ".
	Prefixed bool
	// Timestamps puts the time before each line, as the container runtime noted it.
	Timestamps bool

	mu sync.Mutex
}

// Print writes a line, whole.
func (p *Printer) Print(index int, l Line) {
	out := p.Out
	switch l.Stream {
	case taskexecutor.StdoutStream:
	case taskexecutor.StderrStream:
		out = p.ErrOut
	default:
		return // of the executor
	}
	var buf []byte
	if p.Prefixed {
		buf = append(strconv.AppendInt(append(buf, '['), int64(index), 10), "] "...)
	}
	if p.Timestamps {
		buf = append(l.At.AppendFormat(buf, time.RFC3339Nano), ' ')
	}
	buf = append(append(buf, l.Text...), '\n')
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = out.Write(buf) // nobody to tell
}

// Many follows the output of many indexes.
type Many struct {
	Source Source
	States *States
	Clock  clock.WithTicker
	// Indexes are followed in this order where there are more than AtOnce; the others begin as soon as one is complete.
	Indexes []int
	AtOnce  int
	Emit    func(index int, l Line)
}

// Incomplete is an index whose output could not be read to its end; Err is nil where it is gone with its pod.
type Incomplete struct {
	Index int
	Err   error
}

// Follow returns when all are read, with those that are not complete in order.
func (m Many) Follow(ctx context.Context) []Incomplete {
	results := make([]*Incomplete, len(m.Indexes))
	turns := make(chan struct{}, m.AtOnce)
	var readers sync.WaitGroup
	for i, index := range m.Indexes {
		turns <- struct{}{}
		readers.Go(func() {
			defer func() { <-turns }()
			f := Follower{Source: m.Source, States: m.States, Clock: m.Clock, Index: index, Emit: func(l Line) { m.Emit(index, l) }}
			if complete, err := f.Follow(ctx); !complete {
				results[i] = &Incomplete{Index: index, Err: err}
			}
		})
	}
	readers.Wait()
	var incomplete []Incomplete
	for _, r := range results {
		if r != nil {
			incomplete = append(incomplete, *r)
		}
	}
	return incomplete
}

// Read returns the output of an index that the log of its pod has now, with the log of the container that ran before if restarted. A
// limit above 0 is to how many lines of the log to look; where they have none of the task, the whole log is read.
func Read(ctx context.Context, s Source, state *State, in ReadInput) ([]Line, error) {
	var lines []Line
	if in.Restarted {
		earlier, err := readLog(ctx, s, state, in, corev1.PodLogOptions{Previous: true})
		if err != nil && !apierrors.IsBadRequest(err) && !errors.Is(err, errNotYet) {
			return nil, err
		}
		lines = earlier
	}
	options := corev1.PodLogOptions{}
	if in.Limit > 0 {
		options.TailLines = &in.Limit
	}
	now, err := readLog(ctx, s, state, in, options)
	if err == nil && len(now) == 0 && in.Limit > 0 {
		now, err = readLog(ctx, s, state, in, corev1.PodLogOptions{})
	}
	if errors.Is(err, errNotYet) {
		err = nil
	}
	return append(lines, now...), err
}

// ReadInput says what to read.
type ReadInput struct {
	Index     int
	Pod       string
	Restarted bool
	Limit     int64
}

func readLog(ctx context.Context, s Source, state *State, in ReadInput, options corev1.PodLogOptions) ([]Line, error) {
	stream, err := open(ctx, s, state.Batch.Namespace, in.Pod, options)
	if err != nil {
		return nil, err
	}
	defer stream.Close() //nolint:errcheck // only read from
	var lines []Line
	err = scan(stream, func(line []byte) bool {
		if l, ok := state.parse(line, in.Index); ok {
			lines = append(lines, l)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read the log of pod %s: %w", in.Pod, err)
	}
	return lines, nil
}

// Restarted is true for a pod whose task-executor, or only container, has a log from before its last restart.
func Restarted(pod *corev1.Pod) bool {
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		if (s.Name == v1alpha1.TaskExecutorContainer || len(pod.Spec.Containers) == 1) && s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// Output returns the lines that a task wrote, without what its executor says of it.
func Output(lines []Line) []Line {
	return slices.DeleteFunc(lines, func(l Line) bool {
		return l.Stream != taskexecutor.StdoutStream && l.Stream != taskexecutor.StderrStream
	})
}

// ExitCode returns the exit code that the executor wrote below the output of a run, if it is among the lines.
func ExitCode(lines []Line) (int32, bool) {
	for _, l := range slices.Backward(lines) {
		if l.Stream != taskexecutor.EndStream {
			continue
		}
		_, text, _ := strings.Cut(string(l.Text), "exitCode=")
		code, err := strconv.ParseInt(text, 10, 32)
		return int32(code), err == nil
	}
	return 0, false
}
