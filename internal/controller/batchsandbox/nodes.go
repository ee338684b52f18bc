// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/internal/utils/podutil"
	"opensandbox.io/controller/internal/utils/slowstart"
)

// A sandbox whose node is lost may still run there: nobody can tell, and nothing is deleted by force, for that would only
// drop the object of a pod that runs on. So from its replacement until its node is back, or gone, two sandboxes may serve
// one index, and two tries of its task may overlap: the lost one and the next. A pod that comes back before it was replaced
// stands for its index again; its lost try is counted, and the next one runs there.

// giveUpStranded deletes the pods on lost nodes that these grants replace, before the write that names them no more: from
// then on nothing else says that somebody used them. The deletion lands at once, and the pod goes when its node is back.
func (r *Reconciler) giveUpStranded(ctx context.Context, obs *observed, m *memory, grants []scheduler.Grant) error {
	var stranded []sandbox
	for _, g := range grants {
		if s := obs.sandboxes[g.Index]; s.stranded {
			stranded = append(stranded, s)
		}
	}
	_, err := slowstart.Do(ctx, len(stranded), func(ctx context.Context, i int) error {
		if !r.leads() {
			return leading.ErrLost
		}
		s := stranded[i]
		if err := r.deletePod(ctx, obs.sb.Namespace, s.podName, s.podUID); err != nil {
			return err
		}
		r.ledger.Discard(poolKey(obs.sb), s.podName)
		return nil
	})
	if err != nil {
		m.inDoubt = true // what was assumed is given up once the truth is read
		return errors.Join(err, r.settleDoubt(ctx, obs.sb, m))
	}
	return nil
}

// lossOf says why a pod of a pool is no sandbox any more, "" if it may be one.
func lossOf(pod *scheduler.Pod) string {
	if pod.Loss == "" && pod.OnLostNode {
		return podutil.LossNodeLost
	}
	return pod.Loss
}

// lostNodes are the nodes of these pods that are lost.
func (r *Reconciler) lostNodes(pods []corev1.Pod) map[string]bool {
	lost := map[string]bool{}
	for i := range pods {
		if node := pods[i].Spec.NodeName; node != "" && r.ledger.NodeState(node) == scheduler.NodeLost {
			lost[node] = true
		}
	}
	return lost
}
