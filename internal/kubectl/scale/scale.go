// SPDX-License-Identifier: Apache-2.0

// Package scale is kubectl sandbox scale: another number of sandboxes for a batch.
package scale

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

const long = `Set a new number of sandboxes for one or more batches. The highest indexes go first when it is lowered, and their tasks with them.

It needs the right to patch batchsandboxes/scale, and no other.`

const examples = `  # Have five sandboxes in the batch web
  kubectl sandbox scale web --replicas 5`

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	var replicas int32
	cmd := &cobra.Command{
		Use:                   "scale NAME... --replicas=N",
		DisableFlagsInUseLine: true,
		Short:                 "Set a new number of sandboxes for a batch",
		Long:                  long,
		Example:               examples,
		Args:                  cobra.MinimumNArgs(1),
		ValidArgsFunction:     f.CompleteBatches,
		RunE: func(cmd *cobra.Command, args []string) error {
			if replicas < 0 {
				return cluster.UsageErrorf(cmd, "--replicas=%d: must be at least 0", replicas)
			}
			return run(cmd.Context(), f, streams, args, replicas)
		},
	}
	cmd.Flags().Int32Var(&replicas, "replicas", 0, "The new number of sandboxes. Required.")
	if err := cmd.MarkFlagRequired("replicas"); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

func run(ctx context.Context, f *cluster.Factory, streams genericiooptions.IOStreams, names []string, replicas int32) error {
	namespace, c, err := f.NamespaceAndClient()
	if err != nil {
		return err
	}
	for _, name := range names {
		sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
		if err := c.SubResource("scale").Patch(ctx, sb, patch, client.WithSubResourceBody(&autoscalingv1.Scale{})); err != nil {
			return err
		}
		fmt.Fprintf(streams.Out, "batchsandbox.%s/%s scaled\n", v1alpha1.GroupVersion.Group, name)
	}
	return nil
}
