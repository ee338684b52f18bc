// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// latencyRuns is how often the time is taken, one after the other.
const latencyRuns = 10

// milestones are the times from the request that creates a batch until a watch shows each of these.
type milestones struct {
	delivered, succeeded time.Duration
}

// Not parallel: it takes times. They are told, not judged, for the machine may be busy.
func TestTwoEchoTasksInWarmSandboxesTakeThisLongFromCreateToSuccess(t *testing.T) {
	s := newSpace(t)
	s.createYAML(fmt.Sprintf(`
kind: Pool
metadata: {name: warm}
spec:
  template:
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: sandbox-container
        image: ubuntu:latest
        command: ["sleep", "3600"]
      - name: task-executor
        image: %s
        securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
  capacitySpec: {bufferMin: 0, bufferMax: 2, poolMin: 2, poolMax: 2}
  recycleStrategy: {type: Noop}
`, s.executorImage))
	var delivered, succeeded []time.Duration
	for i := range latencyRuns {
		s.poolIs("warm", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 2 })
		took := s.timeEchoes(fmt.Sprint("echo-", i))
		delivered, succeeded = append(delivered, took.delivered), append(succeeded, took.succeeded)
	}
	t.Logf("create to 2 sandboxes delivered: median %v, each %v", median(delivered), delivered)
	t.Logf("create to TASK_SUCCEED 2:        median %v, each %v", median(succeeded), succeeded)
}

// timeEchoes makes a batch of two tasks, deletes it when both have succeeded, and returns how long it took.
func (s *space) timeEchoes(name string) milestones {
	s.t.Helper()
	w, err := s.client.Watch(s.ctx, &v1alpha1.BatchSandboxList{}, client.InNamespace(s.name), client.MatchingFields{"metadata.name": name})
	s.must(err)
	defer w.Stop()
	sb := s.taskBatch(name, "warm", "echo", "hello")
	two := int32(2)
	sb.Spec.Replicas = &two

	start := time.Now()
	s.create(sb)
	var took milestones
	s.until(w, name+" has 2 tasks that succeeded", func(sb *v1alpha1.BatchSandbox) bool {
		if took.delivered == 0 && sb.Annotations[v1alpha1.EndpointsAnnotation] != "" {
			took.delivered = time.Since(start).Round(time.Millisecond)
		}
		return sb.Status.TaskSucceed == 2
	})
	took.succeeded = time.Since(start).Round(time.Millisecond)
	s.must(s.client.Delete(s.ctx, &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: name}}))
	s.gone(name, &v1alpha1.BatchSandbox{})
	return took
}

// until reads a watch of one batch until ok says yes to it.
func (s *space) until(w watch.Interface, what string, ok func(*v1alpha1.BatchSandbox) bool) {
	s.t.Helper()
	timeout := time.After(settleTime)
	for {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				s.t.Fatalf("%s: the watch has ended", what)
			}
			if sb, is := event.Object.(*v1alpha1.BatchSandbox); is && ok(sb) {
				return
			}
		case <-timeout:
			s.t.Fatalf("%s: not within %v", what, settleTime)
		}
	}
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
