// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

func podByIndex(pods []corev1.Pod, batch, index string) *corev1.Pod {
	for i := range pods {
		l := pods[i].Labels
		if l[v1alpha1.BatchNameLabel] == batch && l[v1alpha1.PodIndexLabel] == index && pods[i].DeletionTimestamp == nil {
			return &pods[i]
		}
	}
	return nil
}

func TestBatchWithoutPoolMakesItsPodsAndTellsTheirAddresses(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	sb := makeBatch("own", "", 3)
	sb.Spec.ShardPatches = []v1alpha1.RawObject{
		*raw(`{"metadata":{"labels":{"shard":"zero"}}}`),
		*raw(`{"spec":{"containers":[{"name":"sandbox-container","env":[{"name":"SHARD","value":"1"}]}]}}`),
	}
	s.create(sb)
	s.delivered("own", 3)
	eventually(t, "tell the addresses", func() error {
		_, ips, err := annotations(s.batch("own"))
		if err != nil || len(ips) != 3 || slices.Contains(ips, "") {
			return fmt.Errorf("endpoints %v (%w)", ips, err)
		}
		return nil
	})
	pods := s.pods()
	for i, pod := range []*corev1.Pod{podByIndex(pods, "own", "0"), podByIndex(pods, "own", "1"), podByIndex(pods, "own", "2")} {
		if pod == nil || pod.Name != fmt.Sprintf("own-%d", i) {
			t.Fatalf("pod of index %d is %v, want own-%d", i, pod, i)
		}
	}
	if got := podByIndex(pods, "own", "0").Labels["shard"]; got != "zero" {
		t.Errorf("label shard of index 0 is %q, want zero", got)
	}
	if env := podByIndex(pods, "own", "1").Spec.Containers[0].Env; len(env) != 1 || env[0].Value != "1" {
		t.Errorf("environment of index 1 is %v, want SHARD=1", env)
	}
	if got, want := s.batch("own").Status.Selector, v1alpha1.BatchNameLabel+"=own"; got != want {
		t.Errorf("selector %q, want %q", got, want)
	}
}

func TestBatchWithoutPoolIsScaledUpAndDown(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makeBatch("own", "", 2))
	sb := s.delivered("own", 2)
	s.patch(sb, `{"spec":{"replicas":4}}`)
	s.delivered("own", 4)
	s.patch(sb, `{"spec":{"replicas":1}}`)
	s.delivered("own", 1)
	eventually(t, "delete the highest indexes", func() error {
		if pods := s.pods(); len(pods) != 1 || pods[0].Name != "own-0" {
			return fmt.Errorf("%d pods, want own-0 alone", len(pods))
		}
		return nil
	})
}

func TestLostPodOfABatchWithoutPoolIsReplacedUnderTheSameIndex(t *testing.T) {
	cases := map[string]func(s *space, pod *corev1.Pod){
		"deleted": func(s *space, pod *corev1.Pod) { s.must(s.client.Delete(s.ctx, pod)) },
		"failed": func(s *space, pod *corev1.Pod) {
			pod.Status.Phase = corev1.PodFailed
			s.must(s.client.Status().Update(s.ctx, pod))
		},
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(makeBatch("own", "", 2))
			s.delivered("own", 2)
			lost := podByIndex(s.pods(), "own", "1")
			lose(s, lost)
			eventually(t, "replace index 1", func() error {
				pod := podByIndex(s.pods(), "own", "1")
				if pod == nil || pod.UID == lost.UID {
					return fmt.Errorf("pod of index 1 is %v", pod)
				}
				return nil
			})
			s.delivered("own", 2)
			eventually(t, "be rid of the lost pod", func() error {
				if n := len(s.pods()); n != 2 {
					return fmt.Errorf("%d pods, want 2", n)
				}
				return nil
			})
		})
	}
}

func TestExpiredBatchIsDeleted(t *testing.T) {
	cases := map[string]struct {
		pool string
		at   time.Duration
	}{
		"without pool, in the future": {"", 2 * time.Second},
		"pooled, in the future":       {"p", 2 * time.Second},
		"in the past":                 {"", -time.Hour},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			if c.pool != "" {
				s.create(makePool(c.pool, 1, 1, 0, 3))
			}
			sb := makeBatch("short", c.pool, 1)
			sb.Spec.ExpireTime = &metav1.Time{Time: time.Now().Add(c.at)}
			s.create(sb)
			s.gone(sb)
		})
	}
}

func TestExpiryCanBeMovedAndRemoved(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	sb := makeBatch("moved", "", 0)
	sb.Spec.ExpireTime = &metav1.Time{Time: time.Now().Add(2 * time.Second)}
	s.create(sb)
	s.patch(sb, `{"spec":{"expireTime":null}}`)
	other := makeBatch("other", "", 0)
	other.Spec.ExpireTime = &metav1.Time{Time: time.Now().Add(3 * time.Second)}
	s.create(other)
	s.gone(other) // later than the first time of moved
	if sb := s.batch("moved"); sb.DeletionTimestamp != nil {
		t.Error("the batch without expireTime was deleted")
	}
}

func TestBatchWaitsForThePoolAndIsServedAsItGrows(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 1, 2, 0, 10))
	s.idle("p", 1)
	s.create(makeBatch("large", "p", 8))
	s.delivered("large", 8)
	mustListEveryIndex(t, s.batch("large"), 8)
	st := s.pool("p").Status
	if st.Total > 10 {
		t.Errorf("the pool has %d pods, poolMax is 10", st.Total)
	}
}

func TestBatchLargerThanPoolMaxIsToldAndServedWhenItIsRaised(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 1, 0, 3))
	s.create(makeBatch("large", "p", 5))
	s.hasReason("large", v1alpha1.ConditionAllocated, v1alpha1.ReasonExceedsPoolMax)
	eventually(t, "serve what the pool can give", func() error {
		if got := s.batch("large").Status.Replicas; got != 3 {
			return fmt.Errorf("holds %d, want 3", got)
		}
		return nil
	})
	s.patch(s.pool("p"), `{"spec":{"capacitySpec":{"poolMax":6}}}`)
	s.delivered("large", 5)
}

func TestWaitingBatchesAreServedInTheOrderTheyCame(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 0, 0, 2))
	s.create(makeBatch("first", "p", 2))
	s.delivered("first", 2)
	s.create(makeBatch("second", "p", 2))
	s.hasReason("second", v1alpha1.ConditionAllocated, v1alpha1.ReasonWaitingForPool)
	s.create(makeBatch("third", "p", 1))
	eventually(t, "tell the place in the queue", func() error {
		q := s.batch("third").Status.Queue
		if q == nil || q.Position != 2 || q.Waiting != 3 {
			return fmt.Errorf("queue %+v, want position 2 of 3 waiting", q)
		}
		return nil
	})
	s.must(s.client.Delete(s.ctx, s.batch("first")))
	s.delivered("second", 2)
	if held := s.batch("third").Status.Replicas; held != 0 {
		t.Errorf("third holds %d while second was just served", held)
	}
	s.must(s.client.Delete(s.ctx, s.batch("second")))
	s.delivered("third", 1)
}

func TestReleasedPodsAreReusedOrReplaced(t *testing.T) {
	cases := map[string]struct {
		recycle v1alpha1.RecycleType
		same    bool
	}{
		"Noop hands the pod on":            {v1alpha1.RecycleNoop, true},
		"Delete replaces the pod":          {v1alpha1.RecycleDelete, false},
		"unset never hands a dirty pod on": {"", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			pool := makePool("p", 0, 1, 1, 1)
			if c.recycle != "" {
				pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: c.recycle}
			}
			s.create(pool)
			s.idle("p", 1)
			s.create(makeBatch("one", "p", 1))
			first, _, err := annotations(s.delivered("one", 1))
			s.must(err)
			s.must(s.client.Delete(s.ctx, s.batch("one")))
			s.create(makeBatch("two", "p", 1))
			second, _, err := annotations(s.delivered("two", 1))
			s.must(err)
			if same := first[0] == second[0]; same != c.same {
				t.Errorf("pods %v and %v; same: %v, want %v", first, second, same, c.same)
			}
		})
	}
}

func TestHeldPodsGetTheBatchLabelsAfterDeliveryAndLoseThemBeforeReuse(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	pool := makePool("p", 0, 1, 1, 1)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	s.create(pool)
	s.create(makeBatch("one", "p", 1))
	s.delivered("one", 1)
	eventually(t, "label the pod", func() error {
		if pod := podByIndex(s.pods(), "one", "0"); pod == nil {
			return fmt.Errorf("no pod has the labels of index 0")
		}
		return nil
	})
	s.must(s.client.Delete(s.ctx, s.batch("one")))
	s.create(makeBatch("two", "p", 1))
	s.delivered("two", 1)
	for _, pod := range s.pods() {
		if pod.Labels[v1alpha1.BatchNameLabel] == "one" {
			t.Errorf("pod %s still carries the labels of its last batch", pod.Name)
		}
		for _, owner := range pod.OwnerReferences {
			if owner.Name == "one" {
				t.Errorf("pod %s is still owned by its last batch", pod.Name)
			}
		}
	}
}

func TestLostPoolPodIsReplacedUnderTheSameIndex(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 1, 2, 0, 6))
	s.create(makeBatch("b", "p", 3))
	before, _, err := annotations(s.delivered("b", 3))
	s.must(err)
	s.must(s.client.Delete(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: before[1]}}))
	eventually(t, "replace index 1", func() error {
		after, ips, err := annotations(s.batch("b"))
		if err != nil || len(after) != 3 || after[1] == before[1] || after[1] == "" || ips[1] == "" {
			return fmt.Errorf("pods %v, were %v (%w)", after, before, err)
		}
		if after[0] != before[0] || after[2] != before[2] {
			t.Fatalf("other indexes changed: %v, were %v", after, before)
		}
		return nil
	})
	s.delivered("b", 3)
}

func TestDeletingAPoolSparesTheSandboxesInUse(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 2, 2, 0, 6))
	s.create(makeBatch("b", "p", 1))
	held, _, err := annotations(s.delivered("b", 1))
	s.must(err)
	pool := s.pool("p")
	s.must(s.client.Delete(s.ctx, pool))
	eventually(t, "delete the idle pods", func() error {
		if pods := s.pods(); len(pods) != 1 || pods[0].Name != held[0] {
			return fmt.Errorf("%d pods, want %s alone", len(pods), held[0])
		}
		return nil
	})
	s.delivered("b", 1)
	s.create(makeBatch("late", "p", 1))
	s.hasReason("late", v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolTerminating)
	s.must(s.client.Delete(s.ctx, s.batch("b")))
	s.gone(pool)
	s.hasReason("late", v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolNotFound)
	s.create(makePool("p", 1, 1, 0, 1))
	s.delivered("late", 1)
}

func TestPoolRefWinsOverTemplate(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 1, 1, 0, 2))
	sb := makeBatch("both", "p", 1)
	sb.Spec.Template = raw(`{"spec":{"containers":[{"name":"other","image":"other"}]}}`)
	s.create(sb)
	s.delivered("both", 1)
	for _, pod := range s.pods() {
		if !strings.HasPrefix(pod.Name, "p-") {
			t.Errorf("pod %s was made from the template", pod.Name)
		}
	}
}

// The scale subresource is what `kubectl scale` and autoscalers use.
func TestScaleSubresourceChangesReplicas(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makeBatch("own", "", 1))
	sb := s.delivered("own", 1)
	s.must(s.client.SubResource("scale").Patch(s.ctx, sb, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":2}}`))))
	s.delivered("own", 2)
}

// Pods that become Ready one by one cost a few writes of their batch, not one each, and each is made by one call, however often the
// batch is looked at before the news of all of them are there.
func TestManyPodsCostTheirBatchFewWrites(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	const n = 100
	s.create(makeBatch("own", "", n))
	s.delivered("own", n)
	writes, creates := 0, 0
	for _, w := range s.writes() {
		switch {
		case w.ObjectRef.Resource == "batchsandboxes":
			writes++
		case w.ObjectRef.Resource == "pods" && w.Verb == "create":
			creates++
		}
	}
	if creates != n {
		t.Errorf("%d creates for %d pods, refused ones included", creates, n)
	}
	if writes > n/3 {
		t.Errorf("%d writes of the batch for %d pods, want at most a third", writes, n)
	}
	t.Logf("%d writes of the batch for %d pods", writes, n)
}
