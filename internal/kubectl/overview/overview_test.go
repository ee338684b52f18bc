// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/test/wrappers"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const ns = "default"

func batch(name string) *wrappers.BatchWrapper {
	return wrappers.MakeBatch(ns, name).Created(now.Add(-5 * time.Minute))
}

func says(sb *wrappers.BatchWrapper, kind string, ok bool, reason string) *wrappers.BatchWrapper {
	status := metav1.ConditionFalse
	if ok {
		status = metav1.ConditionTrue
	}
	return sb.Condition(kind, status, reason, now.Add(-time.Minute))
}

func ready(sb *wrappers.BatchWrapper) *wrappers.BatchWrapper {
	sb.Status.Ready = *sb.Spec.Replicas
	return says(says(sb, v1alpha1.ConditionAllocated, true, v1alpha1.ReasonAllocated), v1alpha1.ConditionReady, true, v1alpha1.ReasonPodsReady)
}

func waits(sb *wrappers.BatchWrapper, position int32) *wrappers.BatchWrapper {
	sb.Status.Queue = &v1alpha1.QueueStatus{Position: position, Waiting: 7}
	return says(says(sb, v1alpha1.ConditionAllocated, false, v1alpha1.ReasonWaitingForPool), v1alpha1.ConditionReady, false, v1alpha1.ReasonPodsNotReady)
}

func TestABatchInOneLine(t *testing.T) {
	cases := map[string]struct {
		batch *wrappers.BatchWrapper
		want  []string // READY, STATUS, TASKS, POOL, EXPIRES
	}{
		"that nobody looked at yet": {batch("a"), []string{"0/1", "New", "-", "-", "-"}},
		"that runs its tasks": {func() *wrappers.BatchWrapper {
			sb := says(ready(batch("a").Replicas(12).Pool("small").Task("x").Expires(now.Add(41*time.Minute))), v1alpha1.ConditionTasksCompleted, false, v1alpha1.ReasonTasksRunning)
			sb.Status.TaskRunning, sb.Status.TaskSucceed = 3, 9
			return sb
		}(), []string{"12/12", "Running", "3 running, 9 done", "small", "41m"}},
		"whose tasks are done and that gave its sandboxes back": {func() *wrappers.BatchWrapper {
			sb := says(ready(batch("a").Pool("small").Task("x")), v1alpha1.ConditionTasksCompleted, true, v1alpha1.ReasonTasksSucceeded)
			sb.Status.TaskSucceed, sb.Status.Ready = 1, 0
			return sb
		}(), []string{"0/1", "Completed", "1 done", "small", "-"}},
		"whose tasks failed": {func() *wrappers.BatchWrapper {
			sb := says(ready(batch("a").Task("x")), v1alpha1.ConditionTasksCompleted, true, v1alpha1.ReasonTasksFailed)
			sb.Status.TaskFailed = 1
			return sb
		}(), []string{"1/1", "Failed", "1 failed", "-", "-"}},
		"that has all and no tasks":     {ready(batch("a")), []string{"1/1", "Ready", "-", "-", "-"}},
		"that waits":                    {waits(batch("a").Pool("small"), 1), []string{"0/1", "Waiting", "-", "small", "-"}},
		"that is a mistake":             {says(says(batch("a").Pool("x"), v1alpha1.ConditionAllocated, false, v1alpha1.ReasonPoolNotFound), v1alpha1.ConditionReady, false, v1alpha1.ReasonPoolNotFound), []string{"0/1", "PoolNotFound", "-", "x", "-"}},
		"whose pods start":              {says(says(batch("a"), v1alpha1.ConditionAllocated, true, v1alpha1.ReasonAllocated), v1alpha1.ConditionReady, false, v1alpha1.ReasonPodsNotReady), []string{"0/1", "Starting", "-", "-", "-"}},
		"whose time is over is expired": {ready(batch("a").Expires(now)), []string{"1/1", "Ready", "-", "-", "now"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, cell := range batchRow(c.batch.Obj(), now)[1:6] {
				got = append(got, fmt.Sprint(cell))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("cells (-want +got):\n%s", diff)
			}
		})
	}
}

func pool(name string, change func(*v1alpha1.Pool)) *v1alpha1.Pool {
	p := wrappers.MakePool(ns, name).Buffer(1, 4).Size(0, 10).Obj()
	p.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	change(p)
	return p
}

func poolSays(p *v1alpha1.Pool, kind string, status metav1.ConditionStatus, reason string) {
	p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason})
}

func TestAPoolInOneWord(t *testing.T) {
	low := func(p *v1alpha1.Pool) {
		poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBufferLow)
	}
	cases := map[string]struct {
		change func(*v1alpha1.Pool)
		want   string
	}{
		"not looked at yet":                  {func(*v1alpha1.Pool) {}, "New"},
		"being deleted":                      {func(p *v1alpha1.Pool) { p.DeletionTimestamp = &metav1.Time{Time: now} }, "Terminating"},
		"with enough":                        {func(p *v1alpha1.Pool) { poolSays(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "") }, "Ready"},
		"with too few and none on their way": {low, v1alpha1.ReasonBufferLow},
		"with too few and more starting":     {func(p *v1alpha1.Pool) { low(p); p.Status.Starting = 1 }, "Growing"},
		"with pods that fail": {func(p *v1alpha1.Pool) {
			low(p)
			poolSays(p, v1alpha1.ConditionPodsFailing, metav1.ConditionTrue, "ErrImagePull")
			poolSays(p, v1alpha1.ConditionScalingLimited, metav1.ConditionTrue, v1alpha1.ReasonPoolMaxReached)
		}, "ErrImagePull"},
		"at its bound": {func(p *v1alpha1.Pool) {
			poolSays(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
			poolSays(p, v1alpha1.ConditionScalingLimited, metav1.ConditionTrue, v1alpha1.ReasonPoolMaxReached)
		}, v1alpha1.ReasonPoolMaxReached},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := poolStatus(pool("p", c.change)); got != c.want {
				t.Errorf("status %q, want %q", got, c.want)
			}
		})
	}
}

func TestParseScope(t *testing.T) {
	cases := map[string]struct {
		batches, pools bool
		wanted         string // sorted, joined by blanks
		bad            bool
	}{
		"":                   {batches: true, pools: true},
		"pools":              {pools: true},
		"bsbx":               {batches: true},
		"pools a b":          {pools: true, wanted: "pool/a pool/b"},
		"a":                  {batches: true, pools: true, wanted: "a"},
		"pool/a batch/b":     {batches: true, pools: true, wanted: "batch/b pool/a"},
		"pools pool/a":       {bad: true},
		"pod/a":              {bad: true},
		"batch/":             {bad: true},
		"batchsandboxes/web": {batches: true, pools: true, wanted: "batch/web"},
	}
	for args, c := range cases {
		t.Run(args, func(t *testing.T) {
			got, err := parseScope(nil, strings.Fields(args))
			if (err != nil) != c.bad {
				t.Fatalf("error %v, want one: %t", err, c.bad)
			}
			if err == nil && (got.batches != c.batches || got.pools != c.pools || joined(got.wanted) != c.wanted) {
				t.Errorf("scope %+v, want %+v", got, c)
			}
		})
	}
}

func joined(m map[string]bool) string {
	var all []string
	for _, name := range []string{"a", "batch/b", "batch/web", "pool/a", "pool/b"} {
		if m[name] {
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

// seen runs get or top over objects and returns what it printed, with narrow columns.
func seen(t *testing.T, s *show, objects ...client.Object) (out, complaint string) {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	s.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	s.streams = genericiooptions.IOStreams{Out: &stdout, ErrOut: &stderr}
	s.clock = clocktesting.NewFakeClock(now)
	s.scope.namespace = ns
	if err := s.run(t.Context()); err != nil {
		stderr.WriteString(err.Error())
	}
	return squeeze(stdout.String()), stderr.String()
}

func squeeze(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func everything() scope { return scope{batches: true, pools: true} }

func TestGetShowsBatchesAndPools(t *testing.T) {
	objects := []client.Object{
		ready(batch("web").Replicas(2).Pool("small")).Obj(), waits(batch("late").Pool("small"), 1).Obj(),
		pool("small", func(p *v1alpha1.Pool) { p.Status.Total, p.Status.Allocated, p.Status.Waiting = 2, 2, 1 }),
	}
	out, _ := seen(t, &show{render: renderGet, output: cluster.NewOutput(), scope: everything()}, objects...)
	want := `BATCH READY STATUS TASKS POOL EXPIRES AGE
late 0/1 Waiting - small - 5m
web 2/2 Ready - small - 5m

POOL PODS HELD IDLE STARTING WAITING BUFFER STATUS AGE
small 2/10 2 0 0 1 1-4 New 60m`
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	named := &show{render: renderGet, output: cluster.NewOutput(cluster.FormatName), scope: scope{batches: true, pools: true, wanted: map[string]bool{"web": true, "nobody": true}}}
	named.output.Format = cluster.FormatName
	out, complaint := seen(t, named, objects...)
	if out != "batchsandbox.sandbox.opensandbox.io/web" || !strings.Contains(complaint, `"nobody" not found`) {
		t.Errorf("by name: printed %q and complained %q", out, complaint)
	}
	if out, complaint := seen(t, &show{render: renderGet, output: cluster.NewOutput(), scope: everything()}); out != "" || complaint != "No resources found in default namespace.\n" {
		t.Errorf("an empty namespace: printed %q and complained %q", out, complaint)
	}
	yaml := &show{render: renderGet, output: cluster.NewOutput(cluster.FormatYAML), scope: scope{pools: true, wanted: map[string]bool{"pool/small": true}}}
	yaml.output.Format = cluster.FormatYAML
	if out, _ := seen(t, yaml, objects...); !strings.Contains(out, "kind: Pool") || strings.Contains(out, "kind: List") {
		t.Errorf("one pool as YAML:\n%s", out)
	}
}

func TestTopOrdersByPressureAndNeed(t *testing.T) {
	longer := waits(batch("longer").Pool("busy").Replicas(2), 1)
	longer.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Hour))
	out, _ := seen(t, &show{render: renderTop, output: cluster.NewOutput(), scope: everything()},
		pool("calm", func(p *v1alpha1.Pool) { p.Status.Total, p.Status.Available = 4, 4 }),
		pool("full", func(p *v1alpha1.Pool) { p.Status.Total, p.Status.Allocated = 9, 8 }),
		pool("busy", func(p *v1alpha1.Pool) {
			p.Status.Total, p.Status.Allocated, p.Status.Starting, p.Status.Waiting = 3, 1, 2, 5
		}),
		waits(batch("short").Pool("busy"), 2).Obj(), longer.Obj(), ready(batch("fine").Pool("calm")).Obj())
	want := `POOL WAITING HELD IDLE STARTING OTHER TOTAL MIN MAX USED STATUS
busy 5 1 0 2 0 3 0 10 10% New
full 0 8 0 0 1 9 0 10 80% New
calm 0 0 4 0 0 4 0 10 0% New

BATCH MISSING READY WAITING POOL QUEUE STATUS
longer 2 0/2 60m busy 1 Waiting
short 1 0/1 60s busy 2 Waiting`
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
}

// pipe is an output that a test waits for.
type pipe struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *pipe) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(data)
}

func (p *pipe) waitFor(t *testing.T, what string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		text := squeeze(p.text.String())
		p.mu.Unlock()
		if strings.Contains(text, what) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q was not printed:\n%s", what, text)
		}
	}
}

// watching is a get -w that runs.
func watching(t *testing.T, out io.Writer, run func(*show) func(context.Context) error) client.WithWatch {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	s := &show{
		client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(ready(batch("web")).Obj()).WithStatusSubresource(&v1alpha1.BatchSandbox{}).Build(),
		clock:  clock.RealClock{}, watch: true, output: cluster.NewOutput(), render: renderGet, line: lineGet,
		streams: genericiooptions.IOStreams{Out: out, ErrOut: io.Discard}, scope: scope{namespace: ns, batches: true, pools: true},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- run(s)(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return s.client
}

func TestWatchAppendsALineForEachChange(t *testing.T) {
	var out pipe
	c := watching(t, &out, func(s *show) func(context.Context) error { return s.run })
	out.waitFor(t, "web 1/1 Ready")
	// The watch may begin after the list: changes are made until one is seen.
	sb := waits(batch("late").Pool("small"), 1).Obj()
	if err := c.Create(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 100 && !strings.Contains(out.squeezed(), "late 0/1 Waiting - small"); i++ {
		sb.Labels = map[string]string{"look": fmt.Sprint(i)}
		if err := c.Update(t.Context(), sb); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	out.waitFor(t, "\nlate 0/1 Waiting - small")
	if err := c.Delete(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.squeezed(), "BATCH READY"); n != 1 {
		t.Errorf("%d headers, want 1", n)
	}
}

func (p *pipe) squeezed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return squeeze(p.text.String())
}

func TestTheWorldFollowsWhatItHears(t *testing.T) {
	w := newWorld()
	a, b := batch("a").Obj(), batch("b").Obj()
	a.ResourceVersion, b.ResourceVersion = "1", "1"
	if got := w.take(news{batch: true, all: true, objects: []client.Object{a, b}}); len(got) != 2 {
		t.Errorf("%d changes at first, want 2", len(got))
	}
	newer := a.DeepCopy()
	newer.ResourceVersion = "2"
	if got := w.take(news{batch: true, all: true, objects: []client.Object{newer}}); len(got) != 1 || len(w.batches) != 1 {
		t.Errorf("%d changes and %d batches after a list without b, want 1 and 1", len(got), len(w.batches))
	}
	p := pool("a", func(*v1alpha1.Pool) {})
	w.take(news{objects: []client.Object{p}})
	if w.take(news{gone: p}); len(w.pools) != 0 || len(w.batches) != 1 {
		t.Errorf("%d pools and %d batches after the pool a went, want 0 and 1", len(w.pools), len(w.batches))
	}
}
