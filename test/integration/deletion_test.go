// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// spared fails the test if a pod that the batch was given is touched while look says so.
func (s *space) spared(batch string, held []string, what string, look func() error) {
	s.t.Helper()
	eventually(s.t, what, func() error {
		now, _, err := annotations(s.batch(batch))
		if err != nil || !slices.Equal(now, held) {
			s.t.Fatalf("%s holds %v, held %v (%v)", batch, now, held, err)
		}
		for _, name := range held {
			pod := &corev1.Pod{}
			if err := s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, pod); err != nil || pod.DeletionTimestamp != nil {
				s.t.Fatalf("pod %s, which a batch holds, is going: %v, owners %v", name, err, pod.OwnerReferences)
			}
		}
		return look()
	})
}

// A foreground deletion has the garbage collector delete what the pool owns, at once. It must not have the sandboxes that
// batches hold, however short they have held them.
func TestDeletingAPoolInTheForegroundSparesTheSandboxesInUse(t *testing.T) {
	for name, labelled := range map[string]bool{"right after their delivery": false, "and once they have their labels": true} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(makePool("p", 12, 12, 12, 30))
			s.idle("p", 12)
			s.create(makeBatch("b", "p", 10))
			held, _, err := annotations(s.delivered("b", 10))
			s.must(err)
			if labelled {
				eventually(t, "label the pods", func() error {
					if pod := podByIndex(s.pods(), "b", "9"); pod == nil {
						return fmt.Errorf("no pod has the labels of index 9")
					}
					return nil
				})
			}
			pool := s.pool("p")
			s.must(s.client.Delete(s.ctx, pool, client.PropagationPolicy(metav1.DeletePropagationForeground)))
			s.spared("b", held, "delete the idle pods", func() error {
				if n := len(s.pods()); n != len(held) {
					return fmt.Errorf("%d pods, want the %d that are held", n, len(held))
				}
				return nil
			})
			s.spared("b", held, "label the pods", func() error {
				if pod := podByIndex(s.pods(), "b", "9"); pod == nil {
					return fmt.Errorf("no pod has the labels of index 9")
				}
				return nil
			})
			if len(s.pool("p").Finalizers) == 0 {
				t.Error("the pool lost its finalizers while a batch holds its pods")
			}
			s.delivered("b", 10)
			s.create(makeBatch("late", "p", 1))
			s.hasReason("late", v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolTerminating)
			s.must(s.client.Delete(s.ctx, s.batch("b")))
			s.gone(pool)
			eventually(t, "delete the last pods", func() error {
				if n := len(s.pods()); n != 0 {
					return fmt.Errorf("%d pods are left", n)
				}
				return nil
			})
		})
	}
}

func TestABatchDeletedWhileItWaitsGoesAndLetsTheNextOneBeServed(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 0, 0, 2))
	s.create(makeBatch("first", "p", 2))
	s.delivered("first", 2)
	s.create(makeBatch("waits", "p", 2))
	s.hasReason("waits", v1alpha1.ConditionAllocated, v1alpha1.ReasonWaitingForPool)
	s.create(makeBatch("next", "p", 1))
	s.hasReason("next", v1alpha1.ConditionAllocated, v1alpha1.ReasonWaitingForPool)
	s.deletes(s.batch("waits"))
	eventually(t, "move up in the queue", func() error {
		if q := s.batch("next").Status.Queue; q == nil || q.Position != 1 || q.Waiting != 1 {
			return fmt.Errorf("queue %+v, want the first of 1", q)
		}
		return nil
	})
	s.must(s.client.Delete(s.ctx, s.batch("first")))
	s.delivered("next", 1)
}

// deletes deletes an object and waits until it is gone.
func (s *space) deletes(obj client.Object) {
	s.t.Helper()
	s.must(s.client.Delete(s.ctx, obj))
	s.gone(obj)
}

// Fifty batches are deleted at some moment of their delivery: before it, between its writes, or after. Each of them goes,
// and every pod is the pool's again.
func TestABatchDeletedWhileItIsServedLeaksNothing(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	pool := makePool("p", 4, 4, 4, 8)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	s.create(pool)
	s.idle("p", 4)
	audit := startAudit(t, s)
	const n = 50
	served := 0
	for i := range n {
		sb := makeBatch(fmt.Sprintf("b-%d", i), "p", 3)
		s.create(sb)
		time.Sleep(time.Duration(i%25) * 2 * time.Millisecond) // not a wait: the moment at which the deletion comes
		s.must(s.client.Delete(s.ctx, sb))
		if s.client.Get(s.ctx, client.ObjectKeyFromObject(sb), sb) == nil && sb.Annotations[v1alpha1.AllocStatusAnnotation] != "" {
			served++
		}
	}
	for i := range n {
		s.gone(makeBatch(fmt.Sprintf("b-%d", i), "p", 3))
	}
	audit.stop()
	eventually(t, "have every pod back", func() error {
		st := s.pool("p").Status
		if st.Allocated != 0 || st.Waiting != 0 || st.Available != st.Total || st.Total < 4 || st.Total > 8 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	for _, pod := range s.pods() {
		if pod.Labels[v1alpha1.BatchNameLabel] != "" {
			t.Errorf("pod %s still carries labels of a batch: %v", pod.Name, pod.Labels)
		}
	}
	s.create(makeBatch("last", "p", 4))
	s.delivered("last", 4)
	t.Logf("%d of %d had sandboxes when they were deleted", served, n)
}

// A pool whose finalizer somebody takes away is gone at once. The sandboxes in use stay, what nobody holds goes, and the
// batch can be deleted as ever.
func TestABatchWhosePoolIsGoneGoesOnAndCanBeDeleted(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 3, 3, 3, 8))
	s.idle("p", 3)
	s.create(makeBatch("b", "p", 2))
	held, _, err := annotations(s.delivered("b", 2))
	s.must(err)
	s.idle("p", 3)
	pool := s.pool("p")
	s.must(s.client.Delete(s.ctx, pool))
	for s.client.Get(s.ctx, client.ObjectKeyFromObject(pool), pool) == nil {
		_ = s.client.Patch(s.ctx, pool, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
	}
	s.spared("b", held, "delete what the pool left behind", func() error {
		if n := len(s.pods()); n != len(held) {
			return fmt.Errorf("%d pods, want the %d that are held", n, len(held))
		}
		return nil
	})
	s.delivered("b", 2)
	s.patch(s.batch("b"), `{"spec":{"replicas":3}}`)
	s.hasReason("b", v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolNotFound)
	s.patch(s.batch("b"), `{"spec":{"replicas":1}}`)
	s.delivered("b", 1)
	s.deletes(s.batch("b"))
	s.noPods()
}

func (s *space) noPods() {
	s.t.Helper()
	eventually(s.t, "delete every pod", func() error {
		if pods := s.pods(); len(pods) != 0 {
			return fmt.Errorf("%d pods are left, such as %s", len(pods), pods[0].Name)
		}
		return nil
	})
}

// Everything in a busy namespace goes with it: no finalizer waits for executors that don't answer or for a recycling,
// nothing new is made, and the controller doesn't complain again and again of what it can't do there.
func TestADeletedNamespaceGoesWithEverythingInIt(t *testing.T) {
	for _, recycle := range []v1alpha1.RecycleType{v1alpha1.RecycleRestart, v1alpha1.RecycleDelete, v1alpha1.RecycleNoop} {
		t.Run(string(recycle), func(t *testing.T) {
			s := newSpace(t)
			c := s.startController("")
			pool := makePool("p", 5, 10, 20, 30)
			pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: recycle}
			s.create(pool)
			s.idle("p", 20)
			for i := range 10 {
				s.create(makeTaskBatch(fmt.Sprintf("b-%d", i), "p", "sleep 1000", 2))
			}
			s.create(makeBatch("own", "", 3))
			s.create(makeBatch("waits", "p", 30))
			for i := range 10 {
				s.delivered(fmt.Sprintf("b-%d", i), 2)
			}
			s.delivered("own", 3)
			before := c.errors()
			var deletable, let time.Time // when Kubernetes first asked for one of them, and when none was left
			s.must(s.client.Delete(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}))
			eventually(t, "delete the namespace", func() error {
				left, asked := s.left()
				if deletable.IsZero() && (asked > 0 || left == 0) {
					deletable = time.Now()
				}
				if let.IsZero() && left == 0 {
					let = time.Now()
				}
				var ns corev1.Namespace
				if err := s.client.Get(s.ctx, client.ObjectKey{Name: s.name}, &ns); !apierrors.IsNotFound(err) {
					return fmt.Errorf("still there: %v (%w)", ns.Status.Conditions, err)
				}
				return nil
			})
			took := let.Sub(deletable)
			if took > 10*time.Second {
				t.Errorf("the objects took %s to go once they were asked to, want at most 10s", took)
			}
			t.Logf("the objects took %s to go once they were asked to", took)
			if complaints := c.errors()[len(before):]; len(complaints) > 5 {
				t.Errorf("%d complaints in the controller's log, want at most 5; the last are\n%s",
					len(complaints), strings.Join(complaints[max(0, len(complaints)-8):], "\n"))
			}
		})
	}
}

// left counts the batches and pools that are there, and those of them whose deletion was asked for.
func (s *space) left() (left, asked int) {
	s.t.Helper()
	var batches v1alpha1.BatchSandboxList
	var pools v1alpha1.PoolList
	s.must(s.client.List(s.ctx, &batches, client.InNamespace(s.name)))
	s.must(s.client.List(s.ctx, &pools, client.InNamespace(s.name)))
	for i := range batches.Items {
		if batches.Items[i].DeletionTimestamp != nil {
			asked++
		}
	}
	for i := range pools.Items {
		if pools.Items[i].DeletionTimestamp != nil {
			asked++
		}
	}
	return len(batches.Items) + len(pools.Items), asked
}

// errors are the lines of the controller's log that tell of errors.
func (c *controller) errors() []string {
	var found []string
	for line := range strings.SplitSeq(c.log.String(), "\n") {
		if strings.HasPrefix(line, "E") {
			found = append(found, line)
		}
	}
	return found
}

// Uninstalling deletes all objects while the controller still runs.
func TestDeletingEverythingEndsClean(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 6))
	s.create(makePool("q", 2, 3, 0, 6))
	s.create(makeTaskBatch("tasks", "p", "sleep 1000", 4))
	s.create(makeBatch("plain", "q", 2))
	s.create(makeBatch("own", "", 2))
	s.create(makeBatch("waits", "q", 6))
	s.delivered("tasks", 4)
	s.delivered("plain", 2)
	s.delivered("own", 2)
	for _, obj := range []client.Object{&v1alpha1.BatchSandbox{}, &v1alpha1.Pool{}} {
		s.must(s.client.DeleteAllOf(s.ctx, obj, client.InNamespace(s.name)))
	}
	for _, name := range []string{"tasks", "plain", "own", "waits"} {
		s.gone(makeBatch(name, "p", 1))
	}
	s.gone(makePool("p", 0, 0, 0, 0))
	s.gone(makePool("q", 0, 0, 0, 0))
	s.noPods()
}
