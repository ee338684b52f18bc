// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Recycling returns the pods of a pool that nobody holds and that carry the mark of being recycled, by name.
func (l *Ledger) Recycling(name types.NamespacedName) []Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return nil
	}
	pods := make([]Pod, 0, len(p.recycling))
	for _, e := range p.recycling {
		pods = append(pods, e.pod)
	}
	slices.SortFunc(pods, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods
}

// Released counts what became of released pods.
type Released struct {
	// Recycled pods came back: handed on as they were, or restarted in place.
	Recycled int64
	// Replaced pods were deleted.
	Replaced int64
}

// TakeReleased returns what became of released pods since it was last called. The ledger sees the pods that come back as they
// are, and those that are deleted; of those that are marked their pool knows.
func (l *Ledger) TakeReleased(name types.NamespacedName) Released {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return Released{}
	}
	taken := p.released
	p.released = Released{}
	l.forgetEmpty(p)
	return taken
}

// giveBack takes the released pod of an index away from the batch, and counts it if it came back as it is.
func (b *batch) giveBack(index int) {
	name := b.pods[index]
	b.unhold(index, false)
	e, known := b.pool.pods[name]
	if known && !e.pod.Recycling && (e.class == classIdle || e.class == classStarting) {
		b.pool.released.Recycled++
	}
}

// Replace is Discard for a released pod, which it counts once.
func (l *Ledger) Replace(name types.NamespacedName, pod string) {
	l.locked(func(_ *wakes) {
		p, ok := l.pools[name]
		if !ok {
			return
		}
		e, known := p.pods[pod]
		if !known || !e.retired {
			p.released.Replaced++
		}
		if known {
			e.retired = true
			p.classify(e)
		}
	})
}

// noteRecycling keeps the set of pods that Recycling returns.
func (p *pool) noteRecycling(e *entry) {
	switch {
	case e.class != classStarting || !e.pod.Recycling:
		delete(p.recycling, e.pod.Name)
	case p.recycling == nil:
		p.recycling = map[string]*entry{e.pod.Name: e}
	default:
		p.recycling[e.pod.Name] = e
	}
}

// worthALook says whether the pool has to look at news of a pod: its class changed, or it is one that is being recycled.
func worthALook(changed bool, before, now Pod) bool {
	return changed || (now.Recycling && before.ResourceVersion != now.ResourceVersion)
}
