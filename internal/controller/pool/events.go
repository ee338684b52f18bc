// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/recycling"
)

// maxNote is the greatest length of an event's note in bytes; the API server refuses longer ones.
const maxNote = 1024

// message is an event about a pool.
type message struct {
	kind   string // Normal or Warning
	reason string
	action string
	note   string
}

func scaledUp(n int, why string) message {
	return message{corev1.EventTypeNormal, "ScaledUp", "ScaleUp", fmt.Sprintf("Created %s (%s)", count(n, "pod"), why)}
}

func scaledDown(n int, why string) message {
	return message{corev1.EventTypeNormal, "ScaledDown", "ScaleDown", fmt.Sprintf("Deleted %s (%s)", count(n, "pod"), why)}
}

func updating(n int, why string) message {
	return message{corev1.EventTypeNormal, "Updating", "Update", fmt.Sprintf("Deleted %s (%s)", count(n, "pod"), why)}
}

func repairing(pod, why string) message {
	return message{corev1.EventTypeNormal, "Replacing", "Replace", fmt.Sprintf("Deleted pod %s, which can't start (%s), to make another", pod, why)}
}

// notRecycled is a warning only where somebody asked for the restart.
func notRecycled(pool *v1alpha1.Pool, pod, why string) message {
	kind := corev1.EventTypeNormal
	if recycling.TypeOf(pool) == v1alpha1.RecycleRestart {
		kind = corev1.EventTypeWarning
	}
	return message{kind, "PodNotRecycled", "Recycle", fmt.Sprintf("Deleted pod %s: %s", pod, why)}
}

// turnedBad are the events about conditions that turned bad, or are bad for another reason than before: at most
// one for each cause.
func turnedBad(before, after []metav1.Condition) []message {
	var messages []message
	ready := meta.FindStatusCondition(after, v1alpha1.ConditionReady)
	if ready != nil && isMistake(ready.Reason) && changed(before, ready) {
		messages = append(messages, message{corev1.EventTypeWarning, ready.Reason, "Validate", ready.Message})
	}
	failing := meta.FindStatusCondition(after, v1alpha1.ConditionPodsFailing)
	told := ready != nil && failing != nil && ready.Reason == failing.Reason
	if failing != nil && failing.Status == metav1.ConditionTrue && changed(before, failing) && !told {
		note := failing.Reason + ": " + failing.Message
		messages = append(messages, message{corev1.EventTypeWarning, v1alpha1.ConditionPodsFailing, "StartPods", note})
	}
	return messages
}

func changed(before []metav1.Condition, now *metav1.Condition) bool {
	was := meta.FindStatusCondition(before, now.Type)
	return was == nil || was.Status != now.Status || was.Reason != now.Reason
}

// isMistake says whether a reason of the Ready condition asks somebody to change something.
func isMistake(reason string) bool {
	switch reason {
	case v1alpha1.ReasonInvalidTemplate, v1alpha1.ReasonPodsForbidden, v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonNameTooLong:
		return true
	default:
		return false
	}
}

// send records an event. The recorder counts those of one reason in one event until the status of the pool is written anew.
func (r *Reconciler) send(pool *v1alpha1.Pool, m message) {
	r.recorder.Eventf(pool, nil, m.kind, m.reason, m.action, "%s", shorten(m.note, maxNote))
}

// shorten cuts a text to at most n bytes, at the start of a character.
func shorten(s string, n int) string {
	const mark = "..."
	if len(s) <= n {
		return s
	}
	end := n - len(mark)
	for end > 0 && s[end]&0xC0 == 0x80 {
		end--
	}
	return s[:end] + mark
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
