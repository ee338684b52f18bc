// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// tellTime bounds the time from the drain of the only node until pool and batches say what is wrong.
const tellTime = 30 * time.Second

// countPods counts the pods of the test's namespace that ever were, from now on, and returns what tells their number.
func (s *space) countPods() func() int {
	s.t.Helper()
	watcher, err := s.client.Watch(s.ctx, &corev1.PodList{}, client.InNamespace(s.name))
	s.must(err)
	var mu sync.Mutex
	seen := map[string]bool{}
	var done sync.WaitGroup
	done.Go(func() {
		for event := range watcher.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				mu.Lock()
				seen[string(pod.UID)] = true
				mu.Unlock()
			}
		}
	})
	s.t.Cleanup(func() {
		watcher.Stop()
		done.Wait()
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// says waits until a condition has this status and words in its reason or message.
func (s *space) says(what string, conditions func() []metav1.Condition, kind string, status metav1.ConditionStatus, words string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s: %s=%s %s", what, kind, status, words), func() error {
		c := meta.FindStatusCondition(conditions(), kind)
		if c == nil || c.Status != status || !strings.Contains(c.Reason+": "+c.Message, words) {
			return fmt.Errorf("condition %+v", c)
		}
		return nil
	})
}

// It drains the only node, so nothing else may run beside it.
func TestDrainingTheOnlyNodeTellsTheUserAndIsNoLoss(t *testing.T) {
	s := newSpace(t)
	nodes := strings.Fields(s.kubectl("get", "nodes", "-o", "name"))
	if len(nodes) != 1 {
		t.Skipf("there are %d nodes: this is about a cluster of one", len(nodes))
	}
	node := strings.TrimPrefix(nodes[0], "node/")
	t.Cleanup(func() {
		if out, err := run(context.Background(), "uncordon", node); err != nil {
			t.Errorf("uncordon: %v\n%s", err, out)
		}
	})
	template := fmt.Sprintf(`
    metadata: {labels: {drain: %s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: sandbox-container
        image: ubuntu:latest
        command: ["sleep", "3600"]`, s.name)
	s.createYAML(fmt.Sprintf(`
kind: Pool
metadata: {name: warm}
spec:
  template:%s
  capacitySpec: {bufferMin: 2, bufferMax: 2, poolMin: 0, poolMax: 10}
---
kind: BatchSandbox
metadata: {name: own}
spec:
  replicas: 1
  template:%s
---
kind: BatchSandbox
metadata: {name: held}
spec:
  replicas: 1
  poolRef: warm
`, template, template))
	s.delivered("own", 1)
	s.delivered("held", 1)
	s.poolIs("warm", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 2 })
	pods := s.countPods()
	s.eventually("see the pods", func() error {
		if n := pods(); n != 4 {
			return fmt.Errorf("%d pods, want 4", n)
		}
		return nil
	})

	poolSays := func() []metav1.Condition { return s.pool("warm").Status.Conditions }
	batchSays := func(name string) func() []metav1.Condition {
		return func() []metav1.Condition { return s.batch(name).Status.Conditions }
	}
	s.kubectl("cordon", node)
	s.says("warm", poolSays, v1alpha1.ConditionReady, metav1.ConditionFalse, "cordoned")
	start := time.Now()
	t.Log(s.kubectl("drain", node, "--pod-selector=drain="+s.name, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"))
	s.create(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Spec: v1alpha1.BatchSandboxSpec{PoolRef: "warm"}})
	s.says("warm", poolSays, v1alpha1.ConditionPodsFailing, metav1.ConditionTrue, "Unschedulable")
	for _, batch := range []string{"held", "late"} {
		s.says(batch, batchSays(batch), v1alpha1.ConditionAllocated, metav1.ConditionFalse, "Unschedulable")
	}
	took := time.Since(start)
	if took > tellTime {
		t.Errorf("it took %v until everybody knew, want at most %v", took, tellTime)
	}
	t.Logf("everybody knew after %v", took.Round(time.Millisecond))

	time.Sleep(15 * time.Second) // churn would show
	// For the pool: as many as it was short of when the node was cordoned, and as many as are waited for. And one of own.
	if n := pods(); n > 4+2+2+1 {
		t.Errorf("%d pods were made in place of 4, want at most 5", n-4)
	} else {
		t.Logf("%d pods were made in place of 4", n-4)
	}

	s.kubectl("uncordon", node)
	for _, batch := range []string{"held", "late", "own"} {
		s.delivered(batch, 1)
	}
	s.poolIs("warm", "is warm again", func(p v1alpha1.PoolStatus) bool { return p.Available == 2 && p.Waiting == 0 })
	s.says("warm", poolSays, v1alpha1.ConditionPodsFailing, metav1.ConditionFalse, "")
	s.says("warm", poolSays, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
}
