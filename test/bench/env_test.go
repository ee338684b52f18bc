// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/internal/cluster"
)

// envOf works with an API server that is simulated, and has no controller.
func envOf(t *testing.T, intercept interceptor.Funcs) *env {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.BatchSandbox{}).WithInterceptorFuncs(intercept).Build()
	return &env{cluster: &cluster.Cluster{Client: c}}
}

func sampleDelivery() delivery {
	return delivery{
		annotations: map[string]string{v1alpha1.AllocStatusAnnotation: `{"pods":["p"]}`, v1alpha1.EndpointsAnnotation: `["127.0.0.1"]`},
		finalizers:  []string{v1alpha1.PoolAllocationFinalizer},
		status:      v1alpha1.BatchSandboxStatus{Ready: 1},
	}
}

func TestBareClientsDeliver(t *testing.T) {
	e := envOf(t, interceptor.Funcs{})
	b, err := e.watchBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	r, err := e.fire(t.Context(), b, volley{kind: "x", pool: "p", n: 20, clients: 4, then: e.turnOverBare}, func(ctx context.Context, sb *v1alpha1.BatchSandbox) error {
		if err := e.deliverBare(ctx, sb, sampleDelivery()); err != nil {
			return err
		}
		now := &v1alpha1.BatchSandbox{}
		if err := e.cluster.Client.Get(ctx, client.ObjectKeyFromObject(sb), now); err != nil {
			return err
		}
		if diff := cmp.Diff(sampleDelivery(), deliveryOf(now), cmp.AllowUnexported(delivery{})); diff != "" {
			t.Errorf("delivery (-want +got):\n%s", diff)
		}
		return nil
	})
	if err != nil || len(r.times) != 20 || r.missing != 0 || r.clients <= 0 {
		t.Errorf("%d deliveries, %d missing, in %s (%v), want 20", len(r.times), r.missing, r.clients, err)
	}
	left := &v1alpha1.BatchSandboxList{}
	if err := e.cluster.Client.List(t.Context(), left); err != nil || len(left.Items) > 0 {
		t.Errorf("%d batches are left (%v), want none", len(left.Items), err)
	}
}

// Where anything else changed the batch, the floor's writes are refused as the controller's are.
func TestABareDeliveryIsRefusedIfTheBatchHasChanged(t *testing.T) {
	e := envOf(t, interceptor.Funcs{})
	sb := batchOf("b", "p", 1)
	if err := e.create(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	old := sb.DeepCopy()
	sb.Labels = map[string]string{"changed": "yes"}
	if err := e.cluster.Client.Update(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if err := e.writeDelivery(t.Context(), old, sampleDelivery()); !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestAWatchThatBreaksOffIsTakenUpAgain(t *testing.T) {
	opened := 0
	e := envOf(t, interceptor.Funcs{Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
		opened++
		if opened == 1 {
			broken := watch.NewFake()
			broken.Stop()
			return broken, nil
		}
		sb := batchOf("b", "p", 1)
		sb.Annotations = map[string]string{v1alpha1.EndpointsAnnotation: `["127.0.0.1"]`}
		w := watch.NewFakeWithChanSize(1, false)
		w.Add(sb) // what is there is shown once more
		return w, nil
	}})
	b, err := e.watchBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	if err := b.await(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

func TestAWatchThatCantBeTakenUpEndsTheWait(t *testing.T) {
	refused, opened := errors.New("refused"), 0
	e := envOf(t, interceptor.Funcs{Watch: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
		opened++
		if opened > 1 {
			return nil, refused
		}
		broken := watch.NewFake()
		broken.Stop()
		return broken, nil
	}})
	b, err := e.watchBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	if err := b.await(t.Context(), "b"); !errors.Is(err, refused) {
		t.Errorf("got %v, want what kept the watch from being taken up", err)
	}
	if err := b.check(); !errors.Is(err, refused) {
		t.Errorf("got %v, want the same", err)
	}
}
