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

// noteRecycling keeps the set of pods that Recycling returns.
func (p *pool) noteRecycling(e *entry) {
	switch {
	case (e.class != classStarting && e.class != classCordoned) || !e.pod.Recycling:
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
