// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

func (a *audit) stuck(kind string, obj client.Object, sentence string) Finding {
	return Finding{
		Kind: Stuck, Objects: []string{titled(kind, nameOf(obj))}, Revisions: []int64{a.world.revisions[obj.GetUID()]},
		Sentence: titled(kind, nameOf(obj)) + " " + sentence,
	}
}

// stuckDeletions finds objects at rest that are being deleted and that our finalizers keep. A Pool may stay as long as a batch holds
// one of its pods.
func (a *audit) stuckDeletions() []Finding {
	var found []Finding
	ours := func(f string) bool {
		return f == v1alpha1.PoolAllocationFinalizer || f == v1alpha1.TaskCleanupFinalizer
	}
	for _, n := range sortedNames(a.world.batches) {
		sb := a.world.batches[n].obj
		if sb.DeletionTimestamp != nil && slices.ContainsFunc(sb.Finalizers, ours) {
			found = append(found, a.stuck("BatchSandbox", sb, "is deleted, and our finalizers keep it"))
		}
	}
	for _, n := range sortedNames(a.world.pools) {
		p := a.world.pools[n]
		if p.obj != nil && p.obj.DeletionTimestamp != nil && slices.ContainsFunc(p.obj.Finalizers, ours) && a.countsOf(p).held == 0 {
			found = append(found, a.stuck("Pool", p.obj, "is deleted, nobody holds its pods, and our finalizer keeps it"))
		}
	}
	return found
}

// stuckBatches finds batches at rest whose time is over, and those that keep what they don't ask for any more:
//
//	| being deleted | expireTime, or the time to live, is over | names a pod at an index that is not wanted | the finding   |
//	| yes           | -                                        | -                                          | none here     |
//	| no            | yes                                      | -                                          | not deleted   |
//	| no            | no                                       | yes                                        | not given back |
func (a *audit) stuckBatches() []Finding {
	var found []Finding
	for _, n := range sortedNames(a.world.batches) {
		b := a.world.batches[n]
		switch {
		case b.obj.DeletionTimestamp != nil:
		case a.isOver(b.obj):
			found = append(found, a.stuck("BatchSandbox", b.obj, "is not deleted, though its time is over"))
		case isMistaken(b.obj.Status.Conditions):
		default:
			if pod := b.unwanted(); pod != "" {
				found = append(found, a.stuck("BatchSandbox", b.obj, "keeps Pod "+pod+", which it doesn't ask for any more"))
			}
		}
	}
	return found
}

// isOver says whether the time of a batch is over that its spec gives it.
func (a *audit) isOver(sb *v1alpha1.BatchSandbox) bool {
	if end := sb.Spec.ExpireTime; end != nil && a.world.now.After(end.Time) {
		return true
	}
	done, ttl := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionTasksCompleted), sb.Spec.TTLSecondsAfterFinished
	return ttl != nil && done != nil && done.Status == metav1.ConditionTrue &&
		a.world.now.After(done.LastTransitionTime.Add(time.Duration(*ttl)*time.Second))
}

// unwanted is a pod that the batch names at an index that it gave back or never asks for; "" for none.
func (b *batch) unwanted() string {
	released := givenBack(b.obj)
	for i, pod := range b.named {
		if pod != "" && (i >= replicas(b.obj) || slices.Contains(released, i)) {
			return pod
		}
	}
	return ""
}

// demand is what a batch waits for.
type demand struct {
	batch           *batch
	missing, usable int
}

// wants is how many pods the batch takes together at the least.
func (d demand) wants() int {
	gang := 1
	if m := d.batch.obj.Spec.MinAvailable; m != nil {
		gang = min(int(*m), replicas(d.batch.obj))
	}
	return max(1, gang-d.usable)
}

// queueOf are the demands on a pool that can be met some day, in the order in which they are to be served. What is above poolMax
// is set aside, and so is a gang that doesn't fit under it, and who waited for longer than allowed, or made a mistake.
func (a *audit) queueOf(n name, p *pool) []demand {
	poolMax := int(p.obj.Spec.CapacitySpec.PoolMax)
	var queue []demand
	for _, key := range sortedNames(a.world.batches) {
		b := a.world.batches[key]
		if b.obj.Spec.PoolRef != n.Name || b.obj.Namespace != n.Namespace || b.obj.DeletionTimestamp != nil || isMistaken(b.obj.Status.Conditions) {
			continue
		}
		d := demand{batch: b, usable: a.world.usable(b)}
		d.missing = min(a.world.missing(b), poolMax-d.usable)
		timeout := b.obj.Spec.AllocationTimeoutSeconds
		late := timeout != nil && a.world.now.Sub(b.obj.CreationTimestamp.Time) >= time.Duration(*timeout)*time.Second
		if d.missing > 0 && d.usable+d.wants() <= poolMax && !late {
			queue = append(queue, d)
		}
	}
	slices.SortFunc(queue, func(x, y demand) int {
		if precedes(x.batch.obj, y.batch.obj) {
			return -1
		}
		return 1
	})
	return queue
}

// isMistaken says whether an object tells that its user has to repair something before anything is done for it.
func isMistaken(conditions []metav1.Condition) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		switch c.Reason {
		case v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonInvalidTemplate, v1alpha1.ReasonInvalidAnnotation, v1alpha1.ReasonInvalidTask,
			v1alpha1.ReasonNameTooLong, v1alpha1.ReasonTooManyReplicas, v1alpha1.ReasonPodsForbidden:
			return true
		default:
			return false
		}
	})
}

// stuckPools finds pools at rest that don't serve who waits, or that don't have the size they should.
func (a *audit) stuckPools() []Finding {
	var found []Finding
	for _, n := range sortedNames(a.world.pools) {
		p := a.world.pools[n]
		if p.obj == nil || p.obj.DeletionTimestamp != nil || isMistaken(p.obj.Status.Conditions) {
			continue
		}
		found = append(found, a.stuckPods(p)...)
		c, queue := a.countsOf(p), a.queueOf(n, p)
		for _, d := range queue {
			c.waiting += d.missing
		}
		if len(queue) > 0 && c.unheld[idlePod] >= queue[0].wants() {
			found = append(found, a.stuck("BatchSandbox", queue[0].batch.obj, fmt.Sprintf("waits for %d pods at the head of the queue, and %d pods of %s are idle",
				queue[0].missing, c.unheld[idlePod], titled("Pool", n))))
			continue
		}
		if why := sizeProblem(p.obj, c); why != "" {
			found = append(found, a.stuck("Pool", p.obj, why))
		}
	}
	return found
}

// sizeProblem says what is wrong with the size of a pool at rest, "" for nothing. The first row that matches:
//
//	| total     | unheld and not going | buffer      | room under poolMax | pods fail | result                 |
//	| > poolMax | some                 | -           | -                  | -         | too many               |
//	| > poolMin | idle or starting     | > bufferMax | -                  | -         | too many               |
//	| -         | -                    | -           | -                  | yes       | fine: it waits         |
//	| -         | -                    | -           | none               | -         | fine: it can't grow    |
//	| < poolMin | -                    | -           | some               | no        | too few                |
//	| -         | -                    | < bufferMin | some               | no        | too few                |
//
// where buffer = idle + starting - waiting, and the room is what those that are being deleted leave of poolMax.
func sizeProblem(obj *v1alpha1.Pool, c counts) string {
	bounds := obj.Spec.CapacitySpec
	total, free := c.total(), c.unheld[idlePod]+c.unheld[startingPod]
	buffer := free - c.waiting
	switch {
	case total > int(bounds.PoolMax) && total > c.held:
		return fmt.Sprintf("has %d pods, %d of them held, and a poolMax of %d", total, c.held, bounds.PoolMax)
	case min(buffer-int(bounds.BufferMax), total-int(bounds.PoolMin), free) > 0:
		return fmt.Sprintf("has a buffer of %d pods, above its bufferMax of %d, and %d in all", buffer, bounds.BufferMax, total)
	case meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionPodsFailing):
		return ""
	case total+c.unheld[goingPod] >= int(bounds.PoolMax):
		return ""
	case total < int(bounds.PoolMin):
		return fmt.Sprintf("has %d pods, below its poolMin of %d", total, bounds.PoolMin)
	case buffer < int(bounds.BufferMin):
		return fmt.Sprintf("has a buffer of %d pods, below its bufferMin of %d, and room for more", buffer, bounds.BufferMin)
	default:
		return ""
	}
}

// stuckPods finds pods of a pool at rest that nobody holds and that should be gone: those that ended or are to be evicted, those
// whose recycling takes too long, and those whose images are not the template's, unless the pool's pods fail.
func (a *audit) stuckPods(p *pool) []Finding {
	var found []Finding
	for _, n := range sortedNames(p.pods) {
		pod := a.world.pods[n]
		class := a.world.classOf(pod)
		if len(a.world.holders[n]) > 0 || class == goingPod {
			continue
		}
		_, evict := pod.Labels[v1alpha1.EvictLabel]
		switch m := markOf(pod); {
		case hasEnded(pod) || evict:
			found = append(found, a.stuck("Pod", pod, "has ended or is to be evicted, nobody holds it, and it is not deleted"))
		case m != nil && a.recyclesTooLong(m):
			found = append(found, a.stuck("Pod", pod, "has been recycled since "+m.Since+", and is neither clean nor deleted"))
		case !meta.IsStatusConditionTrue(p.obj.Status.Conditions, v1alpha1.ConditionPodsFailing) && isOutdated(p.obj, pod):
			found = append(found, a.stuck("Pod", pod, "has another image than its pool's template, nobody holds it, and it is not replaced"))
		}
	}
	return found
}

// isOutdated says whether a container of the pool's template has another image than in the pod.
func isOutdated(p *v1alpha1.Pool, pod *corev1.Pod) bool {
	var template corev1.PodTemplateSpec
	if p.Spec.Template == nil || json.Unmarshal(p.Spec.Template.Raw, &template) != nil {
		return false
	}
	return slices.ContainsFunc(template.Spec.Containers, func(wanted corev1.Container) bool {
		return slices.ContainsFunc(pod.Spec.Containers, func(is corev1.Container) bool {
			return is.Name == wanted.Name && is.Image != wanted.Image
		})
	})
}

func (a *audit) recyclesTooLong(m *mark) bool {
	since, err := time.Parse(time.RFC3339, m.Since)
	return err == nil && a.world.now.Sub(since) > a.settings.Recycling
}
