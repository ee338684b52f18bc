// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// delivery is what the controller wrote to deliver a batch, for bare clients to write the same: the floor.
type delivery struct {
	annotations map[string]string
	finalizers  []string
	status      v1alpha1.BatchSandboxStatus
}

// deliveryOf reads it from a delivered batch.
func deliveryOf(sb *v1alpha1.BatchSandbox) delivery {
	annotations := map[string]string{}
	for _, key := range []string{v1alpha1.AllocStatusAnnotation, v1alpha1.EndpointsAnnotation} {
		if value, ok := sb.Annotations[key]; ok {
			annotations[key] = value
		}
	}
	return delivery{annotations, sb.Finalizers, sb.Status}
}

// allocation is the body of the patch that delivers. Like the controller's it is refused if the batch has changed.
func (d delivery) allocation(version string) ([]byte, error) {
	metadata := map[string]any{"resourceVersion": version, "annotations": maps.Clone(d.annotations)}
	if len(d.finalizers) > 0 {
		metadata["finalizers"] = d.finalizers
	}
	return json.Marshal(map[string]any{"metadata": metadata})
}

// report is the body of the patch of the status.
func (d delivery) report(version string) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": version}, "status": d.status})
}

// deliverBare makes a batch and writes its delivery, one write after the other.
func (e *env) deliverBare(ctx context.Context, sb *v1alpha1.BatchSandbox, d delivery) error {
	if err := e.cluster.Client.Create(ctx, sb); err != nil {
		return fmt.Errorf("make batch %s: %w", sb.Name, err)
	}
	return e.writeDelivery(ctx, sb, d)
}

// writeDelivery writes the delivery of a batch that is there.
func (e *env) writeDelivery(ctx context.Context, sb *v1alpha1.BatchSandbox, d delivery) error {
	body, err := d.allocation(sb.ResourceVersion)
	if err != nil {
		return err
	}
	if err := e.cluster.Client.Patch(ctx, sb, client.RawPatch(types.MergePatchType, body)); err != nil {
		return fmt.Errorf("deliver batch %s: %w", sb.Name, err)
	}
	if body, err = d.report(sb.ResourceVersion); err != nil {
		return err
	}
	if err := e.cluster.Client.Status().Patch(ctx, sb, client.RawPatch(types.MergePatchType, body)); err != nil {
		return fmt.Errorf("report batch %s: %w", sb.Name, err)
	}
	return nil
}
