// SPDX-License-Identifier: Apache-2.0

package leading_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/internal/utils/leading"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func TestWhoLeadsNoMoreWritesNothing(t *testing.T) {
	label := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"new":"yes"}}}`))
	phase := client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`))
	for name, write := range map[string]func(context.Context, client.Client) error{
		"create": func(ctx context.Context, c client.Client) error { return c.Create(ctx, pod("other")) },
		"delete": func(ctx context.Context, c client.Client) error { return c.Delete(ctx, pod("x")) },
		"delete some": func(ctx context.Context, c client.Client) error {
			return c.DeleteAllOf(ctx, pod(""), client.InNamespace("ns"))
		},
		"update": func(ctx context.Context, c client.Client) error { return c.Update(ctx, pod("x")) },
		"patch":  func(ctx context.Context, c client.Client) error { return c.Patch(ctx, pod("x"), label) },
		"apply": func(ctx context.Context, c client.Client) error {
			return c.Apply(ctx, corev1ac.Pod("x", "ns").WithLabels(map[string]string{"new": "yes"}), client.FieldOwner("me"), client.ForceOwnership)
		},
		"patch the status":  func(ctx context.Context, c client.Client) error { return c.Status().Patch(ctx, pod("x"), phase) },
		"update the status": func(ctx context.Context, c client.Client) error { return c.Status().Update(ctx, pod("x")) },
		"apply the status": func(ctx context.Context, c client.Client) error {
			return c.Status().Apply(ctx, corev1ac.Pod("x", "ns").WithStatus(corev1ac.PodStatus().WithPhase(corev1.PodFailed)), client.FieldOwner("me"))
		},
		"create a part": func(ctx context.Context, c client.Client) error {
			return c.SubResource("eviction").Create(ctx, pod("x"), &corev1.Pod{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			inner := counting{fake.NewClientBuilder().WithObjects(pod("x")).Build(), &calls}
			leads := false
			c := leading.NewClient(inner, func() bool { return leads })
			if err := write(t.Context(), c); !errors.Is(err, leading.ErrLost) || calls != 0 {
				t.Errorf("while it doesn't lead: %v after %d writes, want %v after none", err, calls, leading.ErrLost)
			}
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "x"}, pod("")); err != nil {
				t.Errorf("reads are let through: %v", err)
			}
			leads = true
			if err := write(t.Context(), c); errors.Is(err, leading.ErrLost) || calls != 1 {
				t.Errorf("while it leads: %v after %d writes, want one", err, calls)
			}
		})
	}
}

// counting counts writes, which all go through it and no further: only that they are let through matters.
type counting struct {
	client.Client
	calls *int
}

func (c counting) count() error { *c.calls++; return nil }

func (c counting) Create(context.Context, client.Object, ...client.CreateOption) error {
	return c.count()
}
func (c counting) Delete(context.Context, client.Object, ...client.DeleteOption) error {
	return c.count()
}
func (c counting) DeleteAllOf(context.Context, client.Object, ...client.DeleteAllOfOption) error {
	return c.count()
}
func (c counting) Update(context.Context, client.Object, ...client.UpdateOption) error {
	return c.count()
}
func (c counting) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return c.count()
}
func (c counting) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return c.count()
}
func (c counting) SubResource(name string) client.SubResourceClient {
	return countingPart{c.Client.SubResource(name), c}
}

type countingPart struct {
	client.SubResourceClient
	c counting
}

func (p countingPart) Create(context.Context, client.Object, client.Object, ...client.SubResourceCreateOption) error {
	return p.c.count()
}
func (p countingPart) Update(context.Context, client.Object, ...client.SubResourceUpdateOption) error {
	return p.c.count()
}
func (p countingPart) Patch(context.Context, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
	return p.c.count()
}
func (p countingPart) Apply(context.Context, runtime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
	return p.c.count()
}
