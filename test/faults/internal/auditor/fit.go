// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// fitness is since when pods and nodes are not fit for new sandboxes any more, and when pods were bound to their nodes.
type fitness struct {
	unfit    map[types.UID]time.Time
	bound    map[types.UID]time.Time
	cordoned map[string]time.Time
}

func newFitness() fitness {
	return fitness{unfit: map[types.UID]time.Time{}, bound: map[types.UID]time.Time{}, cordoned: map[string]time.Time{}}
}

// checkFit finds pods that are given to a batch and that everybody could know to be unfit:
//
//	| the pod, since longer than Settings.Stale                           | the finding |
//	| ended, is being deleted, or is marked for eviction                  | unfit       |
//	| is on a node that was cordoned longer than that after it got there  | unfit       |
//	| is on a node that was cordoned before: it is there on purpose       | none        |
//	| anything else                                                       | none        |
func (a *audit) checkFit(s step) {
	switch obj := s.Object.(type) {
	case *corev1.Pod:
		a.fit.notePod(s, obj)
	case *corev1.Node:
		since(a.fit.cordoned, obj.Name, s.after != nil && obj.Spec.Unschedulable, s.Time)
	case *v1alpha1.BatchSandbox:
		for _, index := range s.given {
			a.checkFitOf(s, index)
		}
	}
}

func (f fitness) notePod(s step, pod *corev1.Pod) {
	_, evict := pod.Labels[v1alpha1.EvictLabel]
	since(f.unfit, pod.UID, s.after != nil && (pod.DeletionTimestamp != nil || hasEnded(pod) || evict), s.Time)
	since(f.bound, pod.UID, s.after != nil && pod.Spec.NodeName != "", s.Time)
}

// since notes since when something is so.
func since[K comparable](times map[K]time.Time, key K, is bool, now time.Time) {
	if _, was := times[key]; is && !was {
		times[key] = now
	} else if !is {
		delete(times, key)
	}
}

func (a *audit) checkFitOf(s step, index int) {
	n := s.podAt(index)
	pod := a.world.pods[n]
	if pod == nil || s.batch.obj.Spec.PoolRef == "" || s.Initial {
		return // nobody gets to see a pod that went meanwhile
	}
	old, why := s.Time.Add(-a.settings.Stale), ""
	unfit, is := a.fit.unfit[pod.UID]
	cordoned, on := a.fit.cordoned[pod.Spec.NodeName]
	switch {
	case is && unfit.Before(old):
		why = fmt.Sprintf("it has ended, is being deleted, or is to be evicted for %s", s.Time.Sub(unfit))
	case on && cordoned.Before(old) && a.fit.bound[pod.UID].Add(a.settings.Stale).Before(cordoned):
		why = fmt.Sprintf("its node %s is cordoned for %s", pod.Spec.NodeName, s.Time.Sub(cordoned))
	default:
		return
	}
	a.find(Finding{
		Kind: UnfitHandedOut, Objects: []string{titled("Pod", n), s.batch.title()}, Revisions: []int64{s.Revision},
		Sentence: fmt.Sprintf("%s is given to index %d of %s, and %s", titled("Pod", n), index, s.batch.title(), why),
	})
}
