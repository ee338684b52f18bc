// SPDX-License-Identifier: Apache-2.0

// Package trigger lets code inside the process ask a controller to look at an object again.
package trigger

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Trigger is a source of reconcile requests. Requests made before its controller starts are kept.
type Trigger struct {
	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	waiting map[types.NamespacedName]struct{}
}

// New returns a trigger to be watched by one controller.
func New() *Trigger { return &Trigger{waiting: map[types.NamespacedName]struct{}{}} }

// Start hands the queue of the controller to the trigger; the controller calls it.
func (t *Trigger) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = queue
	for name := range t.waiting {
		queue.Add(reconcile.Request{NamespacedName: name})
	}
	t.waiting = nil
	return nil
}

// Wake asks for a reconcile of the named object.
func (t *Trigger) Wake(name types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queue == nil {
		t.waiting[name] = struct{}{}
		return
	}
	t.queue.Add(reconcile.Request{NamespacedName: name})
}
