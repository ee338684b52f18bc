// SPDX-License-Identifier: Apache-2.0

package tasklog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
)

// batch is a pooled batch of one, which holds a pod.
func batch(pod string, status v1alpha1.BatchSandboxStatus) *v1alpha1.BatchSandbox {
	return &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "here", Name: "b", UID: "uid",
			Annotations: map[string]string{v1alpha1.AllocStatusAnnotation: fmt.Sprintf(`{"pods":[%q]}`, pod)},
		},
		Spec:   v1alpha1.BatchSandboxSpec{Replicas: ptr.To(int32(1)), PoolRef: "small", TaskTemplate: &v1alpha1.TaskTemplate{}},
		Status: status,
	}
}

func ended(tries ...v1alpha1.TaskTries) v1alpha1.BatchSandboxStatus {
	return v1alpha1.BatchSandboxStatus{CompletedIndexes: "0", TaskTries: tries}
}

// begin is the time of the first line of a log, each further line comes 400 ms later.
var begin = time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC)

// log writes lines as the kubelet does. A line of "=" has the time of the one before.
func log(lines ...string) string {
	var b strings.Builder
	at := begin
	for i, line := range lines {
		text, same := strings.CutPrefix(line, "=")
		if i > 0 && !same {
			at = at.Add(400 * time.Millisecond)
		}
		fmt.Fprintf(&b, "%s %s\n", at.Format("2006-01-02T15:04:05.000000000Z07:00"), text)
	}
	return b.String()
}

// answer is what opening a log gives: an error, or a text, after which the stream ends, or stays open.
type answer struct {
	err   error
	text  string
	stays bool
}

// fakeSource gives answers by pod, one after the other, and the last again and again.
type fakeSource struct {
	mu      sync.Mutex
	answers map[string][]answer
	opened  int
}

func (s *fakeSource) PodOf(context.Context, *v1alpha1.BatchSandbox, int) (string, error) {
	return "", errors.New("not asked for in a pooled batch")
}

func (s *fakeSource) Open(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	list := s.answers[pod]
	if len(list) == 0 || namespace != "here" || options.Container != "task-executor" || !options.Timestamps || !options.Follow {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, pod)
	}
	a := list[0]
	if len(list) > 1 {
		s.answers[pod] = list[1:]
	}
	if a.err != nil {
		return nil, a.err
	}
	read, write := io.Pipe()
	go func() {
		_, _ = io.WriteString(write, since(a.text, options.SinceTime)) // until nobody reads
		if a.stays {
			<-ctx.Done()
		}
		_ = write.Close() // never fails
	}()
	return read, nil
}

// since leaves lines out as the kubelet does, to which a time comes in seconds.
func since(text string, from *metav1.Time) string {
	if from == nil {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		stamp, _, _ := strings.Cut(line, " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil && at.Before(from.Truncate(time.Second)) {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// followed is what became of following index 0.
type followed struct {
	lines    string
	complete bool
	err      error
	took     time.Duration
}

// follow follows while change changes the state.
func follow(t *testing.T, source *fakeSource, first *v1alpha1.BatchSandbox, change func(*States)) followed {
	t.Helper()
	states := NewStates(first)
	var lines bytes.Buffer
	f := Follower{Source: source, States: states, Clock: clock.RealClock{}, Emit: func(l Line) { fmt.Fprintf(&lines, "%s:%s\n", l.Stream, l.Text) }}
	start := time.Now()
	if change != nil {
		go change(states)
	}
	complete, err := f.Follow(t.Context())
	return followed{lines.String(), complete, err, time.Since(start)}
}

const (
	hi      = "task=uid-0-1 stream=stdout | hi"
	oops    = "task=uid-0-1 stream=stderr | oops"
	end     = "task=uid-0-1 stream=end | reason=Completed exitCode=0"
	second  = "task=uid-0-2 stream=stdout | again"
	end2    = "task=uid-0-2 stream=end | reason=Completed exitCode=0"
	others  = "task=uid-00-1 stream=stdout | of another batch"
	others2 = "task=uid-1-1 stream=stdout | of another index"
	ownLog  = `time=2026-12-24T12:00:00Z level=INFO msg="task ended" task=uid-0-1`
)

func notBegun() error {
	return apierrors.NewBadRequest(`container "task-executor" in pod "one" is waiting to start: ContainerCreating`)
}

func TestFollow(t *testing.T) {
	busy := apierrors.NewInternalError(errors.New("dial tcp 10.0.0.1:10250: connect: connection refused"))
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "one", errors.New("no"))
	pause := func(d time.Duration) { time.Sleep(d) }
	cases := map[string]struct {
		answers map[string][]answer
		first   *v1alpha1.BatchSandbox
		change  func(*States)
		want    string
		partly  bool // it is not complete
		err     error
		took    time.Duration
	}{
		"a task that ended before: its lines, and nobody else's": {
			answers: map[string][]answer{"one": {{text: log(others, ownLog, hi, others2, oops, end), stays: true}}},
			first:   batch("one", ended()),
			want:    "stdout:hi\nstderr:oops\nend:reason=Completed exitCode=0\n",
		},
		"the end of the output comes before the end of the task": {
			answers: map[string][]answer{"one": {{text: log(hi, end), stays: true}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}),
			change:  func(s *States) { pause(time.Second); s.See(batch("one", ended())) },
			want:    "stdout:hi\nend:reason=Completed exitCode=0\n",
			took:    time.Second,
		},
		"it runs again, and the end of its first try is not its end": {
			answers: map[string][]answer{"one": {{text: log(hi, end, second, end2), stays: true}}},
			first:   batch("one", ended(v1alpha1.TaskTries{Index: 0, Failed: 1})),
			want:    "stdout:hi\nend:reason=Completed exitCode=0\nstdout:again\nend:reason=Completed exitCode=0\n",
		},
		"its container has not begun, then the node doesn't answer": {
			answers: map[string][]answer{"one": {{err: notBegun()}, {err: busy}, {text: log(hi, end), stays: true}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}),
			change:  func(s *States) { pause(5 * time.Second); s.See(batch("one", ended())) },
			want:    "stdout:hi\nend:reason=Completed exitCode=0\n",
			took:    5 * time.Second,
		},
		"it has no pod at first": {
			answers: map[string][]answer{"one": {{text: log(hi, end), stays: true}}},
			first:   batch("", v1alpha1.BatchSandboxStatus{}),
			change: func(s *States) {
				pause(time.Second)
				s.See(batch("one", v1alpha1.BatchSandboxStatus{}))
				pause(time.Second)
				s.See(batch("one", ended()))
			},
			want: "stdout:hi\nend:reason=Completed exitCode=0\n",
			took: 2 * time.Second,
		},
		"an executor that writes no end: complete when it says nothing more": {
			answers: map[string][]answer{"one": {{text: log(hi), stays: true}}},
			first:   batch("one", ended()),
			want:    "stdout:hi\n",
			took:    quiet,
		},
		"its pod is gone before it was read": {
			first: batch("one", ended()), partly: true,
		},
		"its pod ends in the middle, and it has ended": {
			answers: map[string][]answer{"one": {{text: log(hi)}}},
			first:   batch("one", ended()),
			want:    "stdout:hi\n", partly: true,
		},
		"the batch is deleted": {
			answers: map[string][]answer{"one": {{text: log(hi), stays: true}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}),
			change:  func(s *States) { pause(time.Second); s.See(nil) },
			want:    "stdout:hi\n", partly: true,
			took: time.Second + quiet,
		},
		"its sandbox is lost, and the next one's clock is behind": {
			answers: map[string][]answer{"one": {{text: log(ownLog, ownLog, ownLog, hi), stays: true}}, "two": {{text: log(second, end2), stays: true}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}),
			change: func(s *States) {
				pause(time.Second)
				s.See(batch("two", ended(v1alpha1.TaskTries{Index: 0, Lost: 1})))
			},
			want: "stdout:hi\nstdout:again\nend:reason=Completed exitCode=0\n",
			took: time.Second,
		},
		"replicas is lowered, and its index goes": {
			answers: map[string][]answer{"one": {{text: log(hi), stays: true}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}),
			change: func(s *States) {
				pause(time.Second)
				none := batch("one", v1alpha1.BatchSandboxStatus{})
				none.Spec.Replicas = ptr.To(int32(0))
				s.See(none)
			},
			want: "stdout:hi\n",
			took: time.Second + quiet,
		},
		"logs may not be read": {
			answers: map[string][]answer{"one": {{err: forbidden}}},
			first:   batch("one", v1alpha1.BatchSandboxStatus{}), partly: true, err: forbidden,
		},
		"the node doesn't answer to the end": {
			answers: map[string][]answer{"one": {{err: busy}}},
			first:   batch("one", ended()), partly: true, err: busy,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := follow(t, &fakeSource{answers: tc.answers}, tc.first, tc.change)
				if diff := cmp.Diff(tc.want, got.lines); diff != "" {
					t.Error(diff)
				}
				if got.complete == tc.partly || !errors.Is(got.err, tc.err) {
					t.Errorf("complete: %v, error %v; want %v, %v", got.complete, got.err, !tc.partly, tc.err)
				}
				if tc.took != 0 && got.took != tc.took {
					t.Errorf("it took %v, want %v", got.took, tc.took)
				}
			})
		})
	}
}

func TestATaskWhoseChildrenWriteForEverIsLeftAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		go func() {
			for i := 0; ; i++ {
				if _, err := io.WriteString(write, log(fmt.Sprint("task=uid-0-1 stream=stdout | ", i))); err != nil {
					return
				}
				time.Sleep(quiet / 2)
			}
		}()
		f := Follower{
			Source: sourceFunc(func() (io.ReadCloser, error) { return read, nil }),
			States: NewStates(batch("one", ended())), Clock: clock.RealClock{}, Emit: func(Line) {},
		}
		start := time.Now()
		if complete, err := f.Follow(t.Context()); !complete || err != nil {
			t.Errorf("complete: %v, %v", complete, err)
		}
		if took := time.Since(start); took != drain {
			t.Errorf("it took %v, want %v", took, drain)
		}
		time.Sleep(quiet) // the writer sees that nobody reads
	})
}

type sourceFunc func() (io.ReadCloser, error)

func (sourceFunc) PodOf(context.Context, *v1alpha1.BatchSandbox, int) (string, error) { return "", nil }
func (f sourceFunc) Open(context.Context, string, string, *corev1.PodLogOptions) (io.ReadCloser, error) {
	return f()
}

// TestEveryLineComesOnceWhereverConnectionsBreak breaks one connection at each byte, and the next at another.
func TestEveryLineComesOnceWhereverConnectionsBreak(t *testing.T) {
	lines := []string{ownLog, hi, "=" + hi, "=" + oops, ownLog, "=" + hi, oops, "=" + oops, hi, hi, end}
	text := log(lines...)
	want := "stdout:hi\nstdout:hi\nstderr:oops\nstdout:hi\nstderr:oops\nstderr:oops\nstdout:hi\nstdout:hi\nend:reason=Completed exitCode=0\n"
	for at := 0; at < len(text); at++ {
		synctest.Test(t, func(t *testing.T) {
			source := &fakeSource{answers: map[string][]answer{"one": {{text: text[:at]}, {text: text[:(at+len(text))/2]}, {text: text, stays: true}}}}
			got := follow(t, source, batch("one", v1alpha1.BatchSandboxStatus{}), func(s *States) {
				time.Sleep(time.Minute)
				s.See(batch("one", ended()))
			})
			if got.lines != want || !got.complete || source.opened != 3 {
				t.Fatalf("broken at byte %d, opened %d times, complete: %v: %s", at, source.opened, got.complete, cmp.Diff(want, got.lines))
			}
		})
	}
}

func TestManyFollowsAsManyAtOnceAsItMayAndTellsWhoseOutputIsIncomplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sb := batch("", v1alpha1.BatchSandboxStatus{CompletedIndexes: "0-2"})
		sb.Spec.Replicas = ptr.To(int32(3))
		sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["one","gone","three"]}`
		source := &fakeSource{answers: map[string][]answer{
			"one":   {{text: log(hi, end), stays: true}},
			"three": {{text: log("task=uid-2-1 stream=stdout | last", "task=uid-2-1 stream=end | "), stays: true}},
		}}
		var out, errOut bytes.Buffer
		p := &Printer{Out: &out, ErrOut: &errOut, Prefixed: true}
		incomplete := Many{
			Source: source, States: NewStates(sb), Clock: clock.RealClock{}, Indexes: []int{0, 1, 2}, AtOnce: 1, Emit: p.Print,
		}.Follow(t.Context())
		if diff := cmp.Diff([]Incomplete{{Index: 1}}, incomplete); diff != "" {
			t.Error(diff)
		}
		if got, want := out.String(), "[0] hi\n[2] last\n"; got != want || errOut.Len() > 0 {
			t.Errorf("printed %q, want %q; and %q", got, want, errOut.String())
		}
	})
}

func TestPrint(t *testing.T) {
	var out, errOut bytes.Buffer
	p := &Printer{Out: &out, ErrOut: &errOut, Timestamps: true}
	state := NewState(batch("one", ended()))
	for line := range strings.Lines(log(hi, oops, end)) {
		l, ok := state.parse([]byte(line), 0)
		if !ok {
			t.Fatalf("%q is no line", line)
		}
		p.Print(0, l)
	}
	if got, want := out.String(), "2026-12-24T12:00:00Z hi\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := errOut.String(), "2026-12-24T12:00:00.4Z oops\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
}

func TestExitCode(t *testing.T) {
	state := NewState(batch("one", ended()))
	var lines []Line
	for line := range strings.Lines(log(hi, "task=uid-0-1 stream=end | reason=NonZeroExit exitCode=3", oops)) {
		l, _ := state.parse([]byte(line), 0)
		lines = append(lines, l)
	}
	if code, ok := ExitCode(lines); code != 3 || !ok {
		t.Errorf("%d, %v", code, ok)
	}
	if _, ok := ExitCode(lines[:1]); ok {
		t.Error("there is an exit code of what has no end")
	}
	if got := Output(lines); len(got) != 2 {
		t.Errorf("output %v", got)
	}
}
