// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// pluginSays runs `kubectl sandbox` to its end, and checks its exit code and parts of what it prints.
func (s *space) pluginSays(code int, args []string, parts ...string) {
	s.t.Helper()
	cmd, out, errOut := s.plugin(args...)
	if got := s.pluginEnds(cmd); got != code {
		s.t.Errorf("kubectl sandbox %s: exit code %d, want %d:\n%s%s", strings.Join(args, " "), got, code, out, errOut)
	}
	for _, part := range parts {
		if !strings.Contains(out.String(), part) {
			s.t.Errorf("kubectl sandbox %s: %q is not in\n%s", strings.Join(args, " "), part, out)
		}
	}
}

func TestTheAuditFindsNothingWhileBatchesComeAndGoAndWhatSomebodyEditedAfterwards(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.startController("")
	s.create(makePool("small", 2, 6, 0, 12))
	s.idle("small", 2)
	s.create(makeBatch("stays", "small", 2))
	s.delivered("stays", 2)

	stop := make(chan struct{})
	var users sync.WaitGroup
	for user := range 3 {
		users.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				sb := makeBatch(fmt.Sprintf("user-%d-%d", user, i), "small", 2)
				sb.Namespace = s.name
				if err := s.client.Create(s.ctx, sb); err != nil {
					t.Error(err)
					return
				}
				s.delivered(sb.Name, 2)
				if err := s.client.Delete(s.ctx, sb); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		s.pluginSays(0, []string{"audit"}, "nothing is wrong")
	}
	close(stop)
	users.Wait()

	pod := heldPods(t, s.batch("stays"))[0]
	s.patch(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: pod}},
		fmt.Sprintf(`{"metadata":{"labels":{%q:"stays",%q:"7"}}}`, v1alpha1.BatchNameLabel, v1alpha1.PodIndexLabel))
	s.pluginSays(1, []string{"audit"}, "WrongLabel: pod "+pod+" is held by stays at index 0, and its labels say stays, index 7", "kubectl -n "+s.name+" label --overwrite pod "+pod)
}

func heldPods(t *testing.T, sb *v1alpha1.BatchSandbox) []string {
	t.Helper()
	pods, _, err := annotations(sb)
	if err != nil || len(pods) == 0 {
		t.Fatalf("%s holds %q (%v)", sb.Name, pods, err)
	}
	return pods
}

func TestGetFollowsABatchFromTheQueueToItsEnd(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.startController("")
	s.create(makePool("small", 0, 1, 1, 1))
	s.idle("small", 1)
	s.create(makeBatch("first", "small", 1))
	s.delivered("first", 1)

	cmd, out, _ := s.plugin("get", "second", "first", "pool/small", "-w")
	prints := func(what string) {
		t.Helper()
		eventually(t, "print "+what, func() error {
			if got := squeezed(out.String()); !strings.Contains(got, what) {
				return fmt.Errorf("printed\n%s", got)
			}
			return nil
		})
	}
	prints("first 1/1 Ready - small")
	s.create(makeBatch("second", "small", 1))
	prints("second 0/1 Waiting - small")
	eventually(t, "have the pool say that it is full", func() error {
		for _, c := range s.pool("small").Status.Conditions {
			if c.Type == v1alpha1.ConditionScalingLimited && c.Reason == v1alpha1.ReasonPoolMaxReached {
				return nil
			}
		}
		return errors.New("it doesn't")
	})
	s.pluginSays(0, []string{"queue", "small"}, "poolMax 1 reached")
	s.pluginSays(0, []string{"explain", "second", "-o", "json"}, `"reason": "PoolExhausted"`, "second is at position 1 of the queue and wants 1")
	s.pluginSays(0, []string{"top"}, "100%", "second")
	s.must(s.client.Delete(s.ctx, s.batch("first")))
	prints("second 1/1 Ready - small")
	s.must(s.client.Delete(s.ctx, s.batch("second")))
	prints("second 1/1 Terminating - small")
	if strings.Contains(out.String(), "third") {
		t.Error("what was not asked for is printed")
	}
	s.must(cmd.Process.Signal(os.Interrupt))
	if code := s.pluginEnds(cmd); code != 0 {
		t.Errorf("exit code %d after it was interrupted, want 0", code)
	}
	s.pluginSays(1, []string{"explain", "nobody"}, "NotFound")
	s.pluginSays(1, []string{"get", "nobody"})
}

// squeezed makes the columns as narrow as they can be.
func squeezed(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}
