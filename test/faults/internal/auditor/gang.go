// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"

	"opensandbox.io/controller/api/v1alpha1"
)

// checkGang finds gangs that are given fewer pods than they take together, with those they have:
//
//	| minAvailable | edited in Settings.Stale | gives back after its tasks | names        | the finding |
//	| none         | -                        | -                          | -            | none        |
//	| some         | yes                      | -                          | -            | none        |
//	| some         | no                       | yes                        | -            | none: it takes fewer as its tasks end |
//	| some         | no                       | no                         | enough       | none        |
//	| some         | no                       | no                         | fewer        | split       |
//
// A pod that is named counts, lost or not: the controller can only know of fewer.
func (a *audit) checkGang(s step) {
	if s.batch == nil || len(s.given) == 0 || s.Initial {
		return
	}
	sb := s.batch.obj
	if sb.Spec.PoolRef == "" || sb.Spec.MinAvailable == nil || s.batch.editedAt.After(s.Time.Add(-a.settings.Stale)) {
		return
	}
	if p := sb.Spec.TaskResourcePolicyWhenCompleted; p != nil && *p == v1alpha1.TaskResourcePolicyRelease {
		return
	}
	has, together := len(setOf(s.batch.named)), min(int(*sb.Spec.MinAvailable), replicas(sb))
	if has >= together {
		return
	}
	a.find(Finding{
		Kind: GangSplit, Objects: []string{s.batch.title()}, Revisions: []int64{s.Revision},
		Sentence: fmt.Sprintf("%s is given %d pods and has %d, and takes %d together", s.batch.title(), len(s.given), has, together),
	})
}
