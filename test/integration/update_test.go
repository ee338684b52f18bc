// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

const newerTemplate = `{"spec":{"containers":[{"name":"sandbox-container","image":"nginx:newer"}]}}`

// unschedulableTemplate asks for more than any node has: its pods never become ready.
const unschedulableTemplate = `{"spec":{"containers":[{"name":"sandbox-container","image":"nginx:newer",` +
	`"resources":{"requests":{"cpu":"100000"}}}]}}`

// updatePool is a pool of 6 warm pods that hands released pods on, with an update budget.
func updatePool(name string, poolMax int32, budget int) *v1alpha1.Pool {
	pool := makePool(name, 6, 6, 0, poolMax)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	most := intstr.FromInt(budget)
	pool.Spec.UpdateStrategy = &v1alpha1.UpdateStrategy{MaxUnavailable: &most}
	return pool
}

// podWatch follows the pods of a namespace as the API server tells of them, in its order.
type podWatch struct {
	mu      sync.Mutex
	pods    map[string]*corev1.Pod
	made    int
	deleted map[string]bool // told to go
	least   int             // least number of usable pods since the watch began
	most    int             // greatest number of pods
}

// watchPods starts with the pods there are and ends with the test.
func (s *space) watchPods() *podWatch {
	s.t.Helper()
	w := &podWatch{pods: map[string]*corev1.Pod{}, deleted: map[string]bool{}}
	var list corev1.PodList
	s.must(s.client.List(s.ctx, &list, client.InNamespace(s.name)))
	for i := range list.Items {
		w.pods[list.Items[i].Name] = &list.Items[i]
	}
	w.least, w.most = w.usable(), len(w.pods)
	ctx, cancel := context.WithCancel(s.ctx)
	stream, err := s.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(s.name),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		cancel()
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range stream.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				w.take(event.Type, pod)
			}
		}
	}()
	s.t.Cleanup(func() { cancel(); stream.Stop(); <-done })
	return w
}

func (w *podWatch) take(kind watch.EventType, pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch kind {
	case watch.Added:
		w.made++
		w.pods[pod.Name] = pod
	case watch.Deleted:
		w.deleted[pod.Name] = true
		delete(w.pods, pod.Name)
	default:
		if pod.DeletionTimestamp != nil {
			w.deleted[pod.Name] = true
		}
		w.pods[pod.Name] = pod
	}
	w.least, w.most = min(w.least, w.usable()), max(w.most, len(w.pods))
}

func (w *podWatch) usable() int {
	n := 0
	for _, pod := range w.pods {
		if isReady(pod) && pod.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// seen are the pods made and told to go, the least number of usable ones and the greatest number of pods.
func (w *podWatch) seen() (made, deleted, least, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made, len(w.deleted), w.least, w.most
}

// allUpdated waits until every pod of the pool has its revision, n of them are available, and none is starting.
func (s *space) allUpdated(name, not string, n int) {
	s.t.Helper()
	eventually(s.t, "update "+name, func() error {
		p := s.pool(name)
		st := p.Status
		if st.ObservedGeneration != p.Generation || st.Revision == not || int(st.Available) != n || st.Starting > 0 || st.Updated != st.Total {
			return fmt.Errorf("status %+v, want %d available and all updated", st, n)
		}
		return nil
	})
}

func TestNewTemplateReplacesIdlePodsWithinTheBudget(t *testing.T) {
	cases := map[string]struct {
		poolMax int32
		budget  int
	}{
		"one at a time":                         {10, 1},
		"two at a time":                         {10, 2},
		"where poolMax has no room for a spare": {6, 1},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(updatePool("pool", tt.poolMax, tt.budget))
			s.idle("pool", 6)
			pool := s.pool("pool")
			seen := s.watchPods()
			s.patch(pool, `{"spec":{"template":`+newerTemplate+`}}`)
			s.allUpdated("pool", pool.Status.Revision, 6)
			eventually(t, "be rid of the old pods", func() error {
				for _, pod := range s.pods() {
					if pod.Spec.Containers[0].Image != "nginx:newer" {
						return fmt.Errorf("pod %s has image %s", pod.Name, pod.Spec.Containers[0].Image)
					}
				}
				return nil
			})
			made, deleted, least, most := seen.seen()
			if made != 6 || deleted != 6 {
				t.Errorf("%d pods made and %d deleted, want 6 and 6", made, deleted)
			}
			if least < 6-tt.budget {
				t.Errorf("only %d of 6 pods usable at some time, budget %d", least, tt.budget)
			}
			if most > int(tt.poolMax) {
				t.Errorf("%d pods at once, poolMax is %d", most, tt.poolMax)
			}
		})
	}
}

func TestHeldPodSurvivesTheUpdateAndIsReplacedAfterItsRelease(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(updatePool("pool", 12, 2))
	s.idle("pool", 6)
	s.create(makeBatch("old", "pool", 2))
	held, _, err := annotations(s.delivered("old", 2))
	s.must(err)
	s.idle("pool", 6)
	pool := s.pool("pool")

	s.patch(pool, `{"spec":{"template":`+newerTemplate+`}}`)
	eventually(t, "update the idle pods", func() error {
		if st := s.pool("pool").Status; st.Revision == pool.Status.Revision || st.Updated != 6 || st.Available != 6 || st.Total != 8 {
			return fmt.Errorf("status %+v, want 6 updated and available of 8", st)
		}
		return nil
	})
	for _, name := range held {
		pod := &corev1.Pod{}
		s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, pod))
		if pod.DeletionTimestamp != nil || pod.Spec.Containers[0].Image == "nginx:newer" {
			t.Errorf("held pod %s was touched: %s, deleted at %v", name, pod.Spec.Containers[0].Image, pod.DeletionTimestamp)
		}
	}

	s.create(makeBatch("new", "pool", 1))
	pods, _, err := annotations(s.delivered("new", 1))
	s.must(err)
	pod := &corev1.Pod{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: pods[0]}, pod))
	if pod.Spec.Containers[0].Image != "nginx:newer" {
		t.Errorf("a batch made after the update has image %s", pod.Spec.Containers[0].Image)
	}

	s.must(s.client.Delete(s.ctx, s.batch("old")))
	for _, name := range held {
		s.gone(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: name}})
	}
	s.allUpdated("pool", pool.Status.Revision, 6)
}

func TestBrokenNewTemplateKeepsTheOldPodsServing(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(updatePool("pool", 12, 2))
	s.idle("pool", 6)
	pool := s.pool("pool")
	seen := s.watchPods()
	s.patch(pool, `{"spec":{"template":`+unschedulableTemplate+`}}`)
	eventually(t, "tell that the new pods can't start", func() error {
		p := s.pool("pool")
		for _, c := range p.Status.Conditions {
			if c.Type == v1alpha1.ConditionPodsFailing && c.Reason == corev1.PodReasonUnschedulable {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", p.Status.Conditions)
	})
	const quiet = 3 * time.Second
	select {
	case <-time.After(quiet): // nothing more may happen
	case <-s.ctx.Done():
	}
	if made, deleted, least, _ := seen.seen(); made != 2 || deleted != 2 || least != 4 {
		t.Errorf("%d pods made, %d deleted and %d usable, want 2, 2 and 4", made, deleted, least)
	}
	s.create(makeBatch("b", "pool", 3))
	s.delivered("b", 3)

	s.patch(s.pool("pool"), `{"spec":{"template":`+newerTemplate+`}}`)
	eventually(t, "update the idle pods once the template is repaired", func() error {
		if st := s.pool("pool").Status; st.Updated != 6 || st.Available != 6 || st.Starting > 0 {
			return fmt.Errorf("status %+v, want 6 updated and available", st)
		}
		return nil
	})
}

func TestPodMarkedForEvictionGoesWhenNobodyHoldsIt(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(updatePool("pool", 12, 1))
	s.idle("pool", 6)
	s.create(makeBatch("b", "pool", 1))
	held, _, err := annotations(s.delivered("b", 1))
	s.must(err)
	s.idle("pool", 6)
	var idle *corev1.Pod
	for _, pod := range s.pods() {
		if pod.Name != held[0] {
			idle = pod.DeepCopy()
		}
	}
	const mark = `{"metadata":{"labels":{"` + v1alpha1.EvictLabel + `":""}}}`
	s.patch(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: held[0]}}, mark)
	s.patch(idle.DeepCopy(), mark)
	s.gone(idle)
	s.idle("pool", 6)

	pod := &corev1.Pod{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: held[0]}, pod))
	if pod.DeletionTimestamp != nil {
		t.Errorf("pod %s is deleted while a batch holds it", pod.Name)
	}
	s.must(s.client.Delete(s.ctx, s.batch("b")))
	s.gone(pod)
}
