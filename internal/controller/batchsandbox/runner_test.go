// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// fakeExecutor is a task-executor at the other end of the network: it keeps the set it is told, and the test says what
// becomes of its tasks.
type fakeExecutor struct {
	mu      sync.Mutex
	tasks   []taskexecutor.Task
	rev     int
	changed chan struct{} // closed with every change
	noPoll  bool          // it doesn't know how to wait
	down    error         // what calls end with, nil to answer
	refuse  error         // what Set ends with, nil to take tasks
	keeps   bool          // tasks stay listed after an empty set

	sets  [][]taskexecutor.Task
	waits []time.Time
}

func newFakeExecutor() *fakeExecutor { return &fakeExecutor{changed: make(chan struct{})} }

// change changes what the executor does or knows, and lets whoever waits for that come to rest.
func (e *fakeExecutor) change(f func()) {
	e.mu.Lock()
	f()
	e.rev++
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
	synctest.Wait()
}

// becomes sets the state of the only task.
func (e *fakeExecutor) becomes(status taskexecutor.ProcessStatus) {
	e.change(func() { e.tasks[0].ProcessStatus = &status })
}

func (e *fakeExecutor) Set(_ context.Context, tasks []taskexecutor.Task) ([]taskexecutor.Task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := errors.Join(e.down, e.refuse); err != nil {
		return nil, err
	}
	e.sets = append(e.sets, tasks)
	if len(tasks) > 0 || !e.keeps {
		e.tasks = append([]taskexecutor.Task(nil), tasks...)
	}
	e.rev++
	close(e.changed)
	e.changed = make(chan struct{})
	return append([]taskexecutor.Task(nil), e.tasks...), nil
}

func (e *fakeExecutor) Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string, error) {
	e.mu.Lock()
	e.waits = append(e.waits, time.Now())
	changed, rev, down, noPoll := e.changed, strconv.Itoa(e.rev), e.down, e.noPoll
	e.mu.Unlock()
	if down == nil && !noPoll && since == rev {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down != nil {
		return nil, "", e.down
	}
	if rev = strconv.Itoa(e.rev); e.noPoll {
		rev = ""
	}
	return append([]taskexecutor.Task(nil), e.tasks...), rev, nil
}

// told are the sets it was told to run, once all has come to rest.
func (e *fakeExecutor) told() [][]taskexecutor.Task {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.sets)
}

// setCount counts the calls that told the executor what to run.
func (e *fakeExecutor) setCount() int { return len(e.told()) }

// polls are the times it was asked for news.
func (e *fakeExecutor) polls() []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]time.Time(nil), e.waits...)
}

// runnerWorld is a runner in a bubble whose time stands still while anything can go on.
type runnerWorld struct {
	*Runner
	t        *testing.T
	executor *fakeExecutor
	dialled  []string
	woken    int
}

// inBubble runs a test, ends the runner, and fails if anything of it is left.
func inBubble(t *testing.T, f func(w *runnerWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &runnerWorld{t: t, executor: newFakeExecutor()}
		var mu sync.Mutex
		wake := func(batch types.NamespacedName) {
			if batch != target1.batch {
				t.Errorf("woke %s", batch)
			}
			mu.Lock()
			defer mu.Unlock()
			w.woken++
		}
		w.Runner = NewRunner(ctx, clock.RealClock{}, wake, func(ip string, _ types.UID) Executor {
			mu.Lock()
			defer mu.Unlock()
			w.dialled = append(w.dialled, ip)
			return w.executor
		})
		defer w.Wait()
		defer cancel()
		f(w)
	})
}

var (
	target1 = target{batch: types.NamespacedName{Namespace: namespace, Name: "b"}, uid: "uid-b", index: 0, ip: "10.0.0.1"}
	task1   = taskexecutor.Task{Name: "uid-b-0-1", Process: taskexecutor.Process{Command: []string{"true"}}}
	running = taskexecutor.ProcessStatus{Running: &taskexecutor.Running{}}
)

func endedWith(end taskexecutor.Terminated) taskexecutor.ProcessStatus {
	return taskexecutor.ProcessStatus{Terminated: &end}
}

// state waits until nothing can go on without time, and returns what is known of the task.
func (w *runnerWorld) state() taskState {
	synctest.Wait()
	return w.states(target1.uid)[target1.index]
}

func (w *runnerWorld) wantPhase(phase taskPhase) taskState {
	w.t.Helper()
	s := w.state()
	if s.phase != phase {
		w.t.Fatalf("phase %d, want %d", s.phase, phase)
	}
	return s
}

func TestRunTwiceTellsTheExecutorOnce(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.wantPhase(taskPending)
		w.Run(target1, 1, task1)
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		w.Run(target1, 1, task1)
		time.Sleep(time.Hour)
		w.wantPhase(taskRunning)
		if diff := cmp.Diff([][]taskexecutor.Task{{task1}}, w.executor.told()); diff != "" {
			t.Errorf("sets (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"10.0.0.1"}, w.dialled); diff != "" {
			t.Errorf("dialled (-want +got):\n%s", diff)
		}
		if w.woken != 1 {
			t.Errorf("woke the batch %d times, want once for the start", w.woken)
		}
	})
}

func TestAnHourOfRunningCostsAFewCalls(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		before := len(w.executor.polls())
		time.Sleep(time.Hour)
		w.wantPhase(taskRunning)
		if calls := len(w.executor.polls()) - before; calls < 12 || calls > 15 {
			t.Errorf("%d calls in an hour, want one each 4 to 5 minutes", calls)
		}
	})
}

func TestAnEndIsReportedOnceAndWakesTheBatch(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		woken := w.woken
		w.executor.becomes(endedWith(taskexecutor.Terminated{ExitCode: 3, Reason: taskexecutor.ReasonNonZeroExit}))
		s := w.wantPhase(taskEnded)
		if s.end.ExitCode != 3 || s.try != 1 {
			t.Errorf("state %+v", s)
		}
		time.Sleep(time.Hour)
		if w.state(); w.woken != woken+1 {
			t.Errorf("woke the batch %d times for one end", w.woken-woken)
		}
		w.Run(target1, 1, task1)
		if w.wantPhase(taskEnded); w.executor.setCount() != 1 {
			t.Errorf("ran an ended try again")
		}
	})
}

func TestATaskThatEndsBeforeItIsSeenRunning(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(endedWith(taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}))
		w.wantPhase(taskEnded)
	})
}

func TestASilentExecutorMakesTheTaskUnknownAfterFiveSeconds(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.down = errors.New("no route")
		start := time.Now()
		w.Run(target1, 1, task1)
		time.Sleep(unknownAfter - time.Millisecond)
		w.wantPhase(taskPending)
		time.Sleep(3 * time.Second) // the next try comes at most 2 s and their jitter later
		if w.wantPhase(taskUnknown); w.woken != 1 {
			t.Errorf("woke the batch %d times after %s, want once", w.woken, time.Since(start))
		}
		time.Sleep(time.Hour)
		if w.state(); w.woken != 1 {
			t.Errorf("woke the batch %d times in an hour of silence, want once", w.woken)
		}
		w.executor.mu.Lock()
		w.executor.down = nil
		w.executor.mu.Unlock()
		time.Sleep(3 * time.Second)
		w.wantPhase(taskPending)
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		if n := w.executor.setCount(); n != 1 {
			t.Errorf("%d sets reached the executor, want 1", n)
		}
	})
}

func TestARunningTaskSurvivesAShortSilence(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		w.executor.change(func() { w.executor.down = errors.New("reset") })
		time.Sleep(2 * time.Second)
		w.wantPhase(taskRunning)
		w.executor.change(func() { w.executor.down = nil })
		time.Sleep(3 * time.Second)
		if w.wantPhase(taskRunning); w.woken != 1 || w.executor.setCount() != 1 {
			t.Errorf("woke %d times, %d sets, want 1 and 1", w.woken, w.executor.setCount())
		}
	})
}

func TestARecordThatIsMissingAfterTheStartIsExecutorLost(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		w.executor.change(func() { w.executor.tasks = nil })
		if s := w.wantPhase(taskEnded); s.end.Reason != taskexecutor.ReasonExecutorLost || s.end.ExitCode != -1 {
			t.Errorf("end %+v, want ExecutorLost", *s.end)
		}
		if n := w.executor.setCount(); n != 1 {
			t.Errorf("%d sets: the try was run again", n)
		}
	})
}

func TestARecordThatIsMissingBeforeTheStartIsHandedOverAgain(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.change(func() { w.executor.tasks = nil })
		time.Sleep(time.Second)
		w.wantPhase(taskPending)
		if n := w.executor.setCount(); n != 2 {
			t.Errorf("%d sets, want a second one", n)
		}
	})
}

func TestARefusedTaskIsAStartError(t *testing.T) {
	for name, refusal := range map[string]error{
		"it is wrong":           &taskexecutor.StatusError{Status: http.StatusBadRequest, Code: "Bad Request", Message: "no"},
		"it is too large":       &taskexecutor.StatusError{Status: http.StatusRequestEntityTooLarge},
		"it is too large to go": fmt.Errorf("set tasks: %w", taskexecutor.ErrRequestTooLarge),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *runnerWorld) {
				w.executor.refuse = refusal
				w.Run(target1, 1, task1)
				if s := w.wantPhase(taskEnded); s.end.Reason != taskexecutor.ReasonStartError || s.end.Message == "" {
					t.Errorf("end %+v, want StartError with a message", *s.end)
				}
			})
		})
	}
}

func TestOtherAnswersAreNoEnd(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.refuse = &taskexecutor.StatusError{Status: http.StatusConflict, Code: "Conflict"}
		w.Run(target1, 1, task1)
		time.Sleep(10 * time.Second)
		w.wantPhase(taskUnknown)
	})
}

func TestAnExecutorThatCannotWaitIsPolledEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.noPoll = true
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		time.Sleep(20 * time.Second)
		w.wantPhase(taskRunning)
		waits := w.executor.polls()
		if len(waits) != 11 {
			t.Errorf("%d polls in 20 s, want 11", len(waits))
		}
		for i := 1; i < len(waits); i++ {
			if pause := waits[i].Sub(waits[i-1]); pause != shortPoll {
				t.Errorf("poll %d came after %s", i, pause)
			}
		}
	})
}

func TestAnotherTryOrAddressReplacesTheWatcher(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		w.executor.becomes(running)
		w.wantPhase(taskRunning)
		task2 := task1
		task2.Name = "uid-b-0-2"
		w.Run(target1, 2, task2)
		if s := w.wantPhase(taskPending); s.try != 2 {
			t.Errorf("try %d, want 2", s.try)
		}
		moved := target1
		moved.ip = "10.0.0.2"
		w.Run(moved, 2, task2)
		if s := w.wantPhase(taskPending); s.ip != "10.0.0.2" {
			t.Errorf("followed at %s, want the new address", s.ip)
		}
		if diff := cmp.Diff([]string{"10.0.0.1", "10.0.0.1", "10.0.0.2"}, w.dialled); diff != "" {
			t.Errorf("dialled (-want +got):\n%s", diff)
		}
	})
}

func TestStopWaitsForTheEmptyList(t *testing.T) {
	for name, noPoll := range map[string]bool{"an executor that can wait": false, "an executor that can't": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *runnerWorld) {
				w.executor.noPoll = noPoll
				w.Run(target1, 1, task1)
				w.state()
				w.executor.becomes(running)
				w.state()
				w.executor.keeps = true
				w.Stop(target1)
				time.Sleep(9 * time.Second)
				w.wantPhase(taskPending)
				w.Stop(target1)
				w.state()
				if n := w.executor.setCount(); n != 2 {
					t.Errorf("%d sets, want one to run and one to stop", n)
				}
				if last := w.executor.told()[1]; len(last) != 0 {
					t.Errorf("stopped with the set %v", last)
				}
				w.executor.change(func() { w.executor.tasks = nil })
				time.Sleep(3 * time.Second)
				w.wantPhase(taskStopped)
			})
		})
	}
}

func TestStopWhereNothingRunsIsDoneAtOnce(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Stop(target1)
		if w.wantPhase(taskStopped); w.woken != 1 {
			t.Errorf("woke the batch %d times, want once", w.woken)
		}
	})
}

func TestAnUnreachableExecutorIsUnstoppableAfterThirtySeconds(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.down = errors.New("no route")
		w.Stop(target1)
		time.Sleep(unreachableAfter - time.Millisecond)
		w.wantPhase(taskPending)
		time.Sleep(3 * time.Second)
		if w.wantPhase(taskUnstoppable); w.woken != 1 {
			t.Errorf("woke the batch %d times, want once", w.woken)
		}
	})
}

func TestProcessesThatNeverEndAreUnstoppableAfterAMinute(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.tasks, w.executor.keeps = []taskexecutor.Task{task1}, true
		w.Stop(target1)
		time.Sleep(stopLimit - time.Millisecond)
		w.wantPhase(taskPending)
		time.Sleep(unreachableAfter)
		w.wantPhase(taskUnstoppable)
	})
}

func TestForgettingEndsTheWatcher(t *testing.T) {
	forget := map[string]func(w *runnerWorld){
		"the index":                func(w *runnerWorld) { w.Forget(target1.uid, target1.index) },
		"the batch":                func(w *runnerWorld) { w.ForgetBatch(target1.uid) },
		"the name":                 func(w *runnerWorld) { w.ForgetName(target1.batch) },
		"the index, then the name": func(w *runnerWorld) { w.Forget(target1.uid, target1.index); w.ForgetName(target1.batch) },
	}
	for name, f := range forget {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *runnerWorld) {
				w.Run(target1, 1, task1)
				w.wantPhase(taskPending)
				f(w)
				w.Wait() // hangs, and fails the bubble, if the watcher goes on
				if states := w.states(target1.uid); len(states) != 0 {
					t.Errorf("still known: %v", states)
				}
				if w.woken != 0 {
					t.Errorf("woke a batch that forgot its tasks")
				}
			})
		})
	}
}

func TestNothingStaysOfAForgottenBatch(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.Forget(target1.uid, target1.index)
		w.ForgetName(target1.batch)
		if len(w.byName) != 0 || len(w.byUID) != 0 {
			t.Errorf("left: %v, %v", w.byName, w.byUID)
		}
	})
}

func TestANewBatchOfAnOldNameForgetsTheOldOne(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		w.state()
		again := target1
		again.uid = "uid-again"
		w.Run(again, 1, task1)
		synctest.Wait()
		if states := w.states(target1.uid); len(states) != 0 {
			t.Errorf("the vanished batch is still followed: %v", states)
		}
		w.ForgetBatch(target1.uid)
		w.ForgetName(target1.batch)
		w.Wait()
	})
}

func TestTheRunnerEndsWithItsContext(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.down = errors.New("no route")
		w.Run(target1, 1, task1)
		other := target1
		other.index = 1
		w.Stop(other)
		w.state()
	}) // the bubble ends the context, waits, and fails if a goroutine is left
}

func TestAnExecutorThatAnswersTooQuicklyIsAskedLessOften(t *testing.T) {
	var answers haste
	now := time.Unix(0, 0)
	for i := range maxHasty {
		if answers.tooMuch(now) {
			t.Fatalf("answer %d is too much, want %d to be borne", i+1, maxHasty)
		}
		now = now.Add(time.Millisecond)
	}
	if !answers.tooMuch(now) {
		t.Error("one more is borne, too")
	}
	if answers.tooMuch(now.Add(hastyPause + time.Millisecond)) {
		t.Error("an answer that took its time is too much")
	}
}

// The status of a batch lists but some of the tasks that failed; what is done with a sandbox depends on each.
func TestHowATaskEndedIsKnownWhileItsSandboxIsStopped(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.Run(target1, 1, task1)
		synctest.Wait()
		end := taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonStartError}
		w.executor.becomes(endedWith(end))
		w.wantPhase(taskEnded)
		w.Stop(target1)
		if got := w.wantPhase(taskStopped); got.end == nil || got.end.Reason != end.Reason {
			t.Errorf("ended with %+v, want %+v", got.end, end)
		}
		elsewhere := target1
		elsewhere.ip = "10.0.0.2" // another sandbox has the index
		w.Stop(elsewhere)
		if got := w.state(); got.end != nil {
			t.Errorf("ended with %+v in a sandbox that it never ran in", got.end)
		}
	})
}

var task2 = taskexecutor.Task{Name: "uid-b-0-2", Process: task1.Process}

func TestATryThatItsExecutorKnowsIsFollowedAndNotSet(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		known := task2
		known.ProcessStatus = &running
		w.executor.tasks = []taskexecutor.Task{known}
		w.Resume(target1, run{try: 2, task: task2, wait: time.Hour})
		w.wantPhase(taskRunning)
		w.executor.becomes(endedWith(taskexecutor.Terminated{ExitCode: 3}))
		if s := w.wantPhase(taskEnded); s.try != 2 || s.end.ExitCode != 3 {
			t.Errorf("state %+v, want the end of try 2", s)
		}
		if n := w.executor.setCount(); n > 0 {
			t.Errorf("told %d times what to run", n)
		}
	})
}

func TestATryBeginsWhenNothingOfTheOnesBeforeIsLeftAndItsWaitIsOver(t *testing.T) {
	for name, noPoll := range map[string]bool{"with an executor that waits": false, "with one that is polled": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *runnerWorld) {
				w.executor.tasks, w.executor.keeps, w.executor.noPoll = []taskexecutor.Task{task1}, true, noPoll
				w.Resume(target1, run{try: 2, task: task2, wait: 4 * time.Second})
				time.Sleep(20 * time.Second)
				w.wantPhase(taskPending)
				if diff := cmp.Diff([][]taskexecutor.Task{nil}, w.executor.told()); diff != "" {
					t.Fatalf("sets while a process is left (-want +got):\n%s", diff)
				}
				if polls := len(w.executor.polls()); polls > 45 {
					t.Errorf("asked %d times in 20 s", polls)
				}
				w.executor.change(func() { w.executor.tasks = nil })
				time.Sleep(3900 * time.Millisecond)
				if n := w.executor.setCount(); n != 1 {
					t.Errorf("%d sets before the wait is over, want 1", n)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if diff := cmp.Diff([][]taskexecutor.Task{nil, {task2}}, w.executor.told()); diff != "" {
					t.Errorf("sets (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestATryBesideWhatNeverEndsIsNotBegun(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.tasks, w.executor.keeps = []taskexecutor.Task{task1}, true
		w.Run(target1, 2, task2)
		time.Sleep(stopLimit - time.Second)
		w.wantPhase(taskPending)
		time.Sleep(unreachableAfter)
		if s := w.wantPhase(taskEnded); s.end.Reason != taskexecutor.ReasonStartError || s.try != 2 {
			t.Errorf("state %+v, want a StartError of try 2", s)
		}
		if sets := w.executor.told(); len(sets) != 1 || len(sets[0]) != 0 {
			t.Errorf("told %v, want to stop what is left and nothing else", sets)
		}
	})
}

func TestASilentExecutorMakesANextTryUnknownUntilItAnswers(t *testing.T) {
	inBubble(t, func(w *runnerWorld) {
		w.executor.down = errors.New("no route")
		w.Run(target1, 2, task2)
		time.Sleep(unknownAfter - time.Second)
		w.wantPhase(taskPending)
		time.Sleep(4 * time.Second)
		w.wantPhase(taskUnknown)
		w.executor.change(func() { w.executor.down = nil })
		time.Sleep(3 * time.Second)
		w.wantPhase(taskPending)
		if diff := cmp.Diff([][]taskexecutor.Task{{task2}}, w.executor.told()); diff != "" {
			t.Errorf("sets (-want +got):\n%s", diff)
		}
	})
}

func TestForgettingEndsAWatcherThatClearsOrWaits(t *testing.T) {
	for name, left := range map[string][]taskexecutor.Task{"clears": {task1}, "waits": nil} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *runnerWorld) {
				w.executor.tasks, w.executor.keeps = left, true
				w.Resume(target1, run{try: 2, task: task2, wait: time.Hour})
				time.Sleep(time.Second)
				w.Forget(target1.uid, target1.index)
				w.Wait() // hangs, and fails the bubble, if the watcher goes on
			})
		})
	}
}
