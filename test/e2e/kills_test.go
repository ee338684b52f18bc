// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"opensandbox.io/controller/api/v1alpha1"
)

// Two kills in each of five pods, at other moments in each. Whether and how often a lost try is run again is the controller's
// to say: no try runs twice, so that there are never more marks than tries, and what is reported as done was done.
func TestABatchWhoseExecutorsAreKilledTenTimesRunsEachTryAtMostOnce(t *testing.T) {
	t.Parallel()
	const pods = 5
	s := newSpace(t)
	s.createYAML(s.fixedPool("five", pods))
	s.poolIs("five", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == pods })
	sb := s.taskBatch("hit", "five", "sh", "-c", "echo run >> /tmp/marks; sleep 2.75; echo done >> /tmp/done")
	n := int32(pods)
	sb.Spec.Replicas = &n
	s.create(sb)
	s.batchIs("hit", "has all its sandboxes", func(sb *v1alpha1.BatchSandbox) bool { return sb.Status.Allocated == pods })
	holders := s.holders("hit")

	var killers sync.WaitGroup
	for i, pod := range holders {
		killers.Go(func() {
			for kill := range int32(2) {
				select {
				case <-time.After(time.Duration(i) * 300 * time.Millisecond):
				case <-s.ctx.Done():
				}
				s.killExecutor(pod, kill+1)
			}
		})
	}
	killers.Wait()
	after := s.ended("hit", pods)

	succeeded := indexesOf(t, after.Status.CompletedIndexes)
	for i, pod := range holders {
		tries := 1
		for _, more := range after.Status.TaskTries {
			if int(more.Index) == i {
				tries += int(more.Failed + more.Lost)
			}
		}
		marks := len(strings.Fields(s.mustSh(pod, sandboxContainer, "cat /tmp/marks 2>/dev/null || true")))
		done := len(strings.Fields(s.mustSh(pod, sandboxContainer, "cat /tmp/done 2>/dev/null || true")))
		t.Logf("index %d: %d tries, %d marks, %d done, succeeded %t", i, tries, marks, done, slices.Contains(succeeded, i))
		if marks > tries {
			t.Errorf("index %d ran %d times in %d tries", i, marks, tries)
		}
		// One whose executor was killed the moment it was done may be done and not known to be.
		if slices.Contains(succeeded, i) && done == 0 {
			t.Errorf("index %d has succeeded, and was not done", i)
		}
	}
	for _, failed := range after.Status.FailedTasks {
		if failed.Reason != v1alpha1.TaskReasonExecutorLost {
			t.Errorf("index %d failed with %+v, want %s: nothing else went wrong", failed.Index, failed, v1alpha1.TaskReasonExecutorLost)
		}
	}
	s.must(s.client.Delete(s.ctx, after))
	s.gone("hit", &v1alpha1.BatchSandbox{})
	for _, pod := range holders {
		s.wantNone(pod, "sleep 2.75")
	}
}

// indexesOf reads indexes as the status has them: 0-3,7.
func indexesOf(t *testing.T, compressed string) []int {
	t.Helper()
	var all []int
	for part := range strings.SplitSeq(compressed, ",") {
		if part == "" {
			continue
		}
		var from, to int
		if _, err := fmt.Sscanf(part, "%d-%d", &from, &to); err != nil {
			if _, err := fmt.Sscanf(part, "%d", &from); err != nil {
				t.Fatalf("indexes %q: %v", compressed, err)
			}
			to = from
		}
		for i := from; i <= to; i++ {
			all = append(all, i)
		}
	}
	return all
}
