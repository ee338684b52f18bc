// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// diary is a life of tasks that run for a minute, and notes what it is told.
type diary struct{ notes []string }

func (d *diary) Started(r *Run) (after time.Duration, how taskexecutor.Terminated, known bool) {
	d.notes = append(d.notes, "started "+r.Task().Name)
	return time.Minute, taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}, true
}

func (d *diary) Ended(r *Run, how taskexecutor.Terminated) {
	d.notes = append(d.notes, fmt.Sprintf("ended %s: %s after %s", r.Task().Name, how.Reason, how.FinishedAt.Sub(how.StartedAt)))
}

func (d *diary) want(t *testing.T, notes ...string) {
	t.Helper()
	if diff := cmp.Diff(notes, d.notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func simulated(names ...string) []taskexecutor.Task {
	var all []taskexecutor.Task
	for _, name := range names {
		all = append(all, taskexecutor.Task{Name: name, Process: taskexecutor.Process{Command: []string{"true"}}})
	}
	return all
}

// begun returns tasks of which these run.
func begun(t *testing.T, d *diary, names ...string) *Tasks {
	t.Helper()
	tasks := NewTasks(d)
	if _, err := tasks.Set(simulated(names...)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(startTime)
	synctest.Wait()
	return tasks
}

func reason(t *testing.T, tasks *Tasks, name string) string {
	t.Helper()
	got, err := tasks.Get(name)
	if err != nil || got.ProcessStatus.Terminated == nil {
		t.Fatalf("task %+v (%v), want one that ended", got, err)
	}
	return got.ProcessStatus.Terminated.Reason
}

func TestAnEndIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := begun(t, d, "a")
		time.Sleep(time.Minute)
		synctest.Wait()
		tasks.Lose(taskexecutor.ReasonExecutorLost)
		if _, err := tasks.Set(simulated("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := reason(t, tasks, "a"); got != taskexecutor.ReasonCompleted {
			t.Errorf("ended with %s", got)
		}
		d.want(t, "started a", "ended a: Completed after 1m0s")
	})
}

func TestATaskThatIsTakenOutOfTheSetIsCancelledAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := begun(t, d, "a", "b")
		if left, err := tasks.Set(simulated("b")); err != nil || len(left) != 1 {
			t.Fatalf("left %+v (%v), want b", left, err)
		}
		if _, err := tasks.Get("a"); !errors.Is(err, task.ErrNotFound) {
			t.Errorf("got %v, want that a is not known", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(d.notes); n != 4 || d.notes[2] != "ended a: Cancelled after 0s" {
			t.Errorf("notes %q, want a cancelled and b ended", d.notes)
		}
	})
}

func TestANewLifeOfTheExecutorKeepsRecordsAndLosesProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := begun(t, d, "a")
		_, before := tasks.Wait(t.Context(), "", 0)
		tasks.Lose(taskexecutor.ReasonExecutorLost)
		if _, after := tasks.Wait(t.Context(), before, time.Hour); after == before {
			t.Error("who waits is not told")
		}
		if got := reason(t, tasks, "a"); got != taskexecutor.ReasonExecutorLost {
			t.Errorf("ended with %s", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		d.want(t, "started a", "ended a: ExecutorLost after 0s")
	})
}

func TestATaskThatIsLostBeforeItsStartNeverRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := NewTasks(d)
		if _, err := tasks.Set(simulated("a")); err != nil {
			t.Fatal(err)
		}
		tasks.Lose(taskexecutor.ReasonSandboxLost)
		time.Sleep(time.Hour)
		synctest.Wait()
		d.want(t)
		if got := reason(t, tasks, "a"); got != taskexecutor.ReasonSandboxLost {
			t.Errorf("ended with %s", got)
		}
	})
}

func TestTheEndOfAPodIsNoEndOfATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := begun(t, d, "a")
		tasks.Close()
		time.Sleep(time.Hour)
		synctest.Wait()
		d.want(t, "started a")
		if _, err := tasks.Set(simulated("b")); !errors.Is(err, task.ErrClosing) {
			t.Errorf("got %v, want that it takes no more", err)
		}
	})
}

func TestOnlyIdleTasksCloseForARecycling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		tasks := begun(t, d, "a")
		if err := tasks.CloseIdle(); !errors.Is(err, task.ErrConflict) {
			t.Errorf("got %v, want that it has tasks", err)
		}
		if err := tasks.Remove("a"); err != nil {
			t.Fatal(err)
		}
		if err := tasks.CloseIdle(); err != nil {
			t.Error(err)
		}
		if _, err := tasks.Add(simulated("b")[0]); !errors.Is(err, task.ErrClosing) {
			t.Errorf("got %v, want that it takes no more", err)
		}
		tasks.Reopen()
		if _, err := tasks.Add(simulated("b")[0]); err != nil {
			t.Error(err)
		}
	})
}
