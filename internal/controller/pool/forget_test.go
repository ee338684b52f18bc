// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

func TestAPodThatNeverLandedIsNotCountedAfterItsPoolIsDeleted(t *testing.T) {
	timeout := apierrors.NewTimeoutError("the reply is lost", 1)
	w := newWorld(t, wrappers.MakePool(namespace, "p").Buffer(1, 1).Obj())
	w.onCreate = func(context.Context, client.WithWatch, *corev1.Pod) error { return timeout }
	w.onRead = func() error { return timeout }
	if _, err := w.tryReconcile(); err == nil {
		t.Fatal("reconcile: no error, want the timeout")
	}
	if err := w.client.Delete(context.Background(), w.pool()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	w.reconcile()
	if n := w.ledger.Counts(w.key); n != (scheduler.Counts{}) {
		t.Errorf("the ledger counts %+v: a pool made anew would have that much less room", n)
	}
}
