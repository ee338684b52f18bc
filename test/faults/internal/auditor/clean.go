// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// traces are what a batch may have left in a pod. A pod that no batch had, or that is proven clean, has none.
type traces struct {
	user  *batch
	since int64 // the revision at which the user got the pod
	from  time.Time

	// let is the revision at which the user let the pod go, and unmarked that at which its mark went without a proof; 0 for none.
	let, unmarked int64

	// mark is the mark on the pod, nil for none, and ids are the container IDs that the pod had when it was written.
	mark *mark
	ids  map[string]string
}

// mark is the value of the recycling annotation.
type mark struct {
	Batch      types.UID         `json:"batch"`
	Containers map[string]string `json:"containers"`
	Since      string            `json:"since"`
}

// deleteRace is how old what the API server goes by may be while it deletes. It reads an object, sees no finalizer, and deletes whatever is
// there then: a batch too whose first finalizer came with its sandboxes in between. If its leader is gone as well, nobody knows whose
// they were.
const deleteRace = 2 * time.Second

// checkClean finds pods that are given to a batch with the traces of another one in them. What becomes of traces:
//
//	| what happens                                                          | the traces    |
//	| a batch gets the pod                                                  | are its       |
//	| it lets the pod go, and the pool's type was Noop in Settings.Stale    | don't matter  |
//	| it is deleted in spite of its finalizer, within deleteRace            | don't matter  |
//	| it lets the pod go, otherwise                                         | stay          |
//	| the mark for its batch goes, and no container has the ID it had when  | are gone      |
//	| the mark came, nor one that the mark names                            |               |
//	| any other mark goes, or none ever came                                | stay          |
//	| the pod goes                                                          | go with it    |
//
// A pod that is given to its last user again, or to somebody while another one holds it, is no finding here.
func (a *audit) checkClean(s step) {
	switch {
	case s.batch != nil:
		for _, pod := range s.letGo {
			a.letGo(s, pod)
		}
		for _, index := range s.given {
			a.handOut(s, index)
		}
	default:
		a.followMark(s)
	}
}

func (a *audit) letGo(s step, podName string) {
	pod := a.world.pods[name{Namespace: s.batch.obj.Namespace, Name: podName}]
	if pod == nil {
		return
	}
	t := a.traces[pod.UID]
	if t == nil || t.user != s.batch {
		return
	}
	t.let = s.Revision
	if s.after == nil && s.batch.obj.DeletionTimestamp == nil && a.world.now.Sub(t.from) <= deleteRace {
		delete(a.traces, pod.UID)
		return
	}
	pool := a.world.pool(name{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.PoolNameLabel]})
	for _, spec := range pool.inForce(a.world.now.Add(-a.settings.Stale)) {
		if spec.RecycleStrategy != nil && spec.RecycleStrategy.Type == v1alpha1.RecycleNoop && t.mark == nil {
			delete(a.traces, pod.UID)
		}
	}
}

func (a *audit) handOut(s step, index int) {
	n := s.podAt(index)
	pod := a.world.pods[n]
	if pod == nil || s.batch.obj.Spec.PoolRef == "" {
		return // nobody gets to see a pod that went meanwhile
	}
	if t := a.traces[pod.UID]; t != nil && t.user != s.batch && len(a.world.holders[n]) == 1 {
		a.find(Finding{
			Kind: DirtyHandedOut, Objects: []string{titled("Pod", n), t.user.title(), s.batch.title()}, Revisions: t.revisions(s.Revision),
			Sentence: fmt.Sprintf("%s is given to index %d of %s with the traces of %s in it: %s", titled("Pod", n), index, s.batch.title(), t.user.title(), t.why()),
		})
	}
	a.traces[pod.UID] = &traces{user: s.batch, since: s.Revision, from: a.world.now}
	if m := markOf(pod); m != nil {
		a.traces[pod.UID].mark, a.traces[pod.UID].ids = m, containerIDs(pod)
	}
}

func (t *traces) revisions(now int64) []int64 {
	return slices.DeleteFunc([]int64{t.since, t.let, t.unmarked, now}, func(r int64) bool { return r == 0 })
}

func (t *traces) why() string {
	switch {
	case t.mark != nil:
		return "it is still marked"
	case t.unmarked != 0:
		return "its mark went before all containers had new IDs"
	default:
		return "it was never marked"
	}
}

// followMark notes when the mark of a pod comes and goes.
func (a *audit) followMark(s step) {
	pod, ok := s.Object.(*corev1.Pod)
	if !ok {
		return
	}
	if s.after == nil {
		delete(a.traces, pod.UID)
		return
	}
	t := a.traces[pod.UID]
	if t == nil {
		return
	}
	is := markOf(pod)
	switch {
	case is != nil && t.mark == nil:
		t.mark, t.ids = is, containerIDs(pod)
	case is != nil:
		t.mark = is // an edit of the mark doesn't change when it came
	case is == nil && t.mark != nil && t.proves(pod):
		delete(a.traces, pod.UID)
	case is == nil && t.mark != nil:
		t.mark, t.unmarked = nil, s.Revision
	}
}

// proves says whether a pod has none of the containers any more that it had with its mark.
func (t *traces) proves(pod *corev1.Pod) bool {
	ids := containerIDs(pod)
	for _, old := range []map[string]string{t.ids, t.mark.Containers} {
		for _, container := range slices.Sorted(maps.Keys(old)) {
			if ids[container] == "" || ids[container] == old[container] {
				return false
			}
		}
	}
	return t.mark.Batch == t.user.obj.UID && len(t.mark.Containers) > 0
}

// markOf is the mark on a pod, nil for none. One that can't be read proves nothing.
func markOf(pod *corev1.Pod) *mark {
	value, ok := pod.Annotations[v1alpha1.RecyclingAnnotation]
	if !ok {
		return nil
	}
	m := &mark{}
	if json.Unmarshal([]byte(value), m) != nil {
		return &mark{}
	}
	return m
}

func containerIDs(pod *corev1.Pod) map[string]string {
	ids := map[string]string{}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if status.ContainerID != "" {
			ids[status.Name] = status.ContainerID
		}
	}
	return ids
}
