// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/internal/utils/podtemplate"
)

// ObserveRoot takes over the root of the controller's tokens that the executors of new pods of a pool are told to believe, ""
// for none. Executors that believe another obey nobody any more, and their pods are like those of an old revision.
func (l *Ledger) ObserveRoot(name types.NamespacedName, root string) {
	l.locked(func(_ *wakes) {
		p := l.pool(name)
		if p.root != root {
			p.root = root
			p.compare()
		}
	})
}

// Disobeys says that the pod's executor believes another root than this one of the controller.
func (p Pod) Disobeys(root string) bool { return podtemplate.Disobeys(p.Root, root) }

// isUpdated says whether a pod is what the pool would make now, as far as an update goes: a pod of no root is left alone.
func (p *pool) isUpdated(pod Pod) bool { return pod.Revision == p.revision && !pod.Disobeys(p.root) }

// countUpdated adds a pod to the counts of what is updated and what is not, or takes it out.
func (p *pool) countUpdated(e *entry, by int) {
	switch {
	case e.class == classNone || e.class == classTerminating || e.class == classStuck:
	case p.isUpdated(e.pod):
		p.updated += by
		if e.class == classStarting {
			p.startingUpdated += by
		}
	case e.pod.Revision == p.revision && (e.class == classIdle || e.class == classStarting):
		p.otherRoot += by
	}
}

// compare compares all pods with the revision and the root anew.
func (p *pool) compare() {
	p.updated, p.startingUpdated, p.otherRoot = 0, 0, 0
	for _, e := range p.pods {
		p.countUpdated(e, 1)
	}
	for _, e := range p.starting {
		p.noteStarting(e)
	}
	p.relist()
}
