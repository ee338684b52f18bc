// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"
	"slices"
	"time"

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

// stuckPods finds pods of a pool at rest that nobody holds and that should be gone: those that ended or are to be evicted, and those
// whose recycling takes too long.
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
		}
	}
	return found
}

func (a *audit) recyclesTooLong(m *mark) bool {
	since, err := time.Parse(time.RFC3339, m.Since)
	return err == nil && a.world.now.Sub(since) > a.settings.Recycling
}
