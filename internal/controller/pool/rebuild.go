// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// pageSize bounds one list call, in objects.
const pageSize = 500

// Rebuild reads all pools of these namespaces, none means all, from the API server itself. A cache that has just been filled may be
// behind by any time, for its first list may come from any time, and the bounds of a pool may have been other ones then. It is called
// after the election and before any reconcile, again if it failed.
func (r *Reconciler) Rebuild(ctx context.Context, namespaces []string) error {
	for n := range max(1, len(namespaces)) {
		page := client.ListOptions{Limit: pageSize}
		if len(namespaces) > 0 {
			page.Namespace = namespaces[n]
		}
		for more := true; more; more = page.Continue != "" {
			var pools v1alpha1.PoolList
			if err := r.reader.List(ctx, &pools, &page); err != nil {
				return fmt.Errorf("list pools of namespace %s: %w", cmp.Or(page.Namespace, "*"), err)
			}
			for i := range pools.Items {
				pool := &pools.Items[i]
				r.memories.of(pool).written = pool
			}
			page.Continue = pools.Continue
		}
	}
	return nil
}
