// SPDX-License-Identifier: Apache-2.0

package tasklog

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// openAgain is the pause before a log that was not there is opened again, which grows to openAgainMax.
	openAgain    = 100 * time.Millisecond
	openAgainMax = 2 * time.Second

	// quiet is how long a log must say nothing more to be taken for complete, after its task ended and where no end of the output stands in
	// it: task-executors before this one wrote none, and one whose log nobody takes drops lines.
	quiet = 3 * time.Second
	// drain is after how long it is taken for complete though it goes on, as that of a task whose children write for ever.
	drain = 30 * time.Second
)

// Follower reads the output of one index while it is written, over all tries, pods and broken connections.
type Follower struct {
	Source Source
	States *States
	Clock  clock.WithTicker
	Index  int
	// Emit takes each line once, in order.
	Emit func(Line)

	pod       string
	last      time.Time // of the lines of this pod
	atLast    int       // lines of that time
	endedTry  int       // the output of this try is complete
	openPause time.Duration
}

// Follow returns when the task ended for good and its output was read. It is complete unless its end is lost with its pod.
// Only a refusal or the end of ctx is an error before.
func (f *Follower) Follow(ctx context.Context) (complete bool, err error) {
	for {
		state, changed := f.States.Get()
		over := state.Gone || state.Ended(f.Index)
		pod, err := f.find(ctx, state)
		if err == nil && pod != "" {
			f.turnTo(pod)
			complete, err = f.read(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case complete:
			return true, nil
		case over && errors.Is(err, errNotYet):
			return false, nil
		case over || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
			return false, err
		}
		if err := f.wait(ctx, changed); err != nil {
			return false, err
		}
	}
}

// find returns the pod to read from. A pod without an address has no log yet.
func (f *Follower) find(ctx context.Context, state *State) (string, error) {
	if state.Batch.Spec.PoolRef != "" {
		return state.pooledPod(f.Index), nil
	}
	if state.endpoint(f.Index) == "" {
		return "", nil
	}
	return f.Source.PodOf(ctx, state.Batch, f.Index)
}

// turnTo begins with another pod: clocks of nodes differ, so that times are compared within one pod alone.
func (f *Follower) turnTo(pod string) {
	if pod != f.pod {
		f.pod, f.last, f.atLast, f.openPause = pod, time.Time{}, 0, 0
	}
}

// wait waits for a change, or for the next time to look again.
func (f *Follower) wait(ctx context.Context, changed <-chan struct{}) error {
	f.openPause = min(max(2*f.openPause, openAgain), openAgainMax)
	again := f.Clock.NewTimer(f.openPause)
	defer again.Stop()
	select {
	case <-again.C():
	case <-changed:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// read reads the log of the pod until the output is complete, the log ends, or the index has another pod.
func (f *Follower) read(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	options := corev1.PodLogOptions{Follow: true}
	if !f.last.IsZero() {
		options.SinceTime = &metav1.Time{Time: f.last}
	}
	state, _ := f.States.Get()
	stream, err := open(ctx, f.Source, state.Batch.Namespace, f.pod, options)
	if err != nil {
		cancel()
		return false, err
	}
	lines, done := make(chan []byte), make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		_ = scan(stream, func(line []byte) bool { // a log that broke is opened again
			select {
			case lines <- line:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	defer func() {
		cancel()
		_ = stream.Close() // only read from
		<-done
	}()
	return f.take(ctx, lines)
}

// scan hands on whole lines until the end, or until take wants no more. A line that was torn with its connection is none.
func scan(stream io.Reader, take func(line []byte) (more bool)) error {
	r := bufio.NewReaderSize(stream, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !take(line) {
			return nil
		}
	}
}

// take emits lines until there is no need for more.
func (f *Follower) take(ctx context.Context, lines <-chan []byte) (complete bool, err error) {
	pending := &patience{clock: f.Clock}
	defer pending.stop()
	skip := f.atLast
	for {
		state, changed := f.States.Get()
		switch {
		case state.Ended(f.Index) && f.endedTry >= state.Try(f.Index):
			return true, nil
		case state.Gone || state.Ended(f.Index):
			pending.begin()
		case state.Batch.Spec.PoolRef != "" && state.pooledPod(f.Index) != f.pod:
			return false, nil
		}
		select {
		case line, ok := <-lines:
			if !ok {
				return false, ctx.Err()
			}
			if l, ok := state.parse(line, f.Index); ok && !f.wasSeen(l.At, &skip) {
				f.emit(l)
			}
			pending.again()
		case <-changed:
		case <-pending.over():
			return !state.Gone, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// wasSeen finds the lines that an earlier connection to the same pod brought already: those before the last time, and of that time as many as
// were counted.
func (f *Follower) wasSeen(at time.Time, skip *int) bool {
	switch {
	case at.Before(f.last):
		return true
	case at.Equal(f.last) && *skip > 0:
		*skip--
		return true
	case at.Equal(f.last):
		f.atLast++
	default:
		f.last, f.atLast, *skip = at, 1, 0
	}
	return false
}

func (f *Follower) emit(l Line) {
	if l.Stream == taskexecutor.EndStream {
		f.endedTry = max(f.endedTry, l.Try)
	}
	f.Emit(l)
}

// patience is how long to wait for lines after a task ended.
type patience struct {
	clock clock.WithTicker
	until time.Time // at most
	timer clock.Timer
}

// begin begins to lose patience; further calls change nothing.
func (p *patience) begin() {
	if p.timer == nil {
		p.until = p.clock.Now().Add(drain)
		p.timer = p.clock.NewTimer(quiet)
	}
}

// again takes note of a line.
func (p *patience) again() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = p.clock.NewTimer(min(quiet, max(0, p.until.Sub(p.clock.Now()))))
	}
}

// over delivers when there is nothing to wait for.
func (p *patience) over() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C()
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
