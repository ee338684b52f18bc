// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// checkBound finds a create that takes a pool above poolMax. All pods of the pool count that are there as objects, those that
// are being deleted or have ended too. poolMax is the greatest that was in force during the last Settings.Stale: one who decides
// can't know of an edit before it hears of it. For a Pool that is gone it is the last one it had.
func (a *audit) checkBound(s step) {
	pod, ok := s.after.(*corev1.Pod)
	if !ok || s.before != nil || s.Initial || pod.Labels[v1alpha1.PoolNameLabel] == "" {
		return
	}
	n := name{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.PoolNameLabel]}
	p := a.world.pool(n)
	most := 0
	for _, spec := range p.inForce(a.world.now.Add(-a.settings.Stale)) {
		most = max(most, int(spec.CapacitySpec.PoolMax))
	}
	if len(p.pods) <= most {
		return
	}
	a.find(Finding{
		Kind: AbovePoolMax, Objects: []string{titled("Pool", n), titled("Pod", nameOf(pod))}, Revisions: []int64{s.Revision},
		Sentence: fmt.Sprintf("%s is pod %d of %s, whose poolMax is %d", titled("Pod", nameOf(pod)), len(p.pods), titled("Pool", n), most),
	})
}
