// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
)

// desiredPod renders the pod of one index: template, then shardPatches[index], then what the controller needs. The
// problem says what to change in the batch.
func desiredPod(sb *v1alpha1.BatchSandbox, index int, name string) (*corev1.Pod, *problem) {
	template, err := podtemplate.Decode(sb.Spec.Template)
	if err != nil {
		return nil, &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTemplate, err.Error()}
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: sb.Namespace,
			Labels: template.Labels, Annotations: template.Annotations, Finalizers: template.Finalizers,
		},
		Spec: template.Spec,
	}
	if index < len(sb.Spec.ShardPatches) {
		if pod, err = patchPod(pod, sb.Spec.ShardPatches[index].Raw); err != nil {
			return nil, &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidShardPatch, fmt.Sprintf("spec.shardPatches[%d] %v", index, err)}
		}
	}
	pod.ObjectMeta = desiredMeta(sb, index, &pod.ObjectMeta)
	podtemplate.AddTaskRecords(&pod.Spec)
	podtemplate.AddSidecarMode(&pod.Spec)
	return pod, nil
}

// desiredMeta keeps of a rendered pod's metadata what is the user's to choose. Labels that would make the pod one of a
// pool go, and so do members that only the API server sets.
func desiredMeta(sb *v1alpha1.BatchSandbox, index int, rendered *metav1.ObjectMeta) metav1.ObjectMeta {
	labels := map[string]string{}
	maps.Copy(labels, rendered.Labels)
	delete(labels, v1alpha1.PoolNameLabel)
	delete(labels, v1alpha1.PoolRevisionLabel)
	labels[v1alpha1.BatchNameLabel] = sb.Name
	labels[v1alpha1.PodIndexLabel] = strconv.Itoa(index)
	return metav1.ObjectMeta{
		Name: rendered.Name, Namespace: rendered.Namespace,
		Labels: labels, Annotations: rendered.Annotations, Finalizers: rendered.Finalizers,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sb, v1alpha1.GroupVersion.WithKind("BatchSandbox"))},
	}
}

// patchPod applies a strategic merge patch, and refuses one that changes whose pod it is or leaves no container. The
// error completes a sentence that begins with the patch.
func patchPod(pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	original, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("can't be applied: %w", err)
	}
	merged, err := mergePatch(original, patch, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("is no strategic merge patch of a pod: %w", err)
	}
	patched := &corev1.Pod{}
	if err := json.Unmarshal(merged, patched); err != nil {
		return nil, fmt.Errorf("makes something that is no pod: %w", err)
	}
	switch {
	case patched.Name != pod.Name || patched.Namespace != pod.Namespace:
		return nil, fmt.Errorf("changes the pod's name or namespace: leave metadata.name and metadata.namespace out")
	case len(patched.Spec.Containers) == 0:
		return nil, fmt.Errorf("leaves no container: leave at least one")
	case podutil.Container(&pod.Spec, v1alpha1.TaskExecutorContainer) != nil &&
		podutil.Container(&patched.Spec, v1alpha1.TaskExecutorContainer) == nil:
		return nil, fmt.Errorf("removes the container %s: leave it", v1alpha1.TaskExecutorContainer)
	case len(patched.OwnerReferences) > 0:
		return nil, fmt.Errorf("sets metadata.ownerReferences: leave them out")
	}
	return patched, nil
}

// podName is the name of the pod of an index. While a lost pod still exists as an object, its replacement is named
// after the lost pod's UID, so that making it twice is not possible.
func podName(sb *v1alpha1.BatchSandbox, index int, lost sandbox) string {
	name := sb.Name + "-" + strconv.Itoa(index)
	if lost.podName == "" || lost.gone {
		return name
	}
	return name + "-" + shortHash(lost.podUID)
}

// suffixLength is the length of the random part of a replacement's name.
const suffixLength = 5

func shortHash(uid types.UID) string {
	sum := sha256.Sum256([]byte(uid))
	return hex.EncodeToString(sum[:])[:suffixLength]
}

// compareOwnPods puts the pod that should stand for an index first.
func compareOwnPods(a, b *corev1.Pod) int {
	return cmp.Or(
		compareBools(isLost(a), isLost(b)),
		compareBools(!podutil.IsReady(a), !podutil.IsReady(b)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
