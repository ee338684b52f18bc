// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// explained is what `kubectl sandbox explain -o json` tells.
type explained struct {
	Summary string
	Causes  []struct {
		Reason, Sentence, Remedy string
		Commands, Evidence       []string
	}
}

// explains waits until the first cause that `kubectl sandbox explain` tells is the reason, and checks what is said of it.
func (s *space) explains(name, reason string, parts ...string) {
	s.t.Helper()
	s.eventually("explain "+name+" says "+reason, func() error {
		got := s.plugin("explain", name, "-o", "json")
		var e explained
		if err := json.Unmarshal([]byte(got.out), &e); err != nil {
			return fmt.Errorf("%w: %s", err, got)
		}
		if got.code != 0 || len(e.Causes) == 0 || e.Causes[0].Reason != reason {
			return fmt.Errorf("it says: %s", got)
		}
		first := e.Causes[0]
		for _, part := range parts {
			if !strings.Contains(first.Sentence, part) {
				return fmt.Errorf("%q is not in %q", part, first.Sentence)
			}
		}
		if first.Remedy == "" || len(first.Evidence) == 0 {
			return fmt.Errorf("no remedy or no evidence: %s", got)
		}
		return nil
	})
	s.t.Logf("$ kubectl sandbox explain %s\n%s", name, s.plugin("explain", name).out)
}

// idlePool is a pool of pods without an executor, which do nothing.
func (s *space) idlePool(name, container string, least, most int) {
	s.t.Helper()
	s.createYAML(fmt.Sprintf(`
kind: Pool
metadata: {name: %s}
spec:
  template:
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: sandbox-container, command: ["sleep", "3600"], %s}]}
  capacitySpec: {bufferMin: 0, bufferMax: %[4]d, poolMin: %[3]d, poolMax: %[4]d}
`, name, container, least, most))
}

func (s *space) pooledBatch(name, pool, fields string) {
	s.t.Helper()
	s.createYAML(fmt.Sprintf(`
kind: BatchSandbox
metadata: {name: %s}
spec: {poolRef: %s, %s}
`, name, pool, fields))
}

const ubuntu = `image: "ubuntu:latest"`

func TestExplainNamesTheTrueCause(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]func(*space){
		"pool missing": func(s *space) {
			s.pooledBatch("web", "smal", "replicas: 1")
			s.explains("web", v1alpha1.ReasonPoolNotFound, "there is no Pool smal in namespace "+s.name)
		},
		"pool exhausted": func(s *space) {
			s.idlePool("small", ubuntu, 1, 1)
			s.pooledBatch("hog", "small", "replicas: 1")
			s.delivered("hog", 1)
			s.pooledBatch("web", "small", "replicas: 1")
			s.explains("web", "PoolExhausted", "1 of at most 1 pods (poolMax)", "web is at position 1 of the queue", "held by hog 1")
			s.explains("pool/small", "PoolExhausted", "1 sandbox is waited for")
			if got := s.plugin("queue", "small"); got.code != 0 || !strings.Contains(got.out, "poolMax 1 reached") {
				s.t.Errorf("queue: %s", got)
			}
			if got := s.plugin("get", "web"); got.code != 0 || !strings.Contains(got.out, "Waiting") {
				s.t.Errorf("get: %s", got)
			}
			if got := s.plugin("top"); got.code != 0 || !strings.Contains(got.out, "100%") || !strings.Contains(got.out, "web") {
				s.t.Errorf("top: %s", got)
			}
			if got := s.plugin("audit"); got.code != 0 || !strings.Contains(got.out, "2 batches, 1 pool and 1 pod; batches hold 1: nothing is wrong") {
				s.t.Errorf("audit: %s", got)
			}
		},
		"image can't be pulled, by a pool": func(s *space) {
			s.idlePool("small", `image: "127.0.0.1:9/nobody/app:v9"`, 1, 1)
			s.pooledBatch("web", "small", "replicas: 1")
			s.explains("web", "ImagePullFailed", "pods of Pool small don't start", "image 127.0.0.1:9/nobody/app:v9 of container sandbox-container can't be pulled", "connection refused")
		},
		"image can't be pulled, by a batch": func(s *space) {
			s.createYAML(`
kind: BatchSandbox
metadata: {name: web}
spec: {replicas: 2, template: {spec: {containers: [{name: app, image: "127.0.0.1:9/nobody/app:v9"}]}}}
`)
			s.explains("web", "ImagePullFailed", "2 indexes (0, 1)", "image 127.0.0.1:9/nobody/app:v9 of container app can't be pulled")
		},
		"pod unschedulable": func(s *space) {
			s.createYAML(`
kind: BatchSandbox
metadata: {name: web}
spec: {template: {spec: {nodeSelector: {disk: fast}, containers: [{name: app, image: "ubuntu:latest"}]}}}
`)
			s.explains("web", "PodUnschedulable", "index 0", "no node takes it", "didn't match Pod's node affinity/selector")
		},
		"task failed": func(s *space) {
			s.createTaskPod("web", taskPod{pod: sharedProcesses, sandbox: staysUp, executor: mayEnter, script: "echo disk is full; exit 3"})
			s.explains("web", "TaskFailed", "the task of index 0 failed with exit code 3", `the last it wrote is "disk is full"`)
		},
		"task timed out": func(s *space) {
			s.warmPool("small", 1)
			sb := s.taskBatch("web", "small", "sleep", "1000")
			one := int64(1)
			sb.Spec.TaskTemplate.Spec.TimeoutSeconds = &one
			s.create(sb)
			s.explains("web", "TaskTimedOut", "did not end in time and was stopped after 1 s (timeoutSeconds)")
		},
		"executor unreachable": func(s *space) {
			s.createTaskPod("web", taskPod{pod: sharedProcesses + "restartPolicy: Never,", sandbox: staysUp, executor: mayEnter, script: "sleep 1000"})
			s.batchIs("web", "runs", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.TaskRunning == 1 })
			if out, err := s.sh("web-0", v1alpha1.TaskExecutorContainer, "kill -9 $(pidof task-executor)"); err != nil {
				s.t.Logf("kill: %s %v", out, err) // the shell may end with its container before it can say so
			}
			s.explains("web", "ExecutorUnreachable", "index 0 (pod web-0)", "has ended with exit code 137", "restartPolicy Never leaves it so")
		},
		"gang waiting": func(s *space) {
			s.idlePool("small", ubuntu, 2, 2)
			s.pooledBatch("hog", "small", "replicas: 1")
			s.delivered("hog", 1)
			s.poolIs("small", "has one left", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
			s.pooledBatch("web", "small", "replicas: 2, minAvailable: 2")
			s.explains("web", "GangWaiting", "before it can have 2 together (minAvailable), and Pool small has 1 available and 0 starting; batches hold 1, and poolMax is 2; held by hog 1")
		},
		"expired": func(s *space) {
			s.idlePool("small", ubuntu, 1, 1)
			s.pooledBatch("web", "small", "replicas: 1")
			sb := s.delivered("web", 1)
			at := metav1.NewTime(time.Now().Add(time.Second))
			sb.Spec.ExpireTime = &at
			s.must(s.client.Update(s.ctx, sb))
			s.gone("web", &v1alpha1.BatchSandbox{})
			s.explains("web", "Expired", "it was deleted at")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(newSpace(t))
		})
	}
}
