// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"opensandbox.io/controller/api/v1alpha1"
)

// echoes knows what the watch will show of our own allocation writes: the reconcile that made one has done all that is to be
// done about it, and needs no other. A write is noted before it is sent, for its event may be faster than its answer. It is
// safe for concurrent use.
type echoes struct {
	mu     sync.Mutex
	byName map[types.NamespacedName]echo
}

// echo is a batch after a write, in all that changedByUsers looks at. The write's resourceVersion sees to it that nothing
// else is in it that the reconcile did not know.
type echo struct {
	uid         types.UID
	generation  int64
	annotations map[string]string
	finalizers  []string
}

// echoOf is what a merge patch of these annotations and finalizers makes of a batch that is not being deleted.
func echoOf(sb *v1alpha1.BatchSandbox, annotations map[string]any, finalizers []string) echo {
	after := make(map[string]string, len(sb.Annotations)+len(annotations))
	maps.Copy(after, sb.Annotations)
	for key, value := range annotations {
		if text, ok := value.(string); ok {
			after[key] = text
		} else {
			delete(after, key)
		}
	}
	return echo{uid: sb.UID, generation: sb.Generation, annotations: after, finalizers: withFinalizers(sb.Finalizers, finalizers)}
}

func (e echo) is(obj client.Object) bool {
	return obj.GetUID() == e.uid && obj.GetGeneration() == e.generation && obj.GetDeletionTimestamp() == nil &&
		maps.Equal(obj.GetAnnotations(), e.annotations) && slices.Equal(obj.GetFinalizers(), e.finalizers)
}

// predicate drops the echo of our last write. It is asked after changedByUsers, of changes alone that matter: any such
// change ends the wait for the echo, for who makes the batch later what we made it is somebody else.
func (e *echoes) predicate() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(u event.UpdateEvent) bool {
		expected, ok := e.take(client.ObjectKeyFromObject(u.ObjectNew))
		return !ok || !expected.is(u.ObjectNew)
	}}
}

// expect notes a write that is about to be sent.
func (e *echoes) expect(batch types.NamespacedName, after echo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byName[batch] = after
}

// take returns and forgets the write that was sent last.
func (e *echoes) take(batch types.NamespacedName) (echo, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, ok := e.byName[batch]
	delete(e.byName, batch)
	return found, ok
}
