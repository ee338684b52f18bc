// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/internal/scheduler"
)

// unseenBound is how long a pod that was made counts as there while the cache doesn't show it. A cache that lags longer costs a
// call in vain for each pod, and the replacement of a pod that was gone before any cache had it may be late by as much.
const unseenBound = 5 * time.Second

// madePods are the pods that a batch without pool made and that the cache has not shown yet, by UID.
type madePods map[types.UID]madePod

type madePod struct {
	pod *corev1.Pod
	// at is when its making was noted.
	at time.Time
}

// unseen are those that count as there; the others are forgotten. News of pods come in the order of their versions, so a
// cache that shows something newer of the batch has passed the making of the pod:
//
//	| the cache shows it | it shows a newer version of any pod of the batch | noted within unseenBound | the pod                         |
//	| yes                | -                                                | -                        | is what the cache shows         |
//	| no                 | yes                                              | -                        | is gone: another may be made    |
//	| no                 | no                                               | no                       | may be gone: making it tells    |
//	| no                 | no                                               | yes                      | counts as there                 |
func (m madePods) unseen(cached []corev1.Pod, now time.Time) madePods {
	if len(m) == 0 {
		return nil
	}
	shown, newest := make(map[types.UID]bool, len(cached)), ""
	for i := range cached {
		shown[cached[i].UID] = true
		if newest == "" || scheduler.OlderVersion(newest, cached[i].ResourceVersion) {
			newest = cached[i].ResourceVersion
		}
	}
	left := madePods{}
	for uid, made := range m {
		if !shown[uid] && !scheduler.OlderVersion(made.pod.ResourceVersion, newest) && now.Sub(made.at) < unseenBound {
			left[uid] = made
		}
	}
	return left
}

// until is when the first of them counts as there no more; zero for none.
func (m madePods) until() time.Time {
	var first time.Time
	for _, made := range m {
		if end := made.at.Add(unseenBound); first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}
