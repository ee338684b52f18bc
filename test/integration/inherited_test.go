// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// inheritedPool makes what an older controller left: a pool with its finalizer, a revision that is no hash of ours, and n
// warm pods that have labels and annotations of that controller beside the known ones.
func (s *space) inheritedPool(name string, n int) (*v1alpha1.Pool, []string) {
	s.t.Helper()
	const revision = "5d8f7b9c64"
	pool := makePool(name, 1, 8, int32(n), 12) //nolint:gosec // a handful
	pool.Finalizers = []string{v1alpha1.PoolAllocationFinalizer}
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	s.create(pool)
	pool.Status.Revision, pool.Status.ObservedGeneration, pool.Status.Total = revision, pool.Generation, int32(n) //nolint:gosec // a handful
	s.must(s.client.Status().Update(s.ctx, pool))
	var names []string
	for i := range n {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name:        fmt.Sprintf("%s-old%d", name, i),
				Labels:      map[string]string{v1alpha1.PoolNameLabel: name, v1alpha1.PoolRevisionLabel: revision, "example.com/older": "1"},
				Annotations: map[string]string{"sandbox.opensandbox.io/unknown": "{"},
				OwnerReferences: []metav1.OwnerReference{
					*metav1.NewControllerRef(pool, v1alpha1.GroupVersion.WithKind("Pool")),
				},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "sandbox-container", Image: "nginx:latest"}}},
		}
		s.create(pod)
		names = append(names, pod.Name)
	}
	eventually(s.t, "run the inherited pods", func() error {
		for _, pod := range s.pods() {
			if pod.Status.PodIP == "" || !podReady(&pod) {
				return fmt.Errorf("pod %s is not Ready", pod.Name)
			}
		}
		return nil
	})
	return pool, names
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// inheritedBatch makes a batch of an older controller with these annotations.
func (s *space) inheritedBatch(sb *v1alpha1.BatchSandbox, annotations map[string]string, finalizers ...string) {
	s.t.Helper()
	sb.Annotations, sb.Finalizers = annotations, finalizers
	s.create(sb)
}

// All that an older controller of this API left is taken over: no idle pod is replaced, no held one is lost, and what it
// had given back is not served any more.
func TestObjectsOfAnOlderControllerAreTakenOver(t *testing.T) {
	s := newSpace(t)
	_, old := s.inheritedPool("p", 6)
	both := []string{v1alpha1.PoolAllocationFinalizer, v1alpha1.TaskCleanupFinalizer}
	s.inheritedBatch(makeBatch("held", "p", 2), map[string]string{
		v1alpha1.AllocStatusAnnotation: `{"pods":["p-old0","p-old1"]}`,
	}, both...)
	s.inheritedBatch(makeBatch("bare", "p", 1), map[string]string{
		v1alpha1.AllocStatusAnnotation: `{"poolRef":"p","pods":["p-old2"]}`,
	})
	s.inheritedBatch(makeBatch("gave-back", "p", 2), map[string]string{
		v1alpha1.AllocStatusAnnotation:  `{"pods":["p-old3","p-old4"]}`,
		v1alpha1.AllocReleaseAnnotation: `{"pods":["p-old3"]}`,
	}, both...)
	s.inheritedBatch(makeBatch("broken", "p", 1), map[string]string{
		v1alpha1.AllocStatusAnnotation: `{"pods":["p-old0"`,
	}, both...)
	s.inheritedBatch(makeBatch("broken-too", "p", 1), map[string]string{
		v1alpha1.AllocStatusAnnotation:   `{"pods":[]}`,
		v1alpha1.AllocReleasedAnnotation: `"p-old1"`,
	}, both...)
	goes := makeBatch("goes", "p", 1)
	s.inheritedBatch(goes, nil, both...)
	s.must(s.client.Delete(s.ctx, goes))

	s.startController("")
	s.gone(goes)
	s.delivered("held", 2)
	s.delivered("bare", 1)
	s.delivered("gave-back", 2)
	wantPods(s, "held", "p-old0", "p-old1")
	wantPods(s, "bare", "p-old2")
	pods, ips, err := annotations(s.batch("gave-back"))
	if err != nil || len(pods) != 2 || pods[0] == "p-old3" || pods[0] == "" || pods[1] != "p-old4" || ips[0] == "" {
		t.Errorf("gave-back holds %v with %v (%v), want another pod than p-old3 at 0, and p-old4", pods, ips, err)
	}
	left := s.batch("gave-back").Annotations
	for _, key := range []string{v1alpha1.AllocReleaseAnnotation, v1alpha1.AllocReleasedAnnotation} {
		if _, ok := left[key]; ok {
			t.Errorf("annotation %s is still there", key)
		}
	}
	if !slices.Contains(s.batch("bare").Finalizers, v1alpha1.PoolAllocationFinalizer) {
		t.Error("bare has no finalizer")
	}
	s.hasReason("broken", v1alpha1.ConditionAllocated, v1alpha1.ReasonInvalidAnnotation)
	s.hasReason("broken-too", v1alpha1.ConditionAllocated, v1alpha1.ReasonInvalidAnnotation)
	eventually(t, "delete the pod that was given back, and no other", func() error {
		there := map[string]bool{}
		for _, pod := range s.pods() {
			there[pod.Name] = pod.DeletionTimestamp == nil
		}
		for _, name := range old {
			if there[name] == (name == "p-old3") {
				return fmt.Errorf("pod %s: there is %v", name, there[name])
			}
		}
		return nil
	})
	pool := s.pool("p")
	if pool.Status.Revision != "5d8f7b9c64" {
		t.Errorf("revision %s, want the older controller's", pool.Status.Revision)
	}
	for _, name := range []string{"held", "bare", "gave-back", "broken", "broken-too"} {
		s.deletes(s.batch(name))
	}
	s.deletes(pool)
	s.noPods()
}

func wantPods(s *space, batch string, want ...string) {
	s.t.Helper()
	if got, _, err := annotations(s.batch(batch)); err != nil || !slices.Equal(got, want) {
		s.t.Errorf("%s holds %v (%v), want %v", batch, got, err, want)
	}
}

// told waits for an event of this reason about a batch, and returns its note.
func (s *space) told(batch, reason string) string {
	s.t.Helper()
	note := ""
	eventually(s.t, fmt.Sprintf("tell %s of %s", reason, batch), func() error {
		var events corev1.EventList
		s.must(s.client.List(s.ctx, &events, client.InNamespace(s.name)))
		for i := range events.Items {
			if e := &events.Items[i]; e.InvolvedObject.Name == batch && e.Reason == reason {
				note = e.Message
				return nil
			}
		}
		return fmt.Errorf("none of %d events says so", len(events.Items))
	})
	return note
}

func TestAnEvictedSandboxIsReplacedAndTold(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 1, 2, 2, 6))
	s.create(makeBatch("b", "p", 2))
	before, _, err := annotations(s.delivered("b", 2))
	s.must(err)
	s.must(s.client.SubResource("eviction").Create(s.ctx, s.pod(before[1]), &policyv1.Eviction{}))
	eventually(t, "replace index 1", func() error {
		after, ips, err := annotations(s.batch("b"))
		if err != nil || after[0] != before[0] || after[1] == before[1] || after[1] == "" || ips[1] == "" {
			return fmt.Errorf("pods %v, were %v (%w)", after, before, err)
		}
		return nil
	})
	if note, want := s.told("b", "SandboxLost"), fmt.Sprintf("Lost 1 sandbox: %s (evicted)", before[1]); note != want {
		t.Errorf("told %q, want %q", note, want)
	}
	s.delivered("b", 2)
}

func (s *space) pod(name string) *corev1.Pod {
	s.t.Helper()
	pod := &corev1.Pod{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, pod))
	return pod
}

func TestARestartOfASandboxContainerIsCountedAndTold(t *testing.T) {
	for name, pool := range map[string]string{"pooled": "p", "without a pool": ""} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(makePool("p", 0, 1, 1, 3))
			s.create(makeBatch("b", pool, 1))
			s.delivered("b", 1)
			held := "b-0"
			if pool != "" {
				pods, _, err := annotations(s.batch("b"))
				s.must(err)
				held = pods[0]
			}
			pod := s.pod(held)
			if len(pod.Status.ContainerStatuses) != 1 {
				t.Fatalf("container statuses %v, want those of one container", pod.Status.ContainerStatuses)
			}
			pod.Status.ContainerStatuses[0].RestartCount += 2
			s.must(s.client.Status().Update(s.ctx, pod))
			eventually(t, "count the restarts", func() error {
				if got := s.batch("b").Status.Restarts; got != 2 {
					return fmt.Errorf("%d restarts", got)
				}
				return nil
			})
			if note, want := s.told("b", "SandboxRestarted"), "Containers restarted in 1 sandbox: "+held; note != want {
				t.Errorf("told %q, want %q", note, want)
			}
		})
	}
}

func TestAPooledBatchIsScaledUpAndDown(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 1, 2, 4, 8))
	s.idle("p", 4)
	s.create(makeBatch("b", "p", 2))
	two, _, err := annotations(s.delivered("b", 2))
	s.must(err)
	s.patch(s.batch("b"), `{"spec":{"replicas":4}}`)
	four, _, err := annotations(s.delivered("b", 4))
	if err != nil || !slices.Equal(four[:2], two) {
		t.Errorf("pods %v (%v), want %v and two more", four, err, two)
	}
	s.patch(s.batch("b"), `{"spec":{"replicas":1}}`)
	s.delivered("b", 1)
	eventually(t, "let the highest indexes go", func() error {
		one, ips, err := annotations(s.batch("b"))
		if err != nil || !slices.Equal(one, two[:1]) || len(ips) != 1 {
			return fmt.Errorf("pods %v, endpoints %v, want %s alone (%w)", one, ips, two[0], err)
		}
		return nil
	})
	if st := s.batch("b").Status; st.Replicas != 1 || st.Allocated != 1 || st.Ready != 1 {
		t.Errorf("status %+v, want one of each", st)
	}
}
