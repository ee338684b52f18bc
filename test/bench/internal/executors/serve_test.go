// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/server"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
	"opensandbox.io/controller/test/internal/executors"
)

func newWorld() (*world, *bytes.Buffer) {
	var told bytes.Buffer
	return &world{out: json.NewEncoder(&told), random: rand.New(rand.NewPCG(1, 2))}, &told
}

// ends are the ends that a world has told of, in their order.
func ends(t *testing.T, told *bytes.Buffer) []note {
	t.Helper()
	var all []note
	for line := range strings.Lines(told.String()) {
		var n note
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func wanted(name string, command []string) taskexecutor.Task {
	return taskexecutor.Task{Name: name, Process: taskexecutor.Process{Command: command}}
}

func set(t *testing.T, tasks *executors.Tasks, want ...taskexecutor.Task) {
	t.Helper()
	if _, err := tasks.Set(want); err != nil {
		t.Fatal(err)
	}
}

func TestADrawnTaskEndsByItselfAndItsEndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, told := newWorld()
		tasks := executors.NewTasks(w)
		set(t, tasks, wanted("a", Drawn(time.Second)))
		set(t, tasks, wanted("a", Drawn(time.Second))) // changes nothing
		if list, _ := tasks.Wait(t.Context(), "", 0); len(list) != 1 || list[0].ProcessStatus.Waiting == nil {
			t.Fatalf("tasks %+v, want one that waits", list)
		}
		time.Sleep(longestLife*time.Second + 10*time.Millisecond)
		synctest.Wait()
		got, err := tasks.Get("a")
		if err != nil || got.ProcessStatus.Terminated == nil {
			t.Fatalf("task %+v (%v), want one that ended", got, err)
		}
		end := got.ProcessStatus.Terminated
		want := note{End: "a", At: end.FinishedAt.UnixNano()}
		if all := ends(t, told); len(all) != 1 || all[0] != want || !end.FinishedAt.After(end.StartedAt) {
			t.Errorf("told %+v, want %+v alone, after the start at %s", all, want, end.StartedAt)
		}
	})
}

func TestTasksThatRunUntilToldEndAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, told := newWorld()
		tasks := executors.NewTasks(w)
		var all []taskexecutor.Task
		for i := range 5 {
			all = append(all, wanted(fmt.Sprint(i), UntilTold()))
		}
		set(t, tasks, all...)
		time.Sleep(time.Hour)
		if n := len(ends(t, told)); n != 0 {
			t.Fatalf("%d ended before they were told", n)
		}
		set(t, tasks, all[:4]...) // the last one is stopped, which is no end of its own
		begin := time.Now()
		w.obey(t.Context(), strings.NewReader(`{"endRate":10}`))
		synctest.Wait()
		got := ends(t, told)
		if len(got) != 4 || slices.ContainsFunc(got, func(n note) bool { return n.End == "4" }) {
			t.Fatalf("told %+v, want the ends of 0 to 3", got)
		}
		if spread := time.Unix(0, got[3].At).Sub(time.Unix(0, got[0].At)); spread < 300*time.Millisecond || time.Since(begin) > 500*time.Millisecond {
			t.Errorf("4 of 5 ends within %s, all by %s, want them 100 ms apart", spread, time.Since(begin))
		}
	})
}

func TestAnOrderThatMakesNoSenseIsTold(t *testing.T) {
	w, told := newWorld()
	w.obey(t.Context(), strings.NewReader("{}\nnonsense\n"))
	if got := ends(t, told); len(got) != 2 || got[0].Failed == "" || got[1].Failed == "" {
		t.Errorf("told %+v, want two failures", got)
	}
}

// The controller's client talks to it as to a real executor, tokens included.
func TestAClientFollowsATaskToItsEnd(t *testing.T) {
	root, err := token.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.NewSigner(root, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	w, _ := newWorld()
	log := slog.New(slog.DiscardHandler)
	handler := server.Guard(server.NewHandler(executors.NewTasks(w), unclean{}, log), token.NewVerifier(root.Certificate, "uid", clock.RealClock{}), log)
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	client := taskexecutor.New(srv.URL, taskexecutor.WithTokens(token.ForPod(signer.Sign, "uid")))
	t.Cleanup(client.CloseIdleConnections)
	if _, err := client.Set(t.Context(), []taskexecutor.Task{wanted("a", UntilTold())}); err != nil {
		t.Fatal(err)
	}
	rev := ""
	until := func(what string, reached func(taskexecutor.ProcessStatus) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for {
			list, next, err := client.Wait(ctx, rev, time.Minute)
			if err != nil || len(list) != 1 {
				t.Fatalf("wait until it %s: tasks %+v (%v)", what, list, err)
			}
			rev = next
			if reached(*list[0].ProcessStatus) {
				return
			}
		}
	}
	until("runs", func(s taskexecutor.ProcessStatus) bool { return s.Running != nil })
	w.endAll(t.Context(), 1000)
	until("ended", func(s taskexecutor.ProcessStatus) bool {
		return s.Terminated != nil && s.Terminated.Reason == taskexecutor.ReasonCompleted
	})
	stranger := taskexecutor.New(srv.URL)
	t.Cleanup(stranger.CloseIdleConnections)
	if _, err := stranger.Get(t.Context()); err == nil {
		t.Error("a call without a token is answered")
	}
}

func TestTheHostTakesInWhatItIsTold(t *testing.T) {
	h := &Host{ends: map[string]time.Time{}}
	h.listen(strings.NewReader(`{"serving":2}` + "\n" + `{"end":"a","at":1500000000}` + "\n"))
	if got := h.Ends(); h.Serving() != 2 || len(got) != 1 || !got["a"].Equal(time.Unix(1, 500_000_000)) || h.failure != "" {
		t.Errorf("serving %d, ends %v, failure %q", h.Serving(), got, h.failure)
	}
	h.Clear()
	h.listen(strings.NewReader("{}\nnonsense\n"))
	if h.Serving() != 0 || len(h.Ends()) != 0 || !strings.Contains(h.failure, "nonsense") {
		t.Errorf("serving %d, ends %v, failure %q, want none, none and the nonsense", h.Serving(), h.Ends(), h.failure)
	}
}
