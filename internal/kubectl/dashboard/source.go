// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// bell wakes everybody who waits.
type bell struct {
	mu   sync.Mutex
	next chan struct{}
}

func newBell() *bell { return &bell{next: make(chan struct{})} }

// rung is closed at the next ring.
func (b *bell) rung() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// query says which objects are wanted.
type query struct {
	resource  string // as kubectl takes it
	namespace string // empty for all
	object    client.Object
	list      client.ObjectList
	labels    string
	fields    string
}

// collection follows the objects of a query, with the rights of the user.
type collection[T client.Object] struct {
	query query
	store cache.Store

	controller cache.Controller
	ring       func()

	mu      sync.Mutex
	problem error
}

// newCollection returns what run then keeps up to date. ring is called after every change.
func newCollection[T client.Object](c client.WithWatch, q query, ring func()) *collection[T] {
	col := &collection[T]{query: q, ring: ring}
	col.store, col.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: plainLists{&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				list, ok := q.list.DeepCopyObject().(client.ObjectList)
				if !ok {
					return nil, fmt.Errorf("%T is no list", q.list)
				}
				return list, col.noted(ctx, c.List(ctx, list, q.options(o)))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				list, ok := q.list.DeepCopyObject().(client.ObjectList)
				if !ok {
					return nil, fmt.Errorf("%T is no list", q.list)
				}
				w, err := c.Watch(ctx, list, q.options(o))
				return w, col.noted(ctx, err)
			},
		}},
		ObjectType: q.object,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { ring() },
			UpdateFunc: func(any, any) { ring() },
			DeleteFunc: func(any) { ring() },
		},
		Transform: slim,
	})
	return col
}

// plainLists are lists, and watches that begin where they end. A watch that begins with all objects tells later than a list that it is denied.
type plainLists struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what a reflector asks.
func (plainLists) IsWatchListSemanticsUnSupported() bool { return true }

func (q query) options(o metav1.ListOptions) *client.ListOptions {
	o.LabelSelector, o.FieldSelector = q.labels, q.fields
	return &client.ListOptions{Namespace: q.namespace, Raw: &o}
}

// run follows the objects until ctx is done. What goes wrong is on the page, not in the terminal.
func (c *collection[T]) run(ctx context.Context) {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	waiting.Go(func() {
		select {
		case <-c.controller.HasSyncedChecker().Done():
			c.ring() // an empty list rings for no object
		case <-ctx.Done():
		}
	})
	c.controller.RunWithContext(klog.NewContext(ctx, logr.Discard()))
}

// noted keeps what went wrong last, and forgets it when something went right.
func (c *collection[T]) noted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	c.mu.Lock()
	changed := (c.problem == nil) != (err == nil)
	c.problem = err
	c.mu.Unlock()
	if changed {
		c.ring()
	}
	return err
}

// known says whether there is something to show: the objects, or why there are none.
func (c *collection[T]) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem != nil || c.controller.HasSynced()
}

// objects returns all objects. They must not be changed.
func (c *collection[T]) objects() []T {
	all := c.store.List()
	objects := make([]T, 0, len(all))
	for _, o := range all {
		if object, ok := o.(T); ok {
			objects = append(objects, object)
		}
	}
	return objects
}

// notices tells what can't be shown.
func (c *collection[T]) notices() []notice {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := trouble(c.query, c.problem)
	if c.problem == nil && !c.controller.HasSynced() {
		text = "Still reading " + c.query.resource + "."
	}
	if text == "" {
		return nil
	}
	return []notice{{ID: c.query.resource, Text: text}}
}

// trouble is what went wrong with a query, and what to do about it; empty for nothing.
func trouble(q query, err error) string {
	where, flag := "namespace "+q.namespace, " -n "+q.namespace
	if q.namespace == "" {
		where, flag = "all namespaces together", " -A"
	}
	switch {
	case err == nil, apierrors.IsResourceExpired(err):
		return "" // the list is read anew
	case apierrors.IsForbidden(err) && q.namespace == "":
		return fmt.Sprintf("You may not list and watch %s of %s. Start the dashboard for one namespace, with -n NAME.", q.resource, where)
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("You may not list and watch %s of %s, so they are left out here. See: kubectl auth can-i watch %s%s", q.resource, where, q.resource, flag)
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("The cluster doesn't know %s: the controller and its definitions are not installed.", q.resource)
	default:
		return fmt.Sprintf("The API server doesn't tell of %s, and what is shown may be old: %v", q.resource, err)
	}
}

// slim drops what no page shows, so that thousands of objects fit into memory.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *v1alpha1.Pool:
		o.ManagedFields, o.Spec.Template = nil, nil
	case *v1alpha1.BatchSandbox:
		o.ManagedFields, o.Spec.Template, o.Spec.ShardPatches, o.Spec.ShardTaskPatches = nil, nil, nil, nil
		delete(o.Annotations, corev1.LastAppliedConfigAnnotation)
	case *corev1.Pod:
		o.ManagedFields, o.Annotations, o.Spec = nil, nil, corev1.PodSpec{NodeName: o.Spec.NodeName}
	case *corev1.Event:
		o.ManagedFields = nil
	}
	return o, nil
}
