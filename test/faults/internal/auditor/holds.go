// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"
	"slices"
)

// checkHolds finds a pod that is given to a batch while it is held. What a batch holds is the table above namedBy.
//
//	| the pod is named by              | the finding         |
//	| no other live batch              | none                |
//	| another live batch               | held by two         |
//	| this batch, at a lower index too | held twice by one   |
func (a *audit) checkHolds(s step) {
	for _, index := range s.twice {
		pod, b := titled("Pod", s.podAt(index)), s.batch.title()
		a.find(Finding{
			Kind: DoublyHeld, Objects: []string{pod, b}, Revisions: []int64{s.Revision},
			Sentence: fmt.Sprintf("%s has %s at index %d and at index %d", b, pod, slices.Index(s.batch.named, s.batch.named[index]), index),
		})
	}
	for _, index := range s.given {
		n := s.podAt(index)
		for _, h := range a.world.holders[n] {
			if h.batch == s.batch {
				continue
			}
			pod, b, other := titled("Pod", n), s.batch.title(), h.batch.title()
			a.find(Finding{
				Kind: DoublyHeld, Objects: []string{pod, other, b}, Revisions: []int64{h.revision, s.Revision},
				Sentence: fmt.Sprintf("%s is given to index %d of %s while %s holds it at index %d", pod, index, b, other, h.index),
			})
		}
	}
}

// podAt is the pod that the batch names at an index.
func (s step) podAt(index int) name {
	return name{Namespace: s.batch.obj.Namespace, Name: s.batch.named[index]}
}
