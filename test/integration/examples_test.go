// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/internal/examples"
	simulated "opensandbox.io/controller/test/internal/executors"
)

// processes runs the tasks of simulated executors as processes of this machine. It is a [simulated.Life] and a server.Recycler.
type processes struct{ ctx context.Context }

func (p processes) Started(r *simulated.Run) (time.Duration, taskexecutor.Terminated, bool) {
	process := r.Task().Process // while the lock of the executor is held
	go func() {
		words := slices.Concat(process.Command, process.Args)
		cmd := exec.CommandContext(p.ctx, words[0], words[1:]...)
		out, err := cmd.CombinedOutput()
		how := taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}
		if err != nil {
			how = taskexecutor.Terminated{Reason: taskexecutor.ReasonNonZeroExit, ExitCode: int32(cmd.ProcessState.ExitCode()), Output: string(out)} //nolint:gosec // an exit code
		}
		r.End(how)
	}()
	return 0, taskexecutor.Terminated{}, false
}

func (processes) Ended(*simulated.Run, taskexecutor.Terminated) {}

func (processes) Ask(string) error { return errors.New("a simulated pod has no containers") }

func (processes) State() (taskexecutor.RecycleState, error) {
	return taskexecutor.RecycleState{}, errors.New("a simulated pod has no containers")
}

// startProcesses serves the executors of all pods of the test from this process, which many pods cost less than an executor each.
func (s *space) startProcesses() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		err := simulated.Serve(ctx, simulated.Options{
			Kubeconfig: s.kubeconfig, Namespace: s.name, Serving: func(int) {}, Failed: func(err error) { s.t.Error(err) },
			Open: func(ctx context.Context, _ *corev1.Pod) simulated.Executor {
				tasks := simulated.NewTasks(processes{ctx})
				context.AfterFunc(ctx, tasks.Close)
				return simulated.Executor{Tasks: tasks, Recycler: processes{}, Wrap: func(h http.Handler) http.Handler { return h }}
			},
		})
		if err != nil && ctx.Err() == nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
}

// in is the same namespace for a subtest, which must not end the test above it.
func (s *space) in(t *testing.T) *space {
	sub := *s
	sub.t, sub.ctx = t, t.Context()
	return &sub
}

// leavesNothing waits until no batch is left.
func (s *space) leavesNothing() {
	s.t.Helper()
	eventually(s.t, "delete the batch", func() error {
		var batches v1alpha1.BatchSandboxList
		s.must(s.client.List(s.ctx, &batches, client.InNamespace(s.name)))
		if len(batches.Items) > 0 {
			return fmt.Errorf("%d are there", len(batches.Items))
		}
		return nil
	})
}

func TestEachExampleRunsADifferentTaskInEachOfAHundredSandboxes(t *testing.T) {
	s := newSpace(t)
	s.startProcesses()
	s.startController("")
	const n = 100
	s.create(taskPool("p", n))
	s.idle("p", n)
	for _, fanout := range examples.Fanouts(t, "../..", s.bin) {
		t.Run(fanout.Name, func(t *testing.T) {
			s := s.in(t)
			ran := filepath.Join(t.TempDir(), "ran")
			got := fanout.Run(t.Context(), t, examples.Options{
				Kubeconfig: s.kubeconfig, Namespace: s.name, Pool: "p", Count: n, Timeout: settleTime, Quiet: true,
				Script: `echo "$1" >> ` + ran + `; echo "\"$1\" is odd"; exit $(($1 % 30 / 29 * 3))`, // 29, 59 and 89 fail
			})
			want, indexes := examples.Line("INDEX", "RESULT", "OUTPUT"), []string{}
			for i := range n {
				index := strconv.Itoa(i)
				indexes = append(indexes, index)
				if i%30 == 29 {
					want += examples.Line(index, "NonZeroExit", `"`+index+`" is odd`)
				} else {
					want += examples.Line(index, "Succeeded", "")
				}
			}
			if diff := cmp.Diff(want, got.Out); diff != "" {
				t.Errorf("it prints (-want +got):\n%s", diff)
			}
			if got.Code != 1 || !strings.Contains(got.Complaint, "3 of 100 tasks failed") {
				t.Errorf("it ends with %d and says %q, want 1 and that 3 failed", got.Code, got.Complaint)
			}
			data, err := os.ReadFile(ran)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Fields(string(data))
			slices.Sort(lines)
			slices.Sort(indexes)
			if diff := cmp.Diff(indexes, lines); diff != "" {
				t.Errorf("tasks that ran (-want +got):\n%s", diff)
			}
			s.leavesNothing()
			s.idle("p", n)
		})
	}
}

func TestAnExampleWhoseTasksAllSucceedEndsWithZero(t *testing.T) {
	s := newSpace(t)
	s.startProcesses()
	s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	for _, fanout := range examples.Fanouts(t, "../..", s.bin) {
		t.Run(fanout.Name, func(t *testing.T) {
			s := s.in(t)
			got := fanout.Run(t.Context(), t, examples.Options{
				Kubeconfig: s.kubeconfig, Namespace: s.name, Pool: "p", Count: 2, Timeout: settleTime, Quiet: true,
			})
			want := examples.Line("INDEX", "RESULT", "OUTPUT") + examples.Line("0", "Succeeded", "") + examples.Line("1", "Succeeded", "")
			if diff := cmp.Diff(examples.Outcome{Out: want}, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			s.leavesNothing()
			s.idle("p", 2)
		})
	}
}

func TestAnExampleWithoutItsPoolSaysSoAndLeavesNoBatch(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	for _, fanout := range examples.Fanouts(t, "../..", s.bin) {
		t.Run(fanout.Name, func(t *testing.T) {
			s := s.in(t)
			got := fanout.Run(t.Context(), t, examples.Options{
				Kubeconfig: s.kubeconfig, Namespace: s.name, Pool: "no-such-pool", Count: 2, Timeout: 3 * time.Second, Quiet: true,
			})
			if got.Code != 1 || got.Out != "" || !strings.Contains(got.Complaint, "there is no Pool no-such-pool") {
				t.Errorf("outcome %+v, want 1, nothing printed, and a word about the pool", got)
			}
			s.leavesNothing()
		})
	}
}

func TestAnExampleThatIsTerminatedGivesItsSandboxesBack(t *testing.T) {
	s := newSpace(t)
	s.startProcesses()
	s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	for _, fanout := range examples.Fanouts(t, "../..", s.bin) {
		t.Run(fanout.Name, func(t *testing.T) {
			s := s.in(t)
			fanout.MustBeThere(t)
			ctx, terminate := context.WithCancel(t.Context())
			defer terminate()
			ended := make(chan examples.Outcome, 1)
			go func() {
				ended <- fanout.Run(ctx, t, examples.Options{
					Kubeconfig: s.kubeconfig, Namespace: s.name, Pool: "p", Count: 2, Timeout: settleTime, Quiet: true, Script: "exec sleep 1000",
				})
			}()
			eventually(t, "run the tasks", func() error {
				var batches v1alpha1.BatchSandboxList
				s.must(s.client.List(s.ctx, &batches, client.InNamespace(s.name)))
				if len(batches.Items) != 1 || batches.Items[0].Status.TaskRunning != 2 {
					return fmt.Errorf("there are %d batches", len(batches.Items))
				}
				return nil
			})
			terminate()
			if got := <-ended; got.Code <= 0 || got.Out != "" {
				t.Errorf("outcome %+v, want an exit code of its own and nothing printed", got)
			}
			s.leavesNothing()
			s.idle("p", 2)
		})
	}
}
