// SPDX-License-Identifier: Apache-2.0

package trigger

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func newQueue(t *testing.T) workqueue.TypedRateLimitingInterface[reconcile.Request] {
	t.Helper()
	q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(q.ShutDown)
	return q
}

func names(q workqueue.TypedRateLimitingInterface[reconcile.Request]) []string {
	var all []string
	for q.Len() > 0 {
		req, _ := q.Get()
		q.Done(req)
		all = append(all, req.String())
	}
	slices.SortFunc(all, strings.Compare)
	return all
}

func name(s string) types.NamespacedName { return types.NamespacedName{Namespace: "ns", Name: s} }

func TestWakeBeforeStartIsKept(t *testing.T) {
	trigger, q := New(), newQueue(t)
	trigger.Wake(name("a"))
	trigger.Wake(name("b"))
	trigger.Wake(name("a"))
	if err := trigger.Start(context.Background(), q); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ns/a", "ns/b"}, names(q)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestWakeAfterStartGoesToTheQueue(t *testing.T) {
	trigger, q := New(), newQueue(t)
	if err := trigger.Start(context.Background(), q); err != nil {
		t.Fatal(err)
	}
	if got := names(q); len(got) != 0 {
		t.Errorf("requests %v before anything was woken", got)
	}
	trigger.Wake(name("a"))
	trigger.Wake(name("a"))
	if diff := cmp.Diff([]string{"ns/a"}, names(q)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestNoWakeIsLostAroundStart(t *testing.T) {
	trigger, q := New(), newQueue(t)
	var wg sync.WaitGroup
	var want []string
	for _, s := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		want = append(want, "ns/"+s)
		wg.Go(func() { trigger.Wake(name(s)) })
	}
	wg.Go(func() {
		if err := trigger.Start(context.Background(), q); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if diff := cmp.Diff(want, names(q)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}
