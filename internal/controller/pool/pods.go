// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/recycling"
)

const (
	// suffixLength is the number of random characters at the end of a pod's name.
	suffixLength = 5

	// maxPodName is the greatest length of a pod's name that also serves as its host name.
	maxPodName = 63
)

// podName is the pool's name, shortened if the pod's would be no host name any more, and a random end.
func podName(pool, suffix string) string {
	if most := maxPodName - suffixLength - 1; len(pool) > most {
		pool = strings.TrimRight(pool[:most], "-.")
	}
	return pool + "-" + suffix
}

// ownLabels and ownAnnotations are written by the controllers alone, or would make a pod useless from its first
// moment: a template can't set them.
func ownLabels() []string {
	return []string{
		v1alpha1.PoolNameLabel, v1alpha1.PoolRevisionLabel,
		v1alpha1.BatchNameLabel, v1alpha1.PodIndexLabel, v1alpha1.EvictLabel,
	}
}

func ownAnnotations() []string {
	return []string{
		v1alpha1.RecyclingAnnotation, v1alpha1.AllocStatusAnnotation, v1alpha1.EndpointsAnnotation,
		v1alpha1.LeaderEpochAnnotation, v1alpha1.TaskFailuresAnnotation,
	}
}

// desiredPod is a warm pod of the pool. Labels, annotations and finalizers are the template's, but for those that
// belong to the controllers.
func desiredPod(pool *v1alpha1.Pool, template *corev1.PodTemplateSpec, revision, name string) *corev1.Pod {
	labels := without(template.Labels, ownLabels())
	labels[v1alpha1.PoolNameLabel] = pool.Name
	labels[v1alpha1.PoolRevisionLabel] = revision
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   pool.Namespace,
			Name:        name,
			Labels:      labels,
			Annotations: without(template.Annotations, ownAnnotations()),
			Finalizers:  slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(pool, v1alpha1.GroupVersion.WithKind("Pool")),
			},
		},
		Spec: *template.Spec.DeepCopy(),
	}
	podtemplate.AddTaskRecords(&pod.Spec)
	podtemplate.AddSidecarMode(&pod.Spec)
	if recycling.Restarts(recycling.TypeOf(pool)) {
		recycling.AddRestartRules(&pod.Spec)
	}
	return pod
}

// rootFor is the root that the executors of pods of this template believe, where root is the controller's: "" if they have none.
func rootFor(template *corev1.PodTemplateSpec, root string) string {
	spec := template.Spec.DeepCopy()
	podtemplate.AddRoot(spec, root)
	return podtemplate.RootOf(spec)
}

// without copies a map and leaves these keys out; the copy is never nil.
func without(m map[string]string, keys []string) map[string]string {
	kept := make(map[string]string, len(m)+2)
	maps.Copy(kept, m)
	for _, key := range keys {
		delete(kept, key)
	}
	return kept
}
