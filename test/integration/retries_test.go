// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// marks is a file to which each run of a task adds its name, which a task finds in no variable: the script counts.
func (s *space) marks() string { return filepath.Join(s.t.TempDir(), "marks") }

func wantMarks(t *testing.T, file string, want int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got := strings.Count(string(data), "\n"); got != want {
		t.Errorf("%d runs left a mark, want %d", got, want)
	}
}

// retriedBatch is a task batch of one replica whose script runs with $MARKS set to the file.
func retriedBatch(name, pool, script string, limit int32) *v1alpha1.BatchSandbox {
	sb := makeTaskBatch(name, pool, script, 1)
	sb.Spec.TaskTemplate.Spec.BackoffLimit = &limit
	return sb
}

func wantTries(t *testing.T, sb *v1alpha1.BatchSandbox, want ...v1alpha1.TaskTries) {
	t.Helper()
	if got := sb.Status.TaskTries; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("tries %+v, want %+v", got, want)
	}
}

// podUID is the pod of index 0.
func (s *space) podUID(name string) types.UID {
	s.t.Helper()
	held, _, err := annotations(s.batch(name))
	s.must(err)
	for _, pod := range s.pods() {
		if pod.Name == held[0] {
			return pod.UID
		}
	}
	s.t.Fatalf("there is no pod %s", held[0])
	return ""
}

func (s *space) taskRuns(name string, marks string, n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("run the task for the %d. time", n), func() error {
		data, err := os.ReadFile(marks)
		if got := strings.Count(string(data), "\n"); got != n {
			return fmt.Errorf("%d runs (%w), status %+v", got, err, s.batch(name).Status)
		}
		return nil
	})
}

func TestATaskSucceedsAtItsThirdTry(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	marks := s.marks()
	s.create(retriedBatch("b", "p", "echo run >> "+marks+"; [ $(wc -l < "+marks+") = 3 ]", 5))
	sb := s.tasksEnded("b")
	if st := sb.Status; st.TaskSucceed != 1 || taskSum(st) != 1 || st.CompletedIndexes != "0" {
		t.Errorf("status %+v, want it succeeded", st)
	}
	wantTries(t, sb, v1alpha1.TaskTries{Failed: 2})
	wantMarks(t, marks, 3)
}

func TestATaskThatUsesItsTriesUpFails(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	marks := s.marks()
	s.create(retriedBatch("b", "p", "echo run >> "+marks+"; exit 7", 1))
	eventually(t, "say what is tried again, and why", func() error {
		for _, c := range s.batch("b").Status.Conditions {
			if c.Type == v1alpha1.ConditionTasksCompleted && strings.Contains(c.Message, "index 0 failed with exit code 7, try 2 of 2 follows after 1s") {
				return nil
			}
		}
		return fmt.Errorf("status %+v", s.batch("b").Status)
	})
	sb := s.tasksEnded("b")
	if f := sb.Status.FailedTasks; len(f) != 1 || f[0].Reason != v1alpha1.TaskReasonNonZeroExit || f[0].Tries != 2 || *f[0].ExitCode != 7 {
		t.Errorf("failed tasks %+v, want NonZeroExit with 7 at the second try", f)
	}
	wantTries(t, sb, v1alpha1.TaskTries{Failed: 1})
	wantMarks(t, marks, 2)
}

func TestATaskThatRunsTooLongIsTriedAgain(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	marks := s.marks()
	sb := retriedBatch("b", "p", "echo run >> "+marks+"; [ $(wc -l < "+marks+") = 2 ] || sleep 1000", 1)
	one := int64(1)
	sb.Spec.TaskTemplate.Spec.TimeoutSeconds = &one
	s.create(sb)
	sb = s.tasksEnded("b")
	if sb.Status.TaskSucceed != 1 {
		t.Errorf("status %+v, want it succeeded", sb.Status)
	}
	wantTries(t, sb, v1alpha1.TaskTries{Failed: 1})
	wantMarks(t, marks, 2)
}

// What a try leaves behind on purpose is ended before the next one begins in the same sandbox, also if it doesn't want to go.
func TestANextTryBeginsWhenNothingOfTheOneBeforeIsLeft(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	dir := t.TempDir()
	// The first try leaves a process that ignores SIGTERM and says so; the second looks for it.
	script := `cd ` + dir + `
if [ ! -e pid ]; then
	(trap '' TERM; echo $BASHPID > pid.new; mv pid.new pid; while :; do sleep 0.1; done) &
	while [ ! -e pid ]; do sleep 0.01; done
	exit 1
fi
if [ -d /proc/$(cat pid) ]; then echo left > result; else echo gone > result; fi`
	sb := retriedBatch("b", "p", script, 1)
	sb.Spec.TaskTemplate.Spec.Process.Command[0] = "bash"
	s.create(sb)
	sb = s.tasksEnded("b")
	if sb.Status.TaskSucceed != 1 {
		t.Errorf("status %+v, want it succeeded", sb.Status)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "result")); err != nil || string(got) != "gone\n" {
		t.Errorf("the second try found what the first left %q (%v)", got, err)
	}
}

func TestATaskWhoseExecutorIsKilledRunsAgainAndItCostsNoneOfBackoffLimit(t *testing.T) {
	s := newSpace(t)
	e := s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	marks := s.marks()
	s.create(retriedBatch("b", "p", "echo run >> "+marks+"; [ $(wc -l < "+marks+") = 3 ] || sleep 1000", 0))
	for n := 1; n <= 2; n++ {
		s.taskRuns("b", marks, n)
		e.kill(s.podUID("b"))
	}
	sb := s.tasksEnded("b")
	if sb.Status.TaskSucceed != 1 {
		t.Errorf("status %+v, want it succeeded", sb.Status)
	}
	wantTries(t, sb, v1alpha1.TaskTries{Lost: 2})
	wantMarks(t, marks, 3)
}

func TestATaskThatLosesItsExecutorFourTimesFails(t *testing.T) {
	s := newSpace(t)
	e := s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	marks := s.marks()
	s.create(retriedBatch("b", "p", "echo run >> "+marks+"; sleep 1000", 9))
	for n := 1; n <= 1+v1alpha1.MaxLostTries; n++ {
		s.taskRuns("b", marks, n)
		e.kill(s.podUID("b"))
	}
	sb := s.tasksEnded("b")
	if f := sb.Status.FailedTasks; len(f) != 1 || f[0].Reason != v1alpha1.TaskReasonExecutorLost || f[0].Tries != 4 {
		t.Errorf("failed tasks %+v, want ExecutorLost at the fourth try", f)
	}
	wantTries(t, sb, v1alpha1.TaskTries{Lost: 3})
	wantMarks(t, marks, 4)
}

// A controller that is killed again and again while tasks fail and are tried again runs no try twice and skips none.
func TestKilledBetweenTriesNoTryRunsTwiceAndNoneIsSkipped(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	const tasks = 6
	s.create(taskPool("p", tasks))
	s.idle("p", tasks)
	dir := t.TempDir()
	sb := makeTaskBatch("b", "p", `echo run >> `+dir+`/$INDEX; sleep 0.2; [ $(wc -l < `+dir+`/$INDEX) = 3 ]`, tasks)
	limit := int32(2)
	sb.Spec.TaskTemplate.Spec.BackoffLimit = &limit
	for i := range tasks {
		sb.Spec.ShardTaskPatches = append(sb.Spec.ShardTaskPatches,
			*raw(fmt.Sprintf(`{"spec":{"process":{"env":[{"name":"INDEX","value":"%d"}]}}}`, i)))
	}
	s.create(sb)
	ctx, cancel := context.WithCancel(s.ctx)
	var killing sync.WaitGroup
	killing.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			time.Sleep(time.Duration(300+n%7*130) * time.Millisecond)
			c.kill()
			if err := c.start(); err != nil {
				t.Error(err)
			}
		}
	})
	time.AfterFunc(8*time.Second, cancel)
	killing.Wait()
	st := s.tasksEnded("b")
	if st.Status.TaskSucceed != tasks {
		t.Errorf("status %+v, want all succeeded", st.Status)
	}
	var want []v1alpha1.TaskTries
	for i := range tasks {
		want = append(want, v1alpha1.TaskTries{Index: int32(i), Failed: 2})
		wantMarks(t, filepath.Join(dir, fmt.Sprint(i)), 3)
	}
	wantTries(t, st, want...)
}
