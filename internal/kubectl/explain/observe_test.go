// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

// reader has objects, and finds events by what they are about, as the API server does. What forbidden says yes to may not be read.
func reader(t *testing.T, forbidden func(o any) bool, objects ...client.Object) client.Reader {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	about := func(get func(*corev1.Event) string) client.IndexerFunc {
		return func(o client.Object) []string {
			e, _ := o.(*corev1.Event)
			return []string{get(e)}
		}
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&corev1.Event{}, "involvedObject.kind", about(func(e *corev1.Event) string { return e.InvolvedObject.Kind })).
		WithIndex(&corev1.Event{}, "involvedObject.name", about(func(e *corev1.Event) string { return e.InvolvedObject.Name })).Build()
	refusal := apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if forbidden(o) {
				return refusal
			}
			return c.Get(ctx, key, o, options...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if forbidden(list) {
				return refusal
			}
			return c.List(ctx, list, options...)
		},
	})
}

func nothing(any) bool { return false }

func key(name string) types.NamespacedName { return types.NamespacedName{Namespace: ns, Name: name} }

func TestObserveReadsWhatIsConnectedAndNothingElse(t *testing.T) {
	named := func(e corev1.Event, name string) *corev1.Event {
		e.Namespace, e.Name = ns, name
		return &e
	}
	stuck := pod("small-1", container("sandbox", waiting("ErrImagePull", "")))
	stuck.Labels = map[string]string{v1alpha1.PoolNameLabel: "small"}
	stranger := pod("other-1", container("sandbox", waiting("ErrImagePull", "")))
	web := waits("web").Created(now).Obj()
	c := reader(t, nothing, web, waits("also").Created(now).Obj(), batch("elsewhere").Pool("other").Obj(), pool(nil), &stuck, &stranger,
		named(event("Pod", "small-1", "Failed", "no such host"), "a"), named(event("Pod", "other-1", "Failed", "not ours"), "b"),
		named(event(KindBatch, "web", "Allocated", ""), "c"), named(event(KindPool, "web", "ScaledUp", "of another kind"), "d"),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}, lease(0))
	f, err := Observe(t.Context(), c, KindBatch, key("web"), now)
	if err != nil {
		t.Fatal(err)
	}
	var events, batches []string
	for _, e := range f.Events {
		events = append(events, e.Name)
	}
	for _, sb := range f.Batches {
		batches = append(batches, sb.Name)
	}
	slices.Sort(events)
	if !slices.Equal(events, []string{"a", "c"}) || !slices.Equal(batches, []string{"also", "web"}) || len(f.PoolPods) != 1 || len(f.Nodes) != 1 || f.Lease == nil || len(f.Hidden) > 0 {
		t.Errorf("events %q, batches %q, %d pods of the pool, %d nodes, lease %v, hidden %q", events, batches, len(f.PoolPods), len(f.Nodes), f.Lease, f.Hidden)
	}
}

func TestWhoMayReadTheBatchAloneIsToldWhatIsNotKnown(t *testing.T) {
	onlyBatches := func(o any) bool {
		_, one := o.(*v1alpha1.BatchSandbox)
		_, many := o.(*v1alpha1.BatchSandboxList)
		return !one && !many
	}
	web := waits("web").Created(now).AllocStatus(`{"pods":["small-1"]}`).Obj()
	web.Status.ObservedGeneration = web.Generation
	f, err := Observe(t.Context(), reader(t, onlyBatches, web), KindBatch, key("web"), now)
	if err != nil {
		t.Fatal(err)
	}
	e := Explain(f)
	if len(e.Causes) != 1 || e.Causes[0].Reason != v1alpha1.ReasonWaitingForPool || len(e.Notes) != 1 ||
		e.Notes[0] != "not looked at, for you may not read them: events, leases in opensandbox-system, pods, pools, resourcequotas" {
		t.Errorf("explained as %+v", e)
	}
	if _, err := Observe(t.Context(), reader(t, func(any) bool { return true }, web), KindBatch, key("web"), now); !apierrors.IsForbidden(err) {
		t.Errorf("who may not read the batch gets %v", err)
	}
	if _, err := Observe(t.Context(), reader(t, func(any) bool { return true }, web), KindPool, key("small"), now); !apierrors.IsForbidden(err) {
		t.Errorf("who may not read the pool gets %v", err)
	}
}

func TestPrintReadsAsText(t *testing.T) {
	f := batchFacts(waits("web"), pool(full))
	f.Hidden = []string{"nodes"}
	var out bytes.Buffer
	if err := Explain(f).print(&out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"web has 0 of 1 sandbox Ready", "",
		"1. PoolExhausted: Pool small is exhausted: it has 3 of at most 3 pods (poolMax), of which batches hold 3, and 1 sandbox is waited for; web is at position 1 of the queue and wants 1",
		"   What to do: raise poolMax, or wait until other batches give sandboxes back (delete those that nobody needs; a higher priority comes first in the queue)",
		"     kubectl sandbox -n default queue small", "     kubectl -n default edit pool/small",
		"   Seen in: status of Pool small: total 3, allocated 3, available 0, waiting 1",
		"   Seen in: condition ScalingLimited=True of the pool: PoolMaxReached: poolMax (3) permits no more pods", "",
		"Note: not looked at, for you may not read them: nodes", "",
	}
	if got := out.String(); got != strings.Join(want, "\n") {
		t.Errorf("printed\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestParse(t *testing.T) {
	for arg, want := range map[string][2]string{
		"web": {KindBatch, "web"}, "batch/web": {KindBatch, "web"}, "bsbx/web": {KindBatch, "web"}, "pool/p": {KindPool, "p"},
		"pools.sandbox.opensandbox.io/p": {KindPool, "p"}, "pod/p": {}, "pool/": {}, "a/b/c": {},
	} {
		kind, name, err := parse(nil, arg)
		if (err != nil) != (want[0] == "") || err == nil && (kind != want[0] || name != want[1]) {
			t.Errorf("parse %q: %s %s (%v), want %v", arg, kind, name, err, want)
		}
	}
}
