// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// executorPod makes a pod of a sandbox and an executor that no controller knows of. The executor takes calls from everybody,
// for nobody but the API server reaches a pod of this test.
func (s *space) executorPod(name, sandboxContext string) {
	s.t.Helper()
	pod := &corev1.Pod{}
	s.must(yaml.UnmarshalStrict([]byte(fmt.Sprintf(`
metadata: {name: %s}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: %s
    image: ubuntu:latest
    command: ["sh", "-c", "mkdir /tmp/marks && chmod 777 /tmp/marks && exec sleep 3600"]
    readinessProbe: {exec: {command: ["test", "-d", "/tmp/marks"]}, periodSeconds: 1}
    securityContext: %s
  - name: %s
    image: %s
    args: ["-allow-unauthenticated"]
    securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
    volumeMounts: [{name: records, mountPath: /var/lib/sandbox/tasks}]
  volumes: [{name: records, emptyDir: {}}]
`, name, sandboxContainer, sandboxContext, v1alpha1.TaskExecutorContainer, s.executorImage)), pod))
	s.create(pod)
	s.eventually("pod "+name+" is ready", func() error {
		if p := s.pod(name); !isReady(p) {
			return fmt.Errorf("it is %+v", p.Status)
		}
		return nil
	})
}

// executor returns a client of a pod's executor, by way of the API server.
func (s *space) executor(pod string) *taskexecutor.Client {
	s.t.Helper()
	transport, err := rest.TransportFor(s.config)
	s.must(err)
	return taskexecutor.New(fmt.Sprintf("%s/api/v1/namespaces/%s/pods/%s:%d/proxy", s.config.Host, s.name, pod, taskexecutor.DefaultPort),
		taskexecutor.WithTransport(transport))
}

// marked is a task that leaves a mark first thing, each time it runs.
func marked(name, script string) taskexecutor.Task {
	return taskexecutor.Task{Name: name, Process: taskexecutor.Process{
		Command: []string{"sh", "-c", fmt.Sprintf("echo run >> /tmp/marks/%s; %s", name, script)},
	}}
}

// set asks for tasks as the controller does: again, until it is answered.
func (s *space) set(c *taskexecutor.Client, tasks ...taskexecutor.Task) map[string]*taskexecutor.ProcessStatus {
	s.t.Helper()
	var list []taskexecutor.Task
	s.eventually("the executor takes the tasks", func() (err error) {
		list, err = c.Set(s.ctx, tasks)
		return err
	})
	return byName(list)
}

func byName(list []taskexecutor.Task) map[string]*taskexecutor.ProcessStatus {
	status := map[string]*taskexecutor.ProcessStatus{}
	for _, task := range list {
		status[task.Name] = task.ProcessStatus
	}
	return status
}

// tasksAre waits until ok says nothing against the list of tasks, and returns the list.
func (s *space) tasksAre(c *taskexecutor.Client, what string, ok func(map[string]*taskexecutor.ProcessStatus) error) map[string]*taskexecutor.ProcessStatus {
	s.t.Helper()
	var status map[string]*taskexecutor.ProcessStatus
	s.eventually(what, func() error {
		list, err := c.Get(s.ctx)
		if err != nil {
			return err
		}
		status = byName(list)
		return ok(status)
	})
	return status
}

// endOf is the end of a task, or why there is none.
func endOf(status map[string]*taskexecutor.ProcessStatus, name string) (*taskexecutor.Terminated, error) {
	switch s := status[name]; {
	case s == nil:
		return nil, fmt.Errorf("%s is not known", name)
	case s.Terminated == nil:
		return nil, fmt.Errorf("%s has not ended: %+v", name, s)
	default:
		return s.Terminated, nil
	}
}

func runs(status map[string]*taskexecutor.ProcessStatus, name string) error {
	if s := status[name]; s == nil || s.Running == nil {
		return fmt.Errorf("%s doesn't run: %+v", name, s)
	}
	return nil
}

// killExecutor kills the executor of a pod and returns when its container has been restarted.
func (s *space) killExecutor(pod string, restarts int32) {
	s.t.Helper()
	if out, err := s.sh(pod, v1alpha1.TaskExecutorContainer, "kill -9 $(pidof task-executor)"); err != nil {
		s.t.Logf("kill: %s %v", out, err) // the shell may end with its container before it can say so
	}
	s.eventually("the executor of "+pod+" was restarted", func() error {
		for _, c := range s.pod(pod).Status.ContainerStatuses {
			if c.Name == v1alpha1.TaskExecutorContainer && (c.RestartCount != restarts || c.State.Running == nil) {
				return fmt.Errorf("%d restarts, state %+v", c.RestartCount, c.State)
			}
		}
		return nil
	})
}

// Two kills per pod: the kubelet lets a container wait for longer with each.
func TestExecutorsThatAreKilledTenTimesRunNoTaskTwiceAndReportEveryEndAsItWas(t *testing.T) {
	t.Parallel()
	for i := range 5 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.executorPod("victim", "{}")
			c := s.executor("victim")
			tree := "(setsid sleep 4444 &); exec sleep 5555"
			ended, running := marked("ended", "echo out; exit 3"), marked("running", tree)

			s.set(c, ended, running)
			before := s.tasksAre(c, "one ended and one runs", func(status map[string]*taskexecutor.ProcessStatus) error {
				_, err := endOf(status, "ended")
				return errors.Join(err, runs(status, "running"))
			})
			s.killExecutor("victim", 1)
			after := s.tasksAre(c, "the tasks are known", func(status map[string]*taskexecutor.ProcessStatus) error {
				_, err := endOf(status, "running")
				return err
			})
			s.wantKept(before, after, "ended")
			s.wantLost(after, "running")
			s.wantNone("victim", "sleep 4444", "sleep 5555")

			// The second at another moment each time: while these are being started, or shortly after.
			next := []taskexecutor.Task{ended, running, marked("next-0", "echo out"), marked("next-1", tree), marked("next-2", "sleep 0.1; exit 4")}
			s.set(c, next...)
			select {
			case <-time.After(time.Duration(i) * 30 * time.Millisecond):
			case <-s.ctx.Done():
			}
			s.killExecutor("victim", 2)
			s.set(c, next...)
			last := s.tasksAre(c, "all but the one that may run have ended", func(status map[string]*taskexecutor.ProcessStatus) error {
				_, err0 := endOf(status, "next-0")
				_, err2 := endOf(status, "next-2")
				if _, err := endOf(status, "next-1"); err != nil {
					return errors.Join(err0, err2, runs(status, "next-1"))
				}
				return errors.Join(err0, err2)
			})
			s.wantKept(after, last, "ended", "running")
			s.wantOneRun("victim", last, next)
			s.set(c)
			s.tasksAre(c, "no task is known", func(status map[string]*taskexecutor.ProcessStatus) error {
				if len(status) > 0 {
					return fmt.Errorf("known are %v", status)
				}
				return nil
			})
			s.wantNone("victim", "sleep 4444", "sleep 5555")
		})
	}
}

// wantKept checks that these tasks have the same end as before.
func (s *space) wantKept(before, after map[string]*taskexecutor.ProcessStatus, names ...string) {
	s.t.Helper()
	for _, name := range names {
		if diff := cmp.Diff(before[name], after[name]); diff != "" {
			s.t.Errorf("%s ended otherwise before (-before +after):\n%s", name, diff)
		}
	}
}

func (s *space) wantLost(status map[string]*taskexecutor.ProcessStatus, name string) {
	s.t.Helper()
	end, err := endOf(status, name)
	s.must(err)
	if end.Reason != taskexecutor.ReasonExecutorLost || end.ExitCode != -1 || end.StartedAt.IsZero() {
		s.t.Errorf("%s ended with %+v, want %s", name, end, taskexecutor.ReasonExecutorLost)
	}
}

// wantNone checks that no process of the pod has one of these command lines.
func (s *space) wantNone(pod string, commands ...string) {
	s.t.Helper()
	processes := s.mustSh(pod, sandboxContainer, "ps -eo args")
	if len(without(processes, commands)) != len(commands) || !strings.Contains(processes, "ps -eo args") {
		s.t.Errorf("some of %q are left:\n%s", commands, processes)
	}
}

// wantOneRun compares what the tasks report with the marks they left: one that ran to its end has one, one that was lost has
// one at most.
func (s *space) wantOneRun(pod string, status map[string]*taskexecutor.ProcessStatus, tasks []taskexecutor.Task) {
	s.t.Helper()
	wantEnds := map[string]int32{"ended": 3, "next-0": 0, "next-2": 4}
	for _, task := range tasks {
		name := task.Name
		got := strings.Fields(s.mustSh(pod, sandboxContainer, "cat /tmp/marks/"+name+" 2>/dev/null || true"))
		end := status[name].Terminated
		lost := end != nil && end.Reason == taskexecutor.ReasonExecutorLost
		if len(got) > 1 || len(got) == 0 && !lost {
			s.t.Errorf("%s has left %q, and ended with %+v", name, got, end)
		}
		if want, ok := wantEnds[name]; ok && !lost && end.ExitCode != want {
			s.t.Errorf("%s ended with %+v, want exit code %d or that it was lost", name, end, want)
		}
		s.t.Logf("%s: %d runs, end %+v", name, len(got), end)
	}
}

func TestATaskIsLostWithItsSandboxAndTheNextOneRunsInTheNewContainer(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.executorPod("one", "{}")
	c := s.executor("one")
	old := marked("old", "exec sleep 5555")
	s.set(c, old)
	s.tasksAre(c, "it runs", func(status map[string]*taskexecutor.ProcessStatus) error { return runs(status, "old") })
	if out, err := s.sh("one", sandboxContainer, `kill -9 $(pgrep -xf "sleep 3600")`); err != nil {
		t.Logf("kill: %s %v", out, err) // the shell may end with its container before it can say so
	}
	s.set(c, old, marked("new", "test ! -e /tmp/marks/old"))
	status := s.tasksAre(c, "both ended", func(status map[string]*taskexecutor.ProcessStatus) error {
		_, errOld := endOf(status, "old")
		_, errNew := endOf(status, "new")
		return errors.Join(errOld, errNew)
	})
	if end := status["old"].Terminated; end.Reason != taskexecutor.ReasonSandboxLost {
		t.Errorf("the old one ended with %+v, want %s", end, taskexecutor.ReasonSandboxLost)
	}
	// It may have begun while the old container was being taken down; then it was lost with it, and runs under another name.
	for try := 0; status["new"].Terminated.Reason == taskexecutor.ReasonSandboxLost && try < 3; try++ {
		again := marked(fmt.Sprint("again-", try), "test ! -e /tmp/marks/old")
		s.set(c, again)
		status = s.tasksAre(c, "it ended", func(status map[string]*taskexecutor.ProcessStatus) error {
			_, err := endOf(status, again.Name)
			return err
		})
		status["new"] = status[again.Name]
	}
	if end := status["new"].Terminated; end.Reason != taskexecutor.ReasonCompleted {
		t.Errorf("the new one ended with %+v: it should have run in the new container", end)
	}
}

// What runs in a sandbox can neither look into the executor nor change it, not even as root: the executor has a capability
// more. What shows that is what tracing it would need, by way of /proc.
func TestNothingInASandboxCanTraceTheExecutor(t *testing.T) {
	t.Parallel()
	const attempt = `p=$(pgrep -x task-executor) || { echo "no executor seen"; exit 1; }
for path in mem environ maps auxv; do
  if head -c 1 /proc/$p/$path > /dev/null 2>&1; then echo "read $path"; fi
done
if (exec 3<> /proc/$p/mem) 2> /dev/null; then echo "opened mem for writing"; fi
for path in root cwd exe fd/0; do
  if readlink /proc/$p/$path > /dev/null 2>&1; then echo "followed $path"; fi
done
if (exec 3< /proc/$p/fd/0) 2> /dev/null; then echo "opened its files"; fi
if ls /proc/$p/root/ > /dev/null 2>&1; then echo "entered its root"; fi
head -c 1 /proc/$$/maps > /dev/null && echo "the measure works"`
	for name, securityContext := range map[string]string{"root": "{}", "user": "{runAsUser: 1000}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.executorPod("one", securityContext)
			c := s.executor("one")
			s.set(c, taskexecutor.Task{Name: "trace", Process: taskexecutor.Process{Command: []string{"sh", "-c", attempt}}})
			status := s.tasksAre(c, "it ended", func(status map[string]*taskexecutor.ProcessStatus) error {
				_, err := endOf(status, "trace")
				return err
			})
			by := map[string]string{"a task": status["trace"].Terminated.Output}
			out, err := s.sh("one", sandboxContainer, attempt)
			if err != nil {
				t.Error(err)
			}
			by["a process of the sandbox"] = strings.TrimSpace(out)
			for who, did := range by {
				if lines := strings.Split(did, "\n"); !slices.Equal(lines, []string{"the measure works"}) {
					t.Errorf("%s as %s: %q", who, name, lines)
				}
			}
		})
	}
}
