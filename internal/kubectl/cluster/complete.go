// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// Limits of a completion, which somebody waits for between two keys.
const (
	completionTime = 3 * time.Second
	maxCompletions = 500
)

// OneBatch completes the first argument with the names of batches, and no further one.
func (f *Factory) OneBatch(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.CompleteBatches(cmd, args, prefix)
}

// CompleteBatches completes with the names of batches that are no argument yet.
func (f *Factory) CompleteBatches(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return without(f.names(cmd.Context(), "BatchSandboxList", prefix), args)
}

// CompletePools completes with the names of pools that are no argument yet.
func (f *Factory) CompletePools(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return without(f.names(cmd.Context(), "PoolList", prefix), args)
}

// CompleteNamespaces completes with the namespaces of the cluster.
func (f *Factory) CompleteNamespaces(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return without(f.names(cmd.Context(), "NamespaceList", prefix), nil)
}

// CompleteContexts completes with the contexts of the kubeconfig.
func (f *Factory) CompleteContexts(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return f.ofKubeconfig(prefix, func(c api.Config) []string { return slices.Collect(maps.Keys(c.Contexts)) })
}

// CompleteClusters completes with the clusters of the kubeconfig.
func (f *Factory) CompleteClusters(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return f.ofKubeconfig(prefix, func(c api.Config) []string { return slices.Collect(maps.Keys(c.Clusters)) })
}

// CompleteUsers completes with the users of the kubeconfig.
func (f *Factory) CompleteUsers(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return f.ofKubeconfig(prefix, func(c api.Config) []string { return slices.Collect(maps.Keys(c.AuthInfos)) })
}

func (f *Factory) ofKubeconfig(prefix string, names func(api.Config) []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	config, err := f.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return without(beginningWith(prefix, names(config)), nil)
}

// names returns the names of the objects of a kind that begin with prefix. A cluster that doesn't answer completes nothing.
func (f *Factory) names(ctx context.Context, listKind, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	c, err := f.Client()
	if err != nil {
		return nil
	}
	options := []client.ListOption{client.Limit(maxCompletions)}
	version := v1alpha1.GroupVersion
	if listKind == "NamespaceList" {
		version = corev1.SchemeGroupVersion
	} else {
		namespace, err := f.Namespace()
		if err != nil {
			return nil
		}
		options = append(options, client.InNamespace(namespace))
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(version.WithKind(listKind))
	if err := c.List(ctx, list, options...); err != nil {
		return nil
	}
	found := make([]string, len(list.Items))
	for i := range list.Items {
		found[i] = list.Items[i].Name
	}
	return beginningWith(prefix, found)
}

func beginningWith(prefix string, names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) })
	slices.Sort(names)
	return names
}

func without(names, taken []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(taken, name) }), cobra.ShellCompDirectiveNoFileComp
}
