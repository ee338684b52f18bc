// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func TestParseLine(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want outputLine
		ok   bool
	}{
		"a line of the task":                     {"task=uid-3-1 stream=stdout | hello", outputLine{1, "stdout", "hello"}, true},
		"another try":                            {"task=uid-3-12 stream=stderr | x", outputLine{12, "stderr", "x"}, true},
		"an empty line":                          {"task=uid-3-1 stream=stdout | ", outputLine{1, "stdout", ""}, true},
		"what looks like a head stays":           {"task=uid-3-1 stream=stdout | task=uid-3-1 stream=stdout | x", outputLine{1, "stdout", "task=uid-3-1 stream=stdout | x"}, true},
		"another index that begins alike":        {"task=uid-31-1 stream=stdout | x", outputLine{}, false},
		"another batch":                          {"task=diu-3-1 stream=stdout | x", outputLine{}, false},
		"the mark below the last line":           {"task=uid-3-1 stream=end | ", outputLine{}, false},
		"the executor's own log":                 {"time=2026 level=INFO msg=\"task=uid-3-1\"", outputLine{}, false},
		"a line that was cut by the log's limit": {"task=uid-3-1 stream=std", outputLine{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseLine([]byte(c.line), "uid-3-")
			if ok != c.ok || got != c.want {
				t.Errorf("got %+v, %v", got, ok)
			}
		})
	}
}

func TestOutputKeepsItsEnd(t *testing.T) {
	var o output
	for range maxOutputLines {
		o.add(outputLine{Text: "short"})
	}
	before, _, _ := o.snapshot()
	o.add(outputLine{Text: "last"})
	lines, dropped, _ := o.snapshot()
	if len(lines) != maxOutputLines || dropped != 1 || lines[len(lines)-1].Text != "last" || before[len(before)-1].Text != "short" {
		t.Errorf("%d lines are kept, %d were dropped", len(lines), dropped)
	}
	for range 100 {
		o.add(outputLine{Text: strings.Repeat("x", maxOutputBytes/10)})
	}
	if lines, _, _ := o.snapshot(); len(lines) != 10 {
		t.Errorf("%d lines of a tenth of what may be kept are kept", len(lines))
	}
}

func pod(name string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

func TestTheFollowerReadsAnewWhenTheLogEndsAndGoesToTheNextPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		f := &follower{
			client: fake.NewClientBuilder().WithObjects(pod("one", "sandbox", "task-executor"), pod("two", "only")).Build(),
			clock:  clock.RealClock{}, raise: func() {},
			logs: func(ctx context.Context, _, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
				asked = append(asked, pod+"/"+o.Container)
				if pod == "one" && len(asked) > 1 {
					return nil, errors.New("the container is not there")
				}
				read, write := io.Pipe()
				context.AfterFunc(ctx, func() { _ = write.CloseWithError(ctx.Err()) })
				go func() {
					_, _ = io.WriteString(write, "own log\ntask=uid-0-1 stream=stdout | of "+pod+"\n")
					if pod == "one" {
						_ = write.Close()
					}
				}()
				return read, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		name := types.NamespacedName{Namespace: "ns", Name: "one"}
		f.follow(ctx, name, "uid-0-")
		f.follow(ctx, name, "uid-0-") // again: nothing
		synctest.Wait()
		if lines, _, _ := f.out.snapshot(); len(lines) != 1 || lines[0].Text != "of one" {
			t.Errorf("read is %+v", lines)
		}
		time.Sleep(logRetry)
		synctest.Wait()
		if _, _, note := f.out.snapshot(); note != "read the log of pod one: the container is not there" {
			t.Errorf("told is %q", note)
		}
		name.Name = "two"
		f.follow(ctx, name, "uid-0-")
		synctest.Wait()
		if lines, _, note := f.out.snapshot(); len(lines) != 1 || lines[0].Text != "of two" || note != "" {
			t.Errorf("read of the next pod is %+v, told %q", lines, note)
		}
		f.close()
		if diff := cmp.Diff([]string{"one/task-executor", "one/task-executor", "two/only"}, asked); diff != "" {
			t.Errorf("asked was (-want +got):\n%s", diff)
		}
	})
}

func TestWhyALogCannotBeReadIsTold(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", nil)
	for name, c := range map[string]struct {
		pods []client.Object
		logs error
		want string
	}{
		"the pod is gone":                   {want: "the pod p is gone, and its log with it"},
		"no container could have run tasks": {pods: []client.Object{pod("p", "a", "b")}, want: "the pod p has no container named task-executor"},
		"no right to read logs":             {pods: []client.Object{pod("p", "a")}, logs: forbidden, want: "you may not read the log of pod p: ask for the right to get pods/log in namespace ns"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &follower{
				client: fake.NewClientBuilder().WithObjects(c.pods...).Build(),
				logs: func(context.Context, string, string, *corev1.PodLogOptions) (io.ReadCloser, error) {
					return nil, c.logs
				},
			}
			if err := f.read(t.Context(), types.NamespacedName{Namespace: "ns", Name: "p"}, "uid-0-", false); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestTheOutputOfASandbox(t *testing.T) {
	failed := batchWith(func(b *wrappers.BatchWrapper) {
		b.Task("x").Replicas(1)
		b.Status.FailedIndexes = "0"
		b.Status.FailedTasks = []v1alpha1.FailedTask{{Index: 0, Reason: "NonZeroExit", Tries: 2, Output: "one\ntwo\n"}}
	})
	running := batchWith(func(b *wrappers.BatchWrapper) { b.Task("x") })
	for name, c := range map[string]struct {
		in   sandboxInput
		want string
	}{
		"the log": {
			in:   sandboxInput{batch: running, lines: []outputLine{{1, "stdout", "a"}, {1, "stderr", "b"}, {2, "stdout", "c"}}},
			want: "a b new:c",
		},
		"the end of a long log": {
			in:   sandboxInput{batch: running, dropped: 7, lines: []outputLine{{1, "stdout", "h"}}},
			want: "Earlier lines are left out. h",
		},
		"the pod is gone: the last lines of the status": {
			in:   sandboxInput{batch: failed, logNote: "the pod p is gone, and its log with it"},
			want: "The pod p is gone, and its log with it. These are the last lines that the batch's status has. new:one two",
		},
		"nothing yet":                 {in: sandboxInput{batch: running}, want: "No output yet."},
		"no tasks":                    {in: sandboxInput{batch: batchWith(func(*wrappers.BatchWrapper) {})}, want: "The batch has no tasks."},
		"an index that there isn't":   {in: sandboxInput{batch: failed, index: 1}, want: "The batch has 1 sandbox, numbered from 0."},
		"a batch that there isn't":    {in: sandboxInput{key: types.NamespacedName{Namespace: "ns", Name: "b"}}, want: "There is no batch ns/b (any more), or it can't be read."},
		"a note of what can't be had": {in: sandboxInput{batch: running, notices: []notice{{"pods", "No pods."}}}, want: "No pods. No output yet."},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range sandboxPage(c.in).Parts {
				switch data := p.Data.(type) {
				case lineView:
					text := data.Text
					if data.NewTry {
						text = "new:" + text
					}
					got = append(got, text)
				case notice:
					got = append(got, data.Text)
				case string:
					got = append(got, data)
				}
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}
