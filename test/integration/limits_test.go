// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// largeTemplate is a pod template of about so many bytes.
func largeTemplate(bytes int) *v1alpha1.RawObject {
	const entry = 1 << 10
	var env []string
	for i := range max(1, bytes/entry) {
		env = append(env, fmt.Sprintf(`{"name":"E%d","value":"%s"}`, i, strings.Repeat("x", entry-30)))
	}
	return raw(`{"spec":{"containers":[{"name":"sandbox-container","image":"nginx:latest","env":[` + strings.Join(env, ",") + `]}]}}`)
}

// patchesOf are n patches of about so many bytes each.
func patchesOf(n, bytes int) []v1alpha1.RawObject {
	patches := make([]v1alpha1.RawObject, n)
	for i := range patches {
		patches[i] = *raw(fmt.Sprintf(`{"metadata":{"annotations":{"example.com/patch":"%d %s"}}}`, i, strings.Repeat("x", max(0, bytes-60))))
	}
	return patches
}

func withTask(sb *v1alpha1.BatchSandbox, args ...string) *v1alpha1.BatchSandbox {
	sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: []string{"true"}, Args: args}}}
	return sb
}

// Whatever is as large as it can be is served, or refused in words that say what to do; and a small batch is served beside it.
func TestObjectsAtTheLimitsAreServedOrRefusedInWords(t *testing.T) {
	type object = v1alpha1.BatchSandbox
	cases := map[string]struct {
		make func() *object
		// quota is the number of pods that the namespace may have; 0 for any.
		quota int
		// ready is how many sandboxes are served; -1 for a refusal.
		ready int
		// reason and says are what it is told for; "" for nothing.
		condition, reason, says string
	}{
		"a batch of 1.2 MB, with 5,000 patches": {
			make: func() *object {
				sb := makeBatch("large", "", 3)
				sb.Spec.Template, sb.Spec.ShardPatches = largeTemplate(500_000), patchesOf(5000, 100)
				sb.Annotations = map[string]string{"example.com/mine": strings.Repeat("x", 200<<10)}
				return sb
			}, ready: 3,
		},
		"10,000 replicas from a pool": {
			make:  func() *object { return makeBatch("large", "good", 10000) },
			ready: -1, condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonTooManyReplicas, says: "use several batches",
		},
		"10,000 replicas without a pool, of which the quota allows a few": {
			make:  func() *object { return makeBatch("large", "", 10000) },
			quota: 20, ready: -1, condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonPodsForbidden, says: "exceeded quota",
		},
		"a task of more than a call of its executor can carry": {
			make:  func() *object { return withTask(makeBatch("large", "good", 1), strings.Repeat("x", 1_100_000)) },
			ready: -1, condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask, says: "put it into a file",
		},
		"a task whose answer is more than a call of its executor can carry": {
			make:  func() *object { return withTask(makeBatch("large", "good", 1), strings.Repeat("x", 1<<20-500)) },
			ready: -1, condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask, says: "put it into a file",
		},
		"a large task with many patches, which together are very much": {
			make: func() *object {
				sb := withTask(makeBatch("large", "good", 4000), strings.Repeat("x", 500_000))
				for range 4000 {
					sb.Spec.ShardTaskPatches = append(sb.Spec.ShardTaskPatches, *raw(`{}`))
				}
				return sb
			}, ready: -1, condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask, says: "use several batches",
		},
		"annotations that leave no room for the allocation": {
			make: func() *object {
				sb := makeBatch("large", "good", 100)
				sb.Annotations = map[string]string{"example.com/mine": strings.Repeat("x", 256<<10-1000)}
				return sb
			}, ready: -1, condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonTooManyReplicas, says: "other annotations",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(makePool("good", 4, 4, 0, 10))
			s.idle("good", 4)
			if c.quota > 0 {
				s.limitPods(c.quota)
			}
			s.create(c.make())
			s.create(makeBatch("beside", "good", 1))
			s.delivered("beside", 1)
			if c.ready >= 0 {
				s.delivered("large", c.ready)
			}
			if c.reason != "" {
				if message := s.hasReason("large", c.condition, c.reason); !strings.Contains(message, c.says) {
					t.Errorf("the message %q doesn't speak of %q", message, c.says)
				}
				s.hasEvent("BatchSandbox", "large", c.reason)
			}
			s.create(makeBatch("after", "good", 1))
			s.delivered("after", 1)
			s.must(s.client.Delete(s.ctx, s.batch("large")))
			s.gone(makeBatch("large", "", 1))
		})
	}
}

// limitPods allows so many pods in the namespace, and waits until that holds.
func (s *space) limitPods(n int) {
	s.t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(int64(n), resource.DecimalSI)},
	}}
	s.create(quota)
	eventually(s.t, "the quota holds", func() error {
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(quota), quota); err != nil {
			return err
		}
		if len(quota.Status.Hard) == 0 {
			return errors.New("nobody has counted yet")
		}
		return nil
	})
}

// A batch so large that the API server takes no further write of it can't be told in its status; an event tells.
func TestABatchThatHasNoRoomForItsOwnStatusIsToldInAnEvent(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("good", 4, 4, 0, 10))
	s.idle("good", 4)
	for bytes := 1_573_000; ; bytes -= 100 {
		sb := makeBatch("large", "good", 4)
		sb.Spec.Template = raw(`{"spec":{"containers":[{"name":"c","image":"i","args":["` + strings.Repeat("x", bytes) + `"]}]}}`)
		sb.Namespace = s.name
		err := s.client.Create(s.ctx, sb)
		if err == nil {
			t.Logf("a batch of %d bytes is the largest that is taken", bytes)
			break
		}
		if apierrors.IsAlreadyExists(err) || bytes < 1400<<10 {
			t.Fatal(err)
		}
	}
	s.hasEvent("BatchSandbox", "large", v1alpha1.ReasonTooLarge)
	s.create(makeBatch("beside", "good", 1))
	s.delivered("beside", 1)
	s.must(s.client.Delete(s.ctx, s.batch("large")))
	s.gone(makeBatch("large", "", 1))
}

func TestAPoolWhoseTemplateIsAMegabyteIsServed(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	pool := makePool("large", 2, 2, 0, 4)
	pool.Spec.Template = largeTemplate(1_000_000)
	s.create(pool)
	s.create(makeBatch("own", "", 1))
	s.delivered("own", 1)
	s.idle("large", 2)
	s.create(makeBatch("b", "large", 2))
	s.delivered("b", 2)
}
