// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// leaks finds pods at rest that nobody will ever use or remove. Those that are being deleted are the kubelet's.
//
//	| made by | held by a live batch | its maker is       | carries a batch's labels | the finding                      |
//	| a batch | -                    | there              | -                        | none                             |
//	| a batch | -                    | gone               | -                        | leaked                           |
//	| a pool  | yes                  | -                  | -                        | none                             |
//	| a pool  | no                   | gone, or deleted   | -                        | leaked                           |
//	| a pool  | no                   | there              | yes                      | leaked: it can never be idle     |
//	| a pool  | no                   | there              | no                       | none by itself                   |
//	| a pool  | -                    | there, and counts fewer pods than there are           | leaked, told of the pool         |
func (a *audit) leaks() []Finding {
	var found []Finding
	for _, n := range sortedNames(a.world.pods) {
		pod := a.world.pods[n]
		if why := a.leakOf(n, pod); why != "" && pod.DeletionTimestamp == nil {
			found = append(found, Finding{
				Kind: Leaked, Objects: []string{titled("Pod", n)}, Revisions: []int64{a.world.revisions[pod.UID]},
				Sentence: titled("Pod", n) + " is left: " + why,
			})
		}
	}
	for _, n := range sortedNames(a.world.pools) {
		p := a.world.pools[n]
		if p.obj == nil || p.obj.DeletionTimestamp != nil {
			continue
		}
		c := a.countsOf(p)
		if total := int(p.obj.Status.Total); total < c.total() {
			found = append(found, Finding{
				Kind: Leaked, Objects: []string{titled("Pool", n)}, Revisions: []int64{a.world.revisions[p.obj.UID]},
				Sentence: fmt.Sprintf("%s counts %d pods, and there are %d", titled("Pool", n), total, c.total()),
			})
		}
	}
	return found
}

// leakOf says why a pod is a leak, "" if it is none.
func (a *audit) leakOf(n name, pod *corev1.Pod) string {
	if maker := makerOf(pod); maker != "" {
		if b := a.world.known[maker]; b == nil || b.gone {
			return "the BatchSandbox that made it is gone"
		}
		return ""
	}
	of := pod.Labels[v1alpha1.PoolNameLabel]
	if of == "" || len(a.world.holders[n]) > 0 {
		return ""
	}
	pool := name{Namespace: pod.Namespace, Name: of}
	obj := a.world.pool(pool).obj
	label := pod.Labels[v1alpha1.BatchNameLabel]
	switch {
	case obj == nil:
		return titled("Pool", pool) + " is gone, and nobody holds it"
	case obj.DeletionTimestamp != nil:
		return titled("Pool", pool) + " is being deleted, and nobody holds it"
	case label != "":
		return "it has the labels of BatchSandbox " + label + ", and nobody holds it"
	default:
		return ""
	}
}

// counts are the pods of a pool by what they are.
type counts struct {
	held    int
	unheld  [goingPod + 1]int
	waiting int
}

// total is the size of the pool: all pods but those that are being deleted and that nobody holds.
func (c counts) total() int {
	return c.held + c.unheld[idlePod] + c.unheld[startingPod] + c.unheld[strandedPod] + c.unheld[unusablePod]
}

func (a *audit) countsOf(p *pool) counts {
	c := counts{}
	for n := range p.pods {
		if len(a.world.holders[n]) > 0 {
			c.held++
			continue
		}
		c.unheld[a.world.classOf(a.world.pods[n])]++
	}
	return c
}
