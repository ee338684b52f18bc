// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"encoding/json"
	"fmt"

	"opensandbox.io/controller/api/v1alpha1"
)

// givenBackPods are the pods that an older controller of this API has noted as given back, in either of its two lists.
// Lists that can't be read are an error; no lists, the usual case, are no pods.
func givenBackPods(sb *v1alpha1.BatchSandbox) (map[string]bool, error) {
	var given map[string]bool
	for _, key := range []string{v1alpha1.AllocReleaseAnnotation, v1alpha1.AllocReleasedAnnotation} {
		value, ok := sb.Annotations[key]
		if !ok {
			continue
		}
		var list allocStatus
		if err := json.Unmarshal([]byte(value), &list); err != nil {
			return nil, fmt.Errorf("annotation %s is not {\"pods\":[...]}: %w; remove or repair it", key, err)
		}
		if given == nil {
			given = map[string]bool{}
		}
		for _, pod := range list.Pods {
			given[pod] = true
		}
	}
	return given, nil
}

// observeGivenBack takes out of service what an older controller gave back and did not get to the end with:
//
//	| in alloc-status | in alloc-release or -released | the sandbox is                              |
//	| yes             | no                            | served                                      |
//	| yes             | yes                           | not served; its pod is deleted and let go   |
//	| no              | yes                           | the pool's business: nothing is done        |
func observeGivenBack(obs *observed) {
	given, err := givenBackPods(obs.sb)
	if err != nil && obs.problem == nil {
		obs.problem = &problem{v1alpha1.ConditionAllocated, v1alpha1.ReasonInvalidAnnotation, err.Error()}
	}
	for i := range obs.sandboxes {
		if s := &obs.sandboxes[i]; s.podName != "" && given[s.podName] {
			s.givenBack, s.lost = true, true
		}
	}
}

// inheritEnds takes over the ends of tasks that an older controller saw. It counted them in the status without their
// indexes, so the indexes are told from what it did:
//
//	| lists of indexes in the status | successes and failures counted | indexes taken for ended                     |
//	| there                          | -                              | none: this controller wrote the status      |
//	| none                           | as many as replicas            | all                                         |
//	| none                           | fewer                          | those given back under the policy Release   |
//
// As many of them as it counted failures, the highest, count as failed, and the others as completed. The ends count as
// recorded at once, for recordInherited writes them before anything else is done.
func inheritEnds(obs *observed) {
	status := &obs.sb.Status
	if !obs.hasTasks() || status.CompletedIndexes != "" || status.FailedIndexes != "" {
		return
	}
	replicas := obs.replicas()
	all := replicas > 0 && int(status.TaskSucceed)+int(status.TaskFailed) >= replicas
	failures := int(status.TaskFailed)
	for i := replicas - 1; i >= 0; i-- {
		released := obs.releases() && i < len(obs.sandboxes) && obs.sandboxes[i].givenBack
		if _, known := obs.ends[i]; known || (!all && !released) {
			continue
		}
		obs.ends[i] = taskEnd{ok: failures <= 0, recorded: true}
		failures--
		obs.inherits = true
	}
}

// recordInherited writes inherited ends into the status, before a sandbox is given up whose task would else run again.
func (r *Reconciler) recordInherited(ctx context.Context, obs *observed, m *memory) error {
	if !obs.inherits {
		return nil
	}
	status := obs.sb.Status.DeepCopy()
	taskStatus(obs, status)
	return r.patchStatus(ctx, obs, status, m)
}

// leftoverAnnotations are those of an older controller that an allocation makes untrue: none while the batch still holds
// a pod that they name, or while one of them can't be read.
func leftoverAnnotations(obs *observed) []string {
	if obs.problem != nil {
		return nil
	}
	for _, s := range obs.sandboxes {
		if s.givenBack {
			return nil
		}
	}
	var keys []string
	for _, key := range []string{v1alpha1.AllocReleaseAnnotation, v1alpha1.AllocReleasedAnnotation} {
		if _, ok := obs.sb.Annotations[key]; ok {
			keys = append(keys, key)
		}
	}
	return keys
}
