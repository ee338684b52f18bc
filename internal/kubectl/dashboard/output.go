// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// maxOutputLines and maxOutputBytes bound how much of a task's output a page has: its end.
	maxOutputLines = 2000
	maxOutputBytes = 1 << 20

	// maxLogLine is the longest line of a log that is read; an executor writes none longer than 17 KiB.
	maxLogLine = 64 << 10

	// logRetry is the time between two tries to read a log.
	logRetry = 2 * time.Second
)

// outputLine is a line that a task wrote.
type outputLine struct {
	Try    int
	Stream string // stdout or stderr
	Text   string
}

// parseLine reads a line of an executor's log. ok says that it is of a task whose name begins with prefix, which is UID-INDEX- .
func parseLine(line []byte, prefix string) (l outputLine, ok bool) {
	read, ok := taskexecutor.ParseLogLine(line)
	if !ok || read.Stream == taskexecutor.EndStream {
		return l, false
	}
	try, ok := strings.CutPrefix(read.Task, prefix)
	n, err := strconv.Atoi(try)
	if !ok || err != nil {
		return l, false
	}
	return outputLine{Try: n, Stream: read.Stream, Text: strings.ToValidUTF8(string(read.Text), "\uFFFD")}, true
}

// output is the end of what a task wrote, as it grows. Several goroutines may use it.
type output struct {
	mu      sync.Mutex
	lines   []outputLine
	bytes   int
	dropped int // lines that stood before
	note    string
}

func (o *output) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines, o.bytes, o.dropped, o.note = nil, 0, 0, ""
}

func (o *output) add(l outputLine) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, l)
	o.bytes += len(l.Text)
	for len(o.lines) > maxOutputLines || o.bytes > maxOutputBytes {
		o.bytes -= len(o.lines[0].Text)
		o.lines = o.lines[1:]
		o.dropped++
	}
}

func (o *output) tell(note string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note = note
}

// snapshot returns the lines, how many stood before them, and what went wrong in reading them.
func (o *output) snapshot() (lines []outputLine, dropped int, note string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lines[:len(o.lines):len(o.lines)], o.dropped, o.note
}

// logs opens the log of a container.
type logs func(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error)

// follower reads the output of one task from the log of its pod's executor, and starts anew when the task has another pod.
type follower struct {
	client client.Reader
	logs   logs
	clock  clock.Clock
	raise  func()

	out     output
	pod     string
	stop    context.CancelFunc
	running sync.WaitGroup
}

// follow reads from a pod; empty for none. It returns at once.
func (f *follower) follow(ctx context.Context, pod types.NamespacedName, prefix string) {
	if pod.Name == f.pod {
		return
	}
	f.pod = pod.Name
	f.close()
	if pod.Name == "" {
		return
	}
	ctx, f.stop = context.WithCancel(ctx)
	f.running.Go(func() { f.run(ctx, pod, prefix) })
}

// close ends the reading. What was read stays.
func (f *follower) close() {
	if f.stop != nil {
		f.stop()
	}
	f.running.Wait()
}

// run reads the log until ctx is done: again when it ends, for the container may have been restarted.
func (f *follower) run(ctx context.Context, pod types.NamespacedName, prefix string) {
	for ctx.Err() == nil {
		f.out.reset()
		err := f.read(ctx, pod, prefix, true)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.out.tell(err.Error())
			f.raise()
		}
		select {
		case <-ctx.Done():
		case <-f.clock.After(logRetry):
		}
	}
}

// read reads the log to its end, which with follow is that of the container.
func (f *follower) read(ctx context.Context, pod types.NamespacedName, prefix string, follow bool) error {
	container, err := executorOf(ctx, f.client, pod)
	if err != nil {
		return err
	}
	limit := int64(4 * maxOutputLines) // the log may be of several tasks
	stream, err := f.logs(ctx, pod.Namespace, pod.Name, &corev1.PodLogOptions{Container: container, Follow: follow, TailLines: &limit})
	if err != nil {
		return logError(pod, err)
	}
	defer stream.Close() //nolint:errcheck // it was only read
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(make([]byte, 0, 32<<10), maxLogLine)
	for scanner.Scan() {
		if line, ok := parseLine(scanner.Bytes(), prefix); ok {
			f.out.add(line)
			f.raise()
		}
	}
	if err := scanner.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
	}
	return nil
}

// executorOf is the name of the container whose log has the output of tasks.
func executorOf(ctx context.Context, c client.Reader, name types.NamespacedName) (string, error) {
	pod := &corev1.Pod{}
	err := c.Get(ctx, name, pod)
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("the pod %s is gone, and its log with it", name.Name)
	case apierrors.IsForbidden(err):
		return v1alpha1.TaskExecutorContainer, nil // the log may be allowed
	case err != nil:
		return "", fmt.Errorf("read pod %s: %w", name.Name, err)
	}
	for _, container := range pod.Spec.Containers {
		if container.Name == v1alpha1.TaskExecutorContainer {
			return container.Name, nil
		}
	}
	if len(pod.Spec.Containers) == 1 {
		return pod.Spec.Containers[0].Name, nil
	}
	return "", errors.New("the pod " + name.Name + " has no container named " + v1alpha1.TaskExecutorContainer)
}

func logError(pod types.NamespacedName, err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("you may not read the log of pod %s: ask for the right to get pods/log in namespace %s", pod.Name, pod.Namespace)
	}
	return fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
}

// sandboxInput is what the page of one sandbox is made from.
type sandboxInput struct {
	key     types.NamespacedName
	index   int
	batch   *v1alpha1.BatchSandbox // nil if there is none
	pods    []*corev1.Pod
	lines   []outputLine
	dropped int
	logNote string
	notices []notice
}

// sandboxHead is what doesn't change on the page of a sandbox.
type sandboxHead struct {
	Key   types.NamespacedName
	Index int
}

// lineView is a line of output. NewTry says that another try began with it.
type lineView struct {
	outputLine
	NewTry bool
}

// sandboxPage is the page of one index of a batch: its task with the output.
func sandboxPage(in sandboxInput) view {
	v := view{Title: fmt.Sprintf("Sandbox %d of %s", in.index, in.key.Name), Skeleton: "sandbox", Head: sandboxHead{in.key, in.index}}
	v.notices(in.notices)
	if in.batch == nil {
		v.Missing = true
		v.notices([]notice{missingBatch(in.key)})
		return v
	}
	all := indexesOf(in.batch, in.pods)
	if in.index >= len(all) {
		v.Missing = true
		v.notices([]notice{{ID: "missing", Text: fmt.Sprintf("The batch has %s, numbered from 0.", count(len(all), "sandbox", "sandboxes"))}})
		return v
	}
	sandbox := all[in.index]
	row := taskRow{Key: in.key, indexView: sandbox, HasTask: in.batch.Spec.TaskTemplate != nil}
	row.Output = ""
	v.add("facts", "sandbox-facts", "sandboxfacts", row)
	outputParts(&v, in, sandbox)
	v.Spoken = map[string]string{"state": fmt.Sprintf("Sandbox %d: %s.", in.index, sandbox.Text())}
	return v
}

// outputParts adds the output:
//
//	| log        | last lines in the status | shown                                |
//	| has lines  | -                        | the log                              |
//	| none       | some                     | the last lines, and that it is those |
//	| none       | none                     | why there is none                    |
func outputParts(v *view, in sandboxInput, sandbox indexView) {
	lines, note := in.lines, in.logNote
	first := in.dropped
	if len(lines) == 0 && sandbox.Output != "" {
		note = joinParts(" ", sentence(note), "These are the last lines that the batch's status has.")
		for text := range strings.Lines(sandbox.Output) {
			lines = append(lines, outputLine{Try: sandbox.Tries, Text: strings.TrimRight(text, "\n")})
		}
	}
	switch {
	case note == "" && in.dropped > 0:
		note = "Earlier lines are left out."
	case note == "" && len(lines) == 0 && in.batch.Spec.TaskTemplate == nil:
		note = "The batch has no tasks."
	case note == "" && len(lines) == 0:
		note = "No output yet."
	}
	if note != "" {
		v.add("outputnote", "output-note", "shown", sentence(note))
	}
	for i, l := range lines {
		newTry := l.Try > 1 && (i == 0 || lines[i-1].Try != l.Try)
		v.add("output", fmt.Sprintf("line-%d", first+i), "line", lineView{outputLine: l, NewTry: newTry})
	}
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
