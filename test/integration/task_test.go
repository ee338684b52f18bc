// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// executors runs a real task-executor for every simulated pod of a test, on the pod's own loopback address. It believes whom
// the pod's environment says. Tasks run in its own root, since a simulated pod has none.
type executors struct {
	s    *space
	dir  string
	port string    // "5758", unless something stands between the controller and the executors
	log  logBuffer // of all of them
}

func (s *space) startExecutors() *executors {
	s.t.Helper()
	return s.startExecutorsOn("5758")
}

func (s *space) startExecutorsOn(port string) *executors {
	s.t.Helper()
	w, err := s.client.Watch(s.ctx, &corev1.PodList{}, client.InNamespace(s.name))
	s.must(err)
	e := &executors{s: s, dir: s.t.TempDir(), port: port}
	var wg sync.WaitGroup
	wg.Go(func() { e.follow(w) })
	s.t.Cleanup(func() {
		w.Stop()
		wg.Wait()
	})
	return e
}

// follow runs one executor per pod until the pod goes, and all until the watch ends.
func (e *executors) follow(w watch.Interface) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[types.UID]context.CancelFunc{}
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		stop := running[pod.UID]
		switch {
		case event.Type == watch.Deleted && stop != nil:
			stop()
		case event.Type != watch.Deleted && pod.Status.PodIP != "" && stop == nil:
			ctx, cancel := context.WithCancel(context.Background())
			running[pod.UID] = cancel
			wg.Go(func() { e.run(ctx, pod) })
		}
	}
}

// run runs the executor of a pod. It is started again when it ends, as a kubelet would: an address may still be in use by
// the pod that had it before.
func (e *executors) run(ctx context.Context, pod *corev1.Pod) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, filepath.Join(e.s.bin, "task-executor"),
			"-listen-addr", pod.Status.PodIP+":"+e.port, "-data-dir", filepath.Join(e.dir, string(pod.UID)), "-enable-sidecar-mode=false")
		if root := podtemplate.RootOf(&pod.Spec); root != "" {
			cmd.Env = append(os.Environ(), taskexecutor.RootCertificateEnv+"="+root, taskexecutor.PodUIDEnv+"="+string(pod.UID))
		}
		cmd.Stderr = &e.log
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = settleTime
		_ = cmd.Run()
		if ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// makeTaskBatch is a batch whose every index runs a shell script.
func makeTaskBatch(name, pool, script string, replicas int32) *v1alpha1.BatchSandbox {
	sb := makeBatch(name, pool, replicas)
	sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: []string{"sh", "-c", script}}}}
	return sb
}

// tasksEnded waits until every task of the batch has ended.
func (s *space) tasksEnded(name string) *v1alpha1.BatchSandbox {
	s.t.Helper()
	var sb *v1alpha1.BatchSandbox
	eventually(s.t, "end the tasks of "+name, func() error {
		sb = s.batch(name)
		for _, c := range sb.Status.Conditions {
			if c.Type == v1alpha1.ConditionTasksCompleted && c.Status == "True" {
				return nil
			}
		}
		return fmt.Errorf("status %+v", sb.Status)
	})
	return sb
}

func taskSum(st v1alpha1.BatchSandboxStatus) int32 {
	return st.TaskRunning + st.TaskSucceed + st.TaskFailed + st.TaskPending + st.TaskUnknown
}

func taskPool(name string, n int32) *v1alpha1.Pool {
	pool := makePool(name, 0, n+4, n, n+4)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	return pool
}

func TestTasksRunOnceEachAndAreCounted(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 3))
	dir := t.TempDir()
	sb := makeTaskBatch("tasks", "p", "echo run >> "+dir+"/$WHO", 3)
	sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{{Name: "WHO", Value: "everybody"}, {Name: "KEPT", Value: "1"}}
	sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{
		*raw(`{"spec":{"process":{"env":[{"name":"WHO","value":"zero"}]}}}`),
		*raw(`{"spec":{"process":{"command":["sh","-c"],"args":["echo $KEPT >> ` + dir + `/one; echo to be read; exit 7"]}}}`),
	}
	s.create(sb)
	st := s.tasksEnded("tasks").Status
	if st.TaskSucceed != 2 || st.TaskFailed != 1 || taskSum(st) != 3 || st.CompletedIndexes != "0,2" || st.FailedIndexes != "1" {
		t.Errorf("status %+v, want 0 and 2 succeeded and 1 failed", st)
	}
	if len(st.FailedTasks) != 1 {
		t.Fatalf("failedTasks %+v, want one", st.FailedTasks)
	}
	f := st.FailedTasks[0]
	if f.Index != 1 || f.Reason != v1alpha1.TaskReasonNonZeroExit || f.ExitCode == nil || *f.ExitCode != 7 || !strings.Contains(f.Output, "to be read") {
		t.Errorf("failed task %+v, want index 1, NonZeroExit, 7, with its output", f)
	}
	for file, want := range map[string]string{"zero": "run\n", "one": "1\n", "everybody": "run\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", file, got, err, want)
		}
	}
}

func TestTaskThatRunsTooLongIsStoppedAndFails(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	sb := makeTaskBatch("slow", "p", "sleep 1000", 1)
	one := int64(1)
	sb.Spec.TaskTemplate.Spec.TimeoutSeconds = &one
	s.create(sb)
	st := s.tasksEnded("slow").Status
	if len(st.FailedTasks) != 1 || st.FailedTasks[0].Reason != v1alpha1.TaskReasonTimedOut {
		t.Errorf("failedTasks %+v, want TimedOut", st.FailedTasks)
	}
}

// The process of a deleted batch is gone before its pod counts as available again.
func TestDeletingABatchStopsItsTasksFirst(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	pidFile := filepath.Join(t.TempDir(), "pid")
	s.create(makeTaskBatch("sleeper", "p", "echo $$ > "+pidFile+"; sleep 1000 & wait", 1))
	eventually(t, "run the task", func() error {
		if got := s.batch("sleeper").Status.TaskRunning; got != 1 {
			return fmt.Errorf("%d run", got)
		}
		_, err := os.ReadFile(pidFile)
		return err
	})
	held, _, err := annotations(s.batch("sleeper"))
	s.must(err)
	data, err := os.ReadFile(pidFile)
	s.must(err)
	pid := strings.TrimSpace(string(data))
	sb := s.batch("sleeper")
	start := time.Now()
	s.must(s.client.Delete(s.ctx, sb))
	for {
		_, statErr := os.Stat("/proc/" + pid)
		runs := statErr == nil
		err := s.client.Get(s.ctx, client.ObjectKeyFromObject(sb), sb)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err != nil { // gone, and with it the hold on the pod
			break
		}
		if free := s.pool("p").Status.Available; runs && free > 1 {
			t.Fatalf("the process still runs and %d pods are available", free)
		}
	}
	if _, err := os.Stat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %s still runs after the batch is gone", pid)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("the finalizers took %s to go, want at most 15s", took)
	}
	s.idle("p", 1)
	found := false
	for _, pod := range s.pods() {
		found = found || pod.Name == held[0]
	}
	if !found {
		t.Errorf("pod %s is not back in the pool", held[0])
	}
}

func TestReleaseGivesEachSandboxBackWhenItsTaskEnds(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 2))
	release := v1alpha1.TaskResourcePolicyRelease
	sb := makeTaskBatch("b", "p", "exit 0", 2)
	sb.Spec.TaskResourcePolicyWhenCompleted = &release
	sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{*raw(`{"spec":{"process":{"args":[]}}}`), *raw(`{"spec":{"process":{"command":["sleep","1000"]}}}`)}
	s.create(sb)
	eventually(t, "give index 0 back", func() error {
		sb := s.batch("b")
		pods, ips, err := annotations(sb)
		if err != nil || len(pods) != 2 || pods[0] != "" || pods[1] == "" || ips[0] != "" {
			return fmt.Errorf("pods %v, endpoints %v (%w)", pods, ips, err)
		}
		if st := sb.Status; st.TaskSucceed != 1 || st.TaskRunning != 1 || st.Replicas != 1 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	s.must(s.client.Delete(s.ctx, sb))
	s.gone(sb)
}

// A controller that is killed again and again while tasks start and end runs none of them twice and loses no end.
func TestControllerRestartRunsNoTaskTwice(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	s.create(taskPool("p", 6))
	s.idle("p", 6)
	dir := t.TempDir()
	sb := makeTaskBatch("b", "p", `echo run >> `+dir+`/$INDEX; sleep 1`, 6)
	for i := range 6 {
		sb.Spec.ShardTaskPatches = append(sb.Spec.ShardTaskPatches,
			*raw(fmt.Sprintf(`{"spec":{"process":{"env":[{"name":"INDEX","value":"%d"}]}}}`, i)))
	}
	s.create(sb)
	ctx, cancel := context.WithCancel(s.ctx)
	var killing sync.WaitGroup
	killing.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(600 * time.Millisecond)
			c.kill()
			if err := c.start(); err != nil {
				t.Error(err)
			}
		}
	})
	time.AfterFunc(5*time.Second, cancel)
	killing.Wait()
	if st := s.tasksEnded("b").Status; st.TaskSucceed != 6 {
		t.Errorf("status %+v, want 6 succeeded", st)
	}
	for i := range 6 {
		if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i))); err != nil || string(got) != "run\n" {
			t.Errorf("task %d left %q (%v), want one run", i, got, err)
		}
	}
}

// The task of a sandbox that is lost runs again in the replacement, as another try.
func TestTaskOfALostSandboxRunsAgain(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	s.create(makeTaskBatch("b", "p", "sleep 1000", 1))
	eventually(t, "run the task", func() error {
		if st := s.batch("b").Status; st.TaskRunning != 1 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	before, _, err := annotations(s.batch("b"))
	s.must(err)
	for _, pod := range s.pods() {
		if pod.Name == before[0] {
			s.must(s.client.Delete(s.ctx, &pod))
		}
	}
	eventually(t, "run it again elsewhere", func() error {
		sb := s.batch("b")
		after, _, err := annotations(sb)
		if err != nil || len(after) != 1 || after[0] == before[0] || sb.Status.TaskRunning != 1 {
			return fmt.Errorf("pods %v, were %v, status %+v (%w)", after, before, sb.Status, err)
		}
		if tries := sb.Status.TaskTries; len(tries) != 1 || tries[0].Lost != 1 {
			return fmt.Errorf("tries %+v, want one lost", tries)
		}
		return nil
	})
}

func TestTTLDeletesTheBatchAfterItsTasksEnded(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	sb := makeTaskBatch("b", "p", "true", 1)
	ttl := int32(1)
	sb.Spec.TTLSecondsAfterFinished = &ttl
	s.create(sb)
	s.gone(sb)
}

func TestTaskInABatchWithoutPool(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(makeTaskBatch("own", "", "true", 2))
	if st := s.tasksEnded("own").Status; st.TaskSucceed != 2 {
		t.Errorf("status %+v, want 2 succeeded", st)
	}
	sb := s.batch("own")
	s.must(s.client.Delete(s.ctx, sb))
	s.gone(sb)
}
