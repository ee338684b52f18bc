// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// world is what is shown: batches and pools, as last heard of.
type world struct {
	batches map[types.NamespacedName]*v1alpha1.BatchSandbox
	pools   map[types.NamespacedName]*v1alpha1.Pool
}

func newWorld() *world {
	return &world{batches: map[types.NamespacedName]*v1alpha1.BatchSandbox{}, pools: map[types.NamespacedName]*v1alpha1.Pool{}}
}

// news are changes of one kind of object. all: they are all there are, and what is not among them is gone.
type news struct {
	batch   bool
	all     bool
	objects []client.Object
	gone    client.Object
}

// take takes news over, and returns the objects that are new or changed.
func (w *world) take(n news) []client.Object {
	if n.all && n.batch {
		w.batches = keep(w.batches, n.objects)
	}
	if n.all && !n.batch {
		w.pools = keep(w.pools, n.objects)
	}
	if n.gone != nil {
		delete(w.batches, keyIf(n.batch, n.gone))
		delete(w.pools, keyIf(!n.batch, n.gone))
		return []client.Object{n.gone}
	}
	var changed []client.Object
	for _, object := range n.objects {
		if w.put(object) {
			changed = append(changed, object)
		}
	}
	return changed
}

// put takes an object over and says whether it is new or changed.
func (w *world) put(object client.Object) (changed bool) {
	key := client.ObjectKeyFromObject(object)
	switch o := object.(type) {
	case *v1alpha1.BatchSandbox:
		old := w.batches[key]
		w.batches[key] = o
		return old == nil || old.ResourceVersion != o.ResourceVersion
	case *v1alpha1.Pool:
		old := w.pools[key]
		w.pools[key] = o
		return old == nil || old.ResourceVersion != o.ResourceVersion
	default:
		return false
	}
}

// keep drops what is not among the objects.
func keep[T any](m map[types.NamespacedName]T, objects []client.Object) map[types.NamespacedName]T {
	kept := make(map[types.NamespacedName]T, len(objects))
	for _, o := range objects {
		if old, ok := m[client.ObjectKeyFromObject(o)]; ok {
			kept[client.ObjectKeyFromObject(o)] = old
		}
	}
	return kept
}

// keyIf is the key of an object, or one that nothing has.
func keyIf(yes bool, o client.Object) types.NamespacedName {
	if !yes {
		return types.NamespacedName{}
	}
	return client.ObjectKeyFromObject(o)
}

func (w *world) sortedBatches() []*v1alpha1.BatchSandbox {
	return slices.SortedFunc(maps.Values(w.batches), func(a, b *v1alpha1.BatchSandbox) int { return compareNames(a, b) })
}

func (w *world) sortedPools() []*v1alpha1.Pool {
	return slices.SortedFunc(maps.Values(w.pools), func(a, b *v1alpha1.Pool) int { return compareNames(a, b) })
}

func compareNames(a, b client.Object) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// --- reading ----------------------------------------------------------------------------------------------

// scope says what to read.
type scope struct {
	namespace      string // "" for all
	batches, pools bool
	wanted         map[string]bool // names, with "batch/" or "pool/"; empty means all
}

func (s scope) wants(o client.Object) bool {
	if len(s.wanted) == 0 {
		return true
	}
	kind := "pool/"
	if _, batch := o.(*v1alpha1.BatchSandbox); batch {
		kind = "batch/"
	}
	return s.wanted[kind+o.GetName()] || s.wanted[o.GetName()]
}

// lister reads one kind of object, and follows it.
type lister struct {
	client  client.WithWatch
	scope   scope
	batches bool
}

func (s scope) listers(c client.WithWatch) []lister {
	var all []lister
	if s.batches {
		all = append(all, lister{c, s, true})
	}
	if s.pools {
		all = append(all, lister{c, s, false})
	}
	return all
}

func (l lister) empty() client.ObjectList {
	if l.batches {
		return &v1alpha1.BatchSandboxList{}
	}
	return &v1alpha1.PoolList{}
}

// list reads all objects that are wanted, and the version from which to follow them.
func (l lister) list(ctx context.Context) (news, string, error) {
	list := l.empty()
	if err := l.client.List(ctx, list, client.InNamespace(l.scope.namespace)); err != nil {
		return news{}, "", err
	}
	n := news{batch: l.batches, all: true}
	items, err := meta.ExtractList(list)
	if err != nil {
		return news{}, "", err
	}
	for _, item := range items {
		if object, ok := item.(client.Object); ok && l.scope.wants(object) {
			n.objects = append(n.objects, object)
		}
	}
	return n, list.GetResourceVersion(), nil
}

// followPause is the time before the next try after a watch broke.
const followPause = time.Second

// follow sends all changes after version, until ctx is done. A watch that ends, as the API server ends each after some
// minutes, is begun anew with a list. Only what the user may not do, or no longer, ends it with an error.
func (l lister) follow(ctx context.Context, clk clock.Clock, version string, to chan<- news) error {
	for {
		err := l.watch(ctx, version, to)
		if ctx.Err() != nil {
			return nil
		}
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return err
		}
		select {
		case <-clk.After(followPause):
		case <-ctx.Done():
			return nil
		}
		n, at, err := l.list(ctx)
		if err != nil {
			version = "" // try again: an API server that restarts is back in a moment
			continue
		}
		version = at
		if !send(ctx, to, n) {
			return nil
		}
	}
}

func send(ctx context.Context, to chan<- news, n news) bool {
	select {
	case to <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch sends changes until the watch ends.
func (l lister) watch(ctx context.Context, version string, to chan<- news) error {
	if version == "" {
		return errors.New("no version to follow from")
	}
	w, err := l.client.Watch(ctx, l.empty(), client.InNamespace(l.scope.namespace),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: version}})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		object, ok := event.Object.(client.Object)
		if event.Type == watch.Error {
			return fmt.Errorf("watch: %w", apierrors.FromObject(event.Object))
		}
		if !ok || event.Type == watch.Bookmark || !l.scope.wants(object) {
			continue
		}
		n := news{batch: l.batches, objects: []client.Object{object}}
		if event.Type == watch.Deleted {
			n = news{batch: l.batches, gone: object}
		}
		if !send(ctx, to, n) {
			return nil
		}
	}
	return nil
}
