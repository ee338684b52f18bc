// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"encoding/json"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

// verdict is what the task of a released sandbox says about its pod.
type verdict int

const (
	// verdictNone: nothing.
	verdictNone verdict = iota

	// verdictSound: a task ran there to its end.
	verdictSound

	// verdictFailed: its task failed by infrastructure.
	verdictFailed
)

// verdictOf judges the pod of an index by its task. The end is the index's, and counts for the pod that has the index now, even
// if another one had it then.
//
//	| task                                                  | verdict |
//	| none, or not ended, or stopped before it ended        | none    |
//	| ended because the sandbox did, or for unknown reasons | none    |
//	| succeeded, failed by itself, ran too long             | sound   |
//	| could not be started, or lost its executor            | failed  |
func verdictOf(obs *observed, index int) verdict {
	end, ended := obs.ends[index]
	if seen := obs.tasks[index].end; seen != nil && (!ended || (!end.ok && end.why() == "")) {
		end, ended = endOf(index, obs.tasks[index]), true // not in the status yet, or without a reason there
	}
	switch {
	case !ended:
		return verdictNone
	case end.ok:
		return verdictSound
	}
	switch end.why() {
	case v1alpha1.TaskReasonNonZeroExit, v1alpha1.TaskReasonTimedOut:
		return verdictSound
	case v1alpha1.TaskReasonStartError, v1alpha1.TaskReasonExecutorLost:
		return verdictFailed
	default:
		return verdictNone
	}
}

// failures is the value of the annotation that counts failed tasks of a pod.
type failures struct {
	// Count is the number of holders in a row whose task failed by infrastructure.
	Count int `json:"count"`

	// Last is the last of them, as holderOf has it: a release that is tried again counts once.
	Last string `json:"last"`
}

// holderOf names an index of a batch.
func holderOf(obs *observed, index int) string { return string(obs.sb.UID) + "/" + strconv.Itoa(index) }

// after is the count after one more holder.
func (f failures) after(holder string, v verdict) failures {
	switch {
	case v == verdictFailed && f.Last != holder:
		return failures{Count: f.Count + 1, Last: holder}
	case v == verdictSound:
		return failures{}
	default:
		return f
	}
}

// quarantined says whether the pod is not to be used again.
func (f failures) quarantined() bool { return f.Count >= v1alpha1.MaxTaskFailures }

// failuresOf reads the count of a pod. What can't be read is none: somebody else wrote it.
func failuresOf(pod *corev1.Pod) failures {
	var f failures
	if err := json.Unmarshal([]byte(pod.Annotations[v1alpha1.TaskFailuresAnnotation]), &f); err != nil || f.Count < 0 {
		return failures{}
	}
	f.Count = min(f.Count, v1alpha1.MaxTaskFailures)
	return f
}

// note adds to the annotations of a patch what changes of a pod's count.
func (f failures) note(annotations map[string]any, pod *corev1.Pod) {
	_, has := pod.Annotations[v1alpha1.TaskFailuresAnnotation]
	switch {
	case f.Count > 0 && f != failuresOf(pod):
		annotations[v1alpha1.TaskFailuresAnnotation] = mustJSON(f)
	case f.Count == 0 && has:
		annotations[v1alpha1.TaskFailuresAnnotation] = nil
	}
}
