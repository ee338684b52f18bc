// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// addNode makes a simulated node that only pods of this test's nodeTemplate are bound to, and waits until it is Ready. It goes
// when the test ends.
func (s *space) addNode(suffix string, pods int) string {
	s.t.Helper()
	name := s.name + "-" + suffix
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: *resource.NewQuantity(int64(pods), resource.DecimalSI),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": s.name}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "test", Value: s.name, Effect: corev1.TaintEffectNoSchedule}}},
		Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
	}
	s.must(s.client.Create(s.ctx, node))
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		_ = s.client.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	})
	eventually(s.t, name+" is Ready", func() error {
		now := s.node(name)
		if !slices.ContainsFunc(now.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("conditions %v", now.Status.Conditions)
		}
		for _, taint := range now.Spec.Taints {
			if taint.Key == corev1.TaintNodeNotReady {
				return fmt.Errorf("taints %v", now.Spec.Taints)
			}
		}
		return nil
	})
	return name
}

func (s *space) node(name string) *corev1.Node {
	s.t.Helper()
	node := &corev1.Node{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Name: name}, node))
	return node
}

// cordon keeps new pods from a node, as kubectl cordon does.
func (s *space) cordon(name string) { s.patch(s.node(name), `{"spec":{"unschedulable":true}}`) }

func (s *space) uncordon(name string) { s.patch(s.node(name), `{"spec":{"unschedulable":null}}`) }

// setReady says of a node whether it is Ready, and since when. The simulator leaves its status alone from then on.
func (s *space) setReady(name string, status corev1.ConditionStatus, since time.Time) {
	s.t.Helper()
	s.patch(s.node(name), `{"metadata":{"annotations":{"kwok.x-k8s.io/status":"custom"}}}`)
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: status, Reason: "Test", Message: "set by a test",
		LastTransitionTime: metav1.NewTime(since), LastHeartbeatTime: metav1.Now(),
	}}}})
	s.must(err)
	s.must(s.client.Status().Patch(s.ctx, s.node(name), client.RawPatch("application/strategic-merge-patch+json", body)))
}

// nodeTemplate is a template whose pods run on the nodes of this test alone.
func (s *space) nodeTemplate(metadata string) *v1alpha1.RawObject {
	return raw(fmt.Sprintf(`{"metadata":{%s},"spec":{"nodeSelector":{"test":%q},"tolerations":[{"key":"test","operator":"Exists"}],
		"containers":[{"name":"sandbox-container","image":"nginx:latest"}]}}`, metadata, s.name))
}

// keptPods keeps pods as objects after their deletion, as a node does whose kubelet doesn't answer, until letGo.
const keptPods = `"finalizers":["test.opensandbox.io/keep"]`

// letGo lets pods that are being deleted go, as a node does that is back.
func (s *space) letGo() {
	s.t.Helper()
	for _, pod := range s.pods() {
		if len(pod.Finalizers) > 0 {
			s.must(client.IgnoreNotFound(s.client.Patch(s.ctx, &pod, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))))
		}
	}
}

// keepPods lets the pods of the test go when it ends.
func (s *space) keepPods() {
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		after := *s
		after.ctx = ctx
		after.letGo()
	})
}

// nodePool makes a pool of pods that run on the nodes of this test alone.
func (s *space) nodePool(pool *v1alpha1.Pool, metadata string) {
	s.t.Helper()
	pool.Spec.Template = s.nodeTemplate(metadata)
	s.create(pool)
}

// podsOn are the names of the pods on a node that are not being deleted.
func (s *space) podsOn(node string) []string {
	s.t.Helper()
	var names []string
	for _, pod := range s.pods() {
		if pod.Spec.NodeName == node && pod.DeletionTimestamp == nil {
			names = append(names, pod.Name)
		}
	}
	return names
}

// podWrites are the numbers of pods that the controller created and deleted.
func (s *space) podWrites() (created, deleted int) {
	s.t.Helper()
	for _, w := range s.writes() {
		switch {
		case w.ObjectRef.Resource != "pods" || w.ResponseStatus.Code >= 300:
		case w.Verb == "create":
			created++
		case w.Verb == "delete":
			deleted++
		}
	}
	return created, deleted
}

func (s *space) poolIs(name, what string, ok func(v1alpha1.PoolStatus) bool) {
	s.t.Helper()
	eventually(s.t, name+" "+what, func() error {
		if status := s.pool(name).Status; !ok(status) {
			return fmt.Errorf("status %+v", status)
		}
		return nil
	})
}

// waitsFor waits until a batch says that it waits, with these words.
func (s *space) waitsFor(name, words string) {
	s.t.Helper()
	eventually(s.t, name+" says "+words, func() error {
		c := meta.FindStatusCondition(s.batch(name).Status.Conditions, v1alpha1.ConditionAllocated)
		if c == nil || c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, words) {
			return fmt.Errorf("condition %+v", c)
		}
		return nil
	})
}

// replaced waits until index 0 of a pooled batch has another pod than before, with an address, and returns its name.
func (s *space) replaced(name, before string) string {
	s.t.Helper()
	now := ""
	eventually(s.t, "replace "+before, func() error {
		pods, ips, err := annotations(s.batch(name))
		if err != nil || len(pods) == 0 || pods[0] == before || pods[0] == "" || ips[0] == "" {
			return fmt.Errorf("pods %v, endpoints %v (%w)", pods, ips, err)
		}
		now = pods[0]
		return nil
	})
	return now
}

func (s *space) podOf(name string) string {
	s.t.Helper()
	pods, _, err := annotations(s.batch(name))
	s.must(err)
	return pods[0]
}

func TestPodsOnACordonedNodeAreKeptAndHandedOutWhenItIsUncordoned(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	a := s.addNode("a", 3)
	s.nodePool(makePool("p", 0, 3, 3, 10), "")
	s.idle("p", 3)
	warm := s.podsOn(a)
	s.cordon(a)
	s.poolIs("p", "has no pod to hand out", func(st v1alpha1.PoolStatus) bool { return st.Available == 0 && st.Total == 3 })
	s.create(makeBatch("b", "p", 1))
	s.waitsFor("b", "cordoned")
	s.waitsFor("b", "Unschedulable") // of the pods made in their place, for which there is no node
	s.uncordon(a)
	s.delivered("b", 1)
	if pod := s.podOf("b"); !slices.Contains(warm, pod) {
		t.Errorf("the batch got %s, want one of %v, which were warm", pod, warm)
	}
	for _, name := range warm {
		if !slices.Contains(s.podsOn(a), name) {
			t.Errorf("pod %s was deleted, though only its node was cordoned", name)
		}
	}
	if created, _ := s.podWrites(); created > 6 {
		t.Errorf("%d pods were created, want 3 and a few for the batch", created)
	}
}

func TestAFullPoolReplacesThePodsOnACordonedNode(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	a := s.addNode("a", 10)
	s.nodePool(makePool("p", 2, 2, 0, 2), "")
	s.idle("p", 2)
	b := s.addNode("b", 10)
	s.cordon(a)
	eventually(t, "move the pods", func() error {
		if n := len(s.pods()); n > 2 {
			t.Fatalf("%d pods, and poolMax is 2", n)
		}
		if on, st := s.podsOn(b), s.pool("p").Status; len(on) != 2 || st.Available != 2 || st.Total != 2 {
			return fmt.Errorf("pods %v on the node without cordon, status %+v", on, st)
		}
		return nil
	})
	if created, deleted := s.podWrites(); created != 4 || deleted != 2 {
		t.Errorf("%d pods created and %d deleted, want 4 and 2", created, deleted)
	}
	if reason := s.pool("p").Status.LastScaleReason; !strings.Contains(reason, "bufferMin") {
		t.Errorf("the last reason is %q, want one about bufferMin", reason)
	}
}

func TestAFullPoolOnACordonedNodeAloneKeepsItsPodsButOne(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	a := s.addNode("a", 10)
	s.nodePool(makePool("p", 4, 4, 0, 4), "")
	s.idle("p", 4)
	s.cordon(a)
	s.poolIs("p", "says that its pods fail and that nodes are cordoned", func(st v1alpha1.PoolStatus) bool {
		failing, ready := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionPodsFailing), meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady)
		return failing.Status == metav1.ConditionTrue && failing.Reason == "Unschedulable" &&
			ready.Status == metav1.ConditionFalse && strings.Contains(ready.Message, "3 other pods are cordoned")
	})
	// What would go on goes on with the next looks at the pool.
	for bufferMax := 5; bufferMax < 10; bufferMax++ {
		pool := s.pool("p")
		s.patch(pool, fmt.Sprintf(`{"spec":{"capacitySpec":{"bufferMax":%d}}}`, bufferMax))
		s.poolIs("p", "was looked at again", func(st v1alpha1.PoolStatus) bool { return st.ObservedGeneration >= pool.Generation })
	}
	if created, deleted := s.podWrites(); created != 5 || deleted != 1 {
		t.Errorf("%d pods created and %d deleted, want 5 and 1", created, deleted)
	}
	s.uncordon(a)
	s.idle("p", 4)
}

func TestASandboxOnANodeThatIsNotReadyForAMinuteIsReplaced(t *testing.T) {
	s := newSpace(t)
	s.keepPods()
	s.startController("")
	a := s.addNode("a", 1)
	s.nodePool(makePool("p", 0, 1, 1, 4), keptPods)
	s.idle("p", 1)
	s.create(makeBatch("b", "p", 1))
	s.delivered("b", 1)
	first := s.podOf("b")
	b := s.addNode("b", 10)
	s.setReady(a, corev1.ConditionUnknown, time.Now())
	s.poolIs("p", "still counts the sandbox", func(st v1alpha1.PoolStatus) bool { return st.Allocated == 1 })
	if pod := s.podOf("b"); pod != first {
		t.Fatalf("the batch has %s in place of %s, though its node may come back within a minute", pod, first)
	}
	s.setReady(a, corev1.ConditionUnknown, time.Now().Add(-61*time.Second))
	second := s.replaced("b", first)
	if on := s.podsOn(b); !slices.Contains(on, second) {
		t.Errorf("the replacement %s is not on the other node, which has %v", second, on)
	}
	s.delivered("b", 1)
	eventually(t, "delete the lost pod", func() error {
		if on := s.podsOn(a); len(on) > 0 {
			return fmt.Errorf("still there: %v", on)
		}
		return nil
	})
	s.setReady(a, corev1.ConditionTrue, time.Now())
	s.letGo()
	eventually(t, "let the lost pod go", func() error {
		if slices.ContainsFunc(s.pods(), func(pod corev1.Pod) bool { return pod.Name == first }) {
			return fmt.Errorf("%s is still there", first)
		}
		return nil
	})
	if pod := s.podOf("b"); pod != second {
		t.Errorf("the batch has %s, want to keep %s when the node is back", pod, second)
	}
}

func TestASandboxWhoseNodeIsDeletedIsReplacedAtOnce(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	a := s.addNode("a", 1)
	s.nodePool(makePool("p", 0, 1, 1, 4), "")
	s.idle("p", 1)
	s.create(makeBatch("b", "p", 1))
	s.delivered("b", 1)
	first := s.podOf("b")
	s.addNode("b", 10)
	s.must(s.client.Delete(s.ctx, s.node(a)))
	start := time.Now()
	s.replaced("b", first)
	if took := time.Since(start); took > 25*time.Second { // the garbage collector of pods takes 40 s and more
		t.Errorf("it took %v", took)
	}
	s.delivered("b", 1)
}

func TestABatchOnALostNodeIsDeletedWithoutItsExecutor(t *testing.T) {
	s := newSpace(t)
	s.keepPods()
	s.startController("")
	a := s.addNode("a", 1)
	s.nodePool(makePool("p", 0, 1, 1, 1), keptPods)
	s.idle("p", 1)
	sb := makeBatch("b", "p", 1)
	sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: []string{"sleep", "1000"}}}}
	s.create(sb)
	s.delivered("b", 1)
	s.setReady(a, corev1.ConditionUnknown, time.Now().Add(-time.Hour))
	s.waitsFor("b", "waiting for pods")
	start := time.Now()
	s.must(s.client.Delete(s.ctx, s.batch("b")))
	s.gone(&v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	if took := time.Since(start); took > 20*time.Second { // 30 s is the wait for an executor that doesn't answer
		t.Errorf("it took %v", took)
	}
}

func TestABatchWithoutPoolReplacesItsPodOnALostNodeForGood(t *testing.T) {
	s := newSpace(t)
	s.keepPods()
	s.startController("")
	a := s.addNode("a", 1)
	sb := makeBatch("own", "", 1)
	sb.Spec.Template = s.nodeTemplate(keptPods)
	s.create(sb)
	s.delivered("own", 1)
	s.addNode("b", 10)
	s.setReady(a, corev1.ConditionUnknown, time.Now().Add(-time.Hour))
	eventually(t, "replace the pod", func() error {
		pod := podByIndex(s.pods(), "own", "0")
		if pod == nil || !strings.HasPrefix(pod.Name, "own-0-") {
			return fmt.Errorf("no living pod of index 0 but the first, or none at all")
		}
		return nil
	})
	s.delivered("own", 1)
	second := podByIndex(s.pods(), "own", "0").Name
	s.setReady(a, corev1.ConditionTrue, time.Now())
	s.letGo()
	eventually(t, "be left with one pod", func() error {
		if pods := s.pods(); len(pods) != 1 || pods[0].Name != second {
			return fmt.Errorf("%d pods, want %s alone", len(pods), second)
		}
		return nil
	})
	s.delivered("own", 1)
}

func TestDrainedPodsAreReplaced(t *testing.T) {
	evict := func(s *space, pod string) {
		s.must(s.client.SubResource("eviction").Create(s.ctx,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: pod}}, &policyv1.Eviction{}))
	}
	fail := func(s *space, pod string) {
		obj := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: pod}}
		s.must(s.client.Status().Patch(s.ctx, obj, client.RawPatch("application/merge-patch+json",
			[]byte(`{"status":{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."}}`))))
	}
	cases := map[string]func(*space, string){
		"by the eviction API, as kubectl drain does": evict,
		"by the kubelet, which is short of memory":   fail,
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(makePool("p", 1, 1, 0, 4))
			s.create(makeBatch("b", "p", 1))
			s.delivered("b", 1)
			s.idle("p", 1)
			held, idle := s.podOf("b"), ""
			for _, pod := range s.pods() {
				if pod.Name != held {
					idle = pod.Name
				}
			}
			lose(s, idle)
			eventually(t, "replace the idle pod", func() error {
				left := slices.DeleteFunc(s.pods(), func(pod corev1.Pod) bool { return pod.Name == held })
				if st := s.pool("p").Status; len(left) != 1 || left[0].Name == idle || st.Available != 1 {
					return fmt.Errorf("%d other pods, status %+v", len(left), st)
				}
				return nil
			})
			lose(s, held)
			s.replaced("b", held)
			s.delivered("b", 1)

			s.create(makeBatch("own", "", 1))
			s.delivered("own", 1)
			before := podByIndex(s.pods(), "own", "0")
			lose(s, before.Name)
			eventually(t, "replace the pod of a batch without pool", func() error {
				if now := podByIndex(s.pods(), "own", "0"); now == nil || now.UID == before.UID {
					return fmt.Errorf("no other pod than %s", before.Name)
				}
				return nil
			})
			s.delivered("own", 1)
		})
	}
}
