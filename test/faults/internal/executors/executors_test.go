// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/internal/task-executor/recycle"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/internal/executors"
)

// sandbox is a pod of a sandbox with an executor.
func sandbox() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "pod-uid"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox"}, {Name: "task-executor"}}},
	}
}

// opened are executors with one pod.
func opened(t *testing.T) (*Executors, *pod) {
	t.Helper()
	obj := sandbox()
	c := fake.NewClientBuilder().WithObjects(obj).WithStatusSubresource(obj).Build()
	e := &Executors{
		options: Options{Client: c}, random: rand.New(rand.NewPCG(1, 2)), counts: map[Kind]int64{},
		marks: map[*executors.Run]*auditor.Mark{}, pods: map[types.UID]*pod{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	e.open(ctx, obj)
	return e, e.pods["pod-uid"]
}

// ids are the containers of the pod, as its status tells.
func (e *Executors) ids(t *testing.T) map[string]string {
	t.Helper()
	obj := &corev1.Pod{}
	if err := e.options.Client.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "p"}, obj); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, s := range obj.Status.ContainerStatuses {
		ids[s.Name] = strings.TrimPrefix(s.ContainerID, "simulated://pod-uid-")
	}
	return ids
}

func simulate(t *testing.T, p *pod, name string, command []string) {
	t.Helper()
	if _, err := p.tasks.Set([]taskexecutor.Task{{Name: name, Process: taskexecutor.Process{Command: command}}}); err != nil {
		t.Fatal(err)
	}
}

func TestTheNameOfATaskSaysWhichRunItIs(t *testing.T) {
	got, err := markOf("2b6f-11-aa-3-2")
	if want := (auditor.Mark{Batch: "2b6f-11-aa", Index: 3, Try: 2}); err != nil || got != want {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, name := range []string{"", "a", "a-1", "a-b-1", "a-1-b"} {
		if got, err := markOf(name); err == nil {
			t.Errorf("%q is %+v, want an error", name, got)
		}
	}
}

func TestHowAProcessEnds(t *testing.T) {
	for name, c := range map[string]struct {
		task      string
		command   []string
		timeout   int64
		wantAfter time.Duration
		want      string
	}{
		"its try has exit code 0":           {"b-0-2", Command(time.Second, 1, 0), 0, time.Second, "Completed"},
		"its try has another exit code":     {"b-0-1", Command(time.Second, 1, 0), 0, time.Second, "NonZeroExit"},
		"a try beyond the codes":            {"b-0-5", Command(time.Second, 0, 7), 0, time.Second, "NonZeroExit"},
		"it takes longer than it may":       {"b-0-1", Command(time.Minute, 0), 2, 2 * time.Second, "TimedOut"},
		"it ends before its time is over":   {"b-0-1", Command(time.Second, 0), 2, time.Second, "Completed"},
		"what isn't simulated ends at once": {"b-0-1", []string{"true"}, 0, 0, "Completed"},
	} {
		t.Run(name, func(t *testing.T) {
			after, how := endOf(taskexecutor.Task{Name: c.task, Process: taskexecutor.Process{Command: c.command, TimeoutSeconds: c.timeout}})
			if after != c.wantAfter || how.Reason != c.want {
				t.Errorf("%s after %s, want %s after %s", how.Reason, after, c.want, c.wantAfter)
			}
			if (how.ExitCode == 0) != (how.Reason == "Completed") {
				t.Errorf("%s with exit code %d", how.Reason, how.ExitCode)
			}
		})
	}
}

func TestEveryRunIsMarkedWithItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p := opened(t)
		begin := time.Now()
		simulate(t, p, "b-0-1", Command(time.Second, 1, 0))
		time.Sleep(time.Minute)
		simulate(t, p, "b-0-2", Command(time.Hour, 1, 0))
		time.Sleep(time.Minute)
		p.breaks(Restarted, 0)
		simulate(t, p, "b-0-3", Command(time.Hour, 0))
		time.Sleep(time.Minute)
		got := e.Marks()
		for i := range got {
			if got[i].Begin.Sub(begin).Truncate(time.Minute) != time.Duration(i)*time.Minute {
				t.Errorf("run %d began at %s", i, got[i].Begin.Sub(begin))
			}
			got[i].Begin, got[i].End = time.Time{}, time.Time{}
		}
		want := []auditor.Mark{
			{Batch: "b", Try: 1, Pod: "pod-uid", How: "NonZeroExit"}, {Batch: "b", Try: 2, Pod: "pod-uid", How: "ExecutorLost"},
			{Batch: "b", Try: 3, Pod: "pod-uid"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("marks (-want +got):\n%s", diff)
		}
	})
}

func TestContainersThatRestartHaveOtherIDs(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		want map[string]string
	}{
		"the executor's":             {Restarted, map[string]string{"sandbox": "sandbox-1", "task-executor": "task-executor-2"}},
		"the others":                 {SandboxRestarted, map[string]string{"sandbox": "sandbox-2", "task-executor": "task-executor-1"}},
		"none, it is just not there": {Unreachable, map[string]string{"sandbox": "sandbox-1", "task-executor": "task-executor-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := opened(t)
			p.breaks(c.kind, time.Hour)
			if diff := cmp.Diff(c.want, e.ids(t)); diff != "" {
				t.Errorf("containers (-want +got):\n%s", diff)
			}
			if !p.isDown() {
				t.Error("it can be reached")
			}
			if e.Calm(); p.isDown() {
				t.Error("it can't be reached when all is calm")
			}
		})
	}
}

func TestARecyclingGivesAllContainersOtherIDsAndTellsOfItself(t *testing.T) {
	for name, unclean := range map[string]float64{"clean": 0, "not clean": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, p := opened(t)
				e.SetRates(Rates{Unclean: unclean})
				simulate(t, p, "b-0-1", Command(time.Hour, 0))
				if p.Ask("b") == nil {
					t.Error("an executor with tasks agrees to be recycled")
				}
				simulate(t, p, "b-0-1", Command(time.Hour, 0))
				if _, err := p.tasks.Set([]taskexecutor.Task{}); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(p.Ask("b"), p.Ask("b")); err != nil {
					t.Fatal(err)
				}
				if _, err := p.State(); !errors.Is(err, recycle.ErrExiting) {
					t.Errorf("got %v, want that it is about to exit", err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				want := map[string]string{"sandbox": "sandbox-2", "task-executor": "task-executor-2"}
				if diff := cmp.Diff(want, e.ids(t)); diff != "" {
					t.Errorf("containers (-want +got):\n%s", diff)
				}
				state, err := p.State()
				if err != nil || state.ID != "b" || state.Clean == (unclean == 1) || (len(state.Reasons) > 0) != (unclean == 1) {
					t.Errorf("state %+v (%v)", state, err)
				}
				simulate(t, p, "c-0-1", Command(time.Hour, 0)) // it takes tasks again
			})
		})
	}
}

func TestCallsMeetFaults(t *testing.T) {
	for name, c := range map[string]struct {
		kind         Kind
		wantAnswered bool
		wantServed   int64
	}{
		"cut before it took effect": {CutBefore, false, 0},
		"cut after it took effect":  {CutAfter, false, 1},
		"slow":                      {Slow, true, 1},
		"none":                      {"", true, 1},
		"the executor is away":      {Unreachable, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := opened(t)
			if c.kind == Unreachable {
				p.breaks(Unreachable, time.Hour)
			} else {
				e.SetRates(Rates{c.kind: 1})
			}
			var served atomic.Int64
			srv := httptest.NewServer(p.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				served.Add(1)
				_, _ = io.WriteString(w, "answer")
			})))
			t.Cleanup(srv.Close)
			resp, err := http.Post(srv.URL, "text/plain", strings.NewReader("question")) // which no transport repeats
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != c.wantAnswered || served.Load() != c.wantServed {
				t.Errorf("answered %v (%v), served %d times", err == nil, err, served.Load())
			}
			if c.kind != "" && c.kind != Unreachable && e.Counts()[c.kind] != 1 {
				t.Errorf("counts %v", e.Counts())
			}
		})
	}
}

func TestAPodWithARunningTaskIsBrokenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, busy := opened(t)
		other := sandbox()
		other.Name, other.UID = "a", "other-uid"
		if err := e.options.Client.Create(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		e.open(t.Context(), other)
		simulate(t, busy, "b-0-1", Command(time.Hour, 0))
		time.Sleep(time.Minute)
		for range 20 {
			if p := e.pick(); p != busy {
				t.Fatalf("picked %s, want the busy one", p.key)
			}
		}
	})
}
