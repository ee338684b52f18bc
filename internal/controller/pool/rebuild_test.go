// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// A cache whose first list was old shows a pool as it was then.
func TestANewLeaderKeepsToTheBoundsThatAPoolHasWhateverTheCacheShows(t *testing.T) {
	for name, old := range map[string]func(shown *v1alpha1.Pool){
		"an earlier version":               func(shown *v1alpha1.Pool) { shown.ResourceVersion = "1" },
		"an earlier pool of the same name": func(shown *v1alpha1.Pool) { shown.ResourceVersion, shown.UID = "1", "earlier" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(0, 2).Obj())
			w.onCached = func(obj client.Object) {
				if shown, ok := obj.(*v1alpha1.Pool); ok {
					shown.Spec.CapacitySpec.BufferMin, shown.Spec.CapacitySpec.BufferMax, shown.Spec.CapacitySpec.PoolMax = 10, 10, 40
					old(shown)
				}
			}
			if err := w.r.Rebuild(context.Background(), []string{namespace}); err != nil {
				t.Fatal(err)
			}
			w.reconcile()
			if w.creates != 2 {
				t.Errorf("%d pods are made, want 2", w.creates)
			}
			w.onCached = nil
			w.edit(func(p *v1alpha1.Pool) {
				p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax, p.Spec.CapacitySpec.PoolMax = 3, 3, 3
			})
			w.reconcile()
			if w.creates != 3 {
				t.Errorf("after an edit that the cache shows: %d pods are made, want 3", w.creates)
			}
		})
	}
}

func TestARebuildThatCantReadFailsAndMayBeRepeated(t *testing.T) {
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(0, 1).Obj())
	broken := errors.New("broken")
	w.onRead = func() error { return broken }
	if err := w.r.Rebuild(context.Background(), nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	w.onRead = nil
	if err := w.r.Rebuild(context.Background(), nil); err != nil {
		t.Error(err)
	}
}
