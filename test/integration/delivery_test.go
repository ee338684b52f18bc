// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
)

// A delivery from a warm pool costs the controller two writes, whatever its size: one patch of the batch and one of its
// status. They are counted by the API server.
func TestPooledDeliveryCostsTwoWrites(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("warm", 61, 61, 0, 200))
	s.idle("warm", 61)
	for _, n := range []int32{1, 10, 50} {
		name := fmt.Sprintf("take-%d", n)
		s.create(makeBatch(name, "warm", n))
		sb := s.delivered(name, int(n))
		mustListEveryIndex(t, sb, int(n))
		var got []string
		for _, w := range s.writes() {
			if w.ObjectRef.Resource == "batchsandboxes" && w.ObjectRef.Name == name {
				got = append(got, w.String())
			}
			if w.ObjectRef.Resource == "pods" && w.Verb == "patch" {
				t.Errorf("a pod was written before delivery: %s", w)
			}
		}
		want := []string{
			fmt.Sprintf("patch batchsandboxes/%s/ 200", name),
			fmt.Sprintf("patch batchsandboxes/%s/status 200", name),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("writes for %d sandboxes (-want +got):\n%s", n, diff)
		}
	}
}

// A batch that gets all it asks for is looked at once: the news of our own writes brings nobody back. (Its labels come later.)
func TestADeliveryIsOneReconcile(t *testing.T) {
	s := newSpace(t)
	address := freeAddress(t)
	s.startController("", "--metrics-bind-address="+address)
	const n = 10
	s.create(makePool("warm", 0, n, n, n))
	s.idle("warm", n)
	for i := range n {
		name := fmt.Sprintf("take-%d", i)
		s.create(makeBatch(name, "warm", 1))
		s.delivered(name, 1)
	}
	looks := func() (total int) {
		for name, value := range s.scrape(address) {
			if strings.HasPrefix(name, `controller_runtime_reconcile_total{controller="batchsandbox"`) {
				total += int(value)
			}
		}
		return total
	}
	eventually(t, "count the reconciles", func() error {
		if got := looks(); got < n {
			return fmt.Errorf("%d reconciles for %d batches", got, n)
		}
		return nil
	})
	time.Sleep(time.Second) // for others that may be on their way
	if got := looks(); got != n {
		t.Errorf("%d reconciles for %d batches, want one for each", got, n)
	}
}

// mustListEveryIndex checks that both lists have one entry per index, and that no pod stands twice.
func mustListEveryIndex(t *testing.T, sb *v1alpha1.BatchSandbox, n int) {
	t.Helper()
	pods, ips, err := annotations(sb)
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) != n || len(ips) != n {
		t.Fatalf("%s: %d pods and %d endpoints, want %d", sb.Name, len(pods), len(ips), n)
	}
	seen := map[string]bool{}
	for i := range pods {
		if pods[i] == "" || ips[i] == "" || seen[pods[i]] {
			t.Errorf("%s: index %d has pod %q and endpoint %q; empty or twice", sb.Name, i, pods[i], ips[i])
		}
		seen[pods[i]] = true
	}
}

// annotations reads the two lists of a batch as a client would.
func annotations(sb *v1alpha1.BatchSandbox) (pods, ips []string, err error) {
	var status struct {
		Pods []string `json:"pods"`
	}
	if value, ok := sb.Annotations[v1alpha1.AllocStatusAnnotation]; ok {
		if err := json.Unmarshal([]byte(value), &status); err != nil {
			return nil, nil, fmt.Errorf("%s: alloc-status: %w", sb.Name, err)
		}
	}
	if value, ok := sb.Annotations[v1alpha1.EndpointsAnnotation]; ok {
		if err := json.Unmarshal([]byte(value), &ips); err != nil {
			return nil, nil, fmt.Errorf("%s: endpoints: %w", sb.Name, err)
		}
	}
	return status.Pods, ips, nil
}
