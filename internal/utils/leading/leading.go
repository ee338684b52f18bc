// SPDX-License-Identifier: Apache-2.0

// Package leading keeps a controller that may not lead any more from writing.
package leading

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ErrLost says that the lease was not renewed in time: another controller may lead. Nothing is written until it is renewed; where it
// never is, the process ends.
var ErrLost = errors.New("the lease was not renewed in time")

// NewClient returns a client that refuses to write with [ErrLost] while leads says no. A controller that was frozen would else go on
// with what it had decided before, as to take the finalizers from a batch to which the next leader has given pods meanwhile.
func NewClient(c client.Client, leads func() bool) client.Client {
	return guarded{Client: c, leads: leads}
}

type guarded struct {
	client.Client
	leads func() bool
}

// while calls write if this process leads.
func while(leads func() bool, write func() error) error {
	if !leads() {
		return ErrLost
	}
	return write()
}

// Apply implements [client.Writer].
func (g guarded) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	return while(g.leads, func() error { return g.Client.Apply(ctx, obj, opts...) })
}

// Create implements [client.Writer].
func (g guarded) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return while(g.leads, func() error { return g.Client.Create(ctx, obj, opts...) })
}

// Delete implements [client.Writer].
func (g guarded) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return while(g.leads, func() error { return g.Client.Delete(ctx, obj, opts...) })
}

// Update implements [client.Writer].
func (g guarded) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	return while(g.leads, func() error { return g.Client.Update(ctx, obj, opts...) })
}

// Patch implements [client.Writer].
func (g guarded) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	return while(g.leads, func() error { return g.Client.Patch(ctx, obj, patch, opts...) })
}

// DeleteAllOf implements [client.Writer].
func (g guarded) DeleteAllOf(ctx context.Context, obj client.Object, opts ...client.DeleteAllOfOption) error {
	return while(g.leads, func() error { return g.Client.DeleteAllOf(ctx, obj, opts...) })
}

// Status implements [client.StatusClient].
func (g guarded) Status() client.SubResourceWriter { return g.SubResource("status") }

// SubResource implements [client.SubResourceClientConstructor].
func (g guarded) SubResource(name string) client.SubResourceClient {
	return guardedPart{SubResourceClient: g.Client.SubResource(name), leads: g.leads}
}

type guardedPart struct {
	client.SubResourceClient
	leads func() bool
}

// Apply implements [client.SubResourceWriter].
func (g guardedPart) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
	return while(g.leads, func() error { return g.SubResourceClient.Apply(ctx, obj, opts...) })
}

// Create implements [client.SubResourceWriter].
func (g guardedPart) Create(ctx context.Context, obj, part client.Object, opts ...client.SubResourceCreateOption) error {
	return while(g.leads, func() error { return g.SubResourceClient.Create(ctx, obj, part, opts...) })
}

// Update implements [client.SubResourceWriter].
func (g guardedPart) Update(ctx context.Context, obj client.Object, opts ...client.SubResourceUpdateOption) error {
	return while(g.leads, func() error { return g.SubResourceClient.Update(ctx, obj, opts...) })
}

// Patch implements [client.SubResourceWriter].
func (g guardedPart) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	return while(g.leads, func() error { return g.SubResourceClient.Patch(ctx, obj, patch, opts...) })
}
