// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

// maxNeedy is of how many batches top tells.
const maxNeedy = 20

const topLong = `Show pools by pressure, and the batches that miss sandboxes for longest.

Pools come in the order of the sandboxes that batches wait for (WAITING), then of the share of poolMax that batches hold (USED).
OTHER are pods that can't be handed out: on nodes that are cordoned or not Ready, or marked for eviction. MISSING is the number of
sandboxes that a batch wants and that are not Ready, WAITING for how long.

How many sandboxes are delivered per minute can't be told from the API, where batches that were deleted since leave no trace: it is
in the controller's metrics.`

const topExample = `  # Which pools are short, and who waits for longest?
  kubectl sandbox top

  # The whole cluster, live
  kubectl sandbox top -A -w`

// NewTop returns top.
func NewTop(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	s := &show{streams: streams, clock: f.Clock(), render: renderTop, line: lineTop}
	s.output = cluster.NewOutput(cluster.FormatWide)
	cmd := &cobra.Command{
		Use:                   "top",
		Short:                 "Show pools by pressure, and batches that miss sandboxes",
		Long:                  topLong,
		Example:               topExample,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.output.Validate(cmd); err != nil {
				return err
			}
			if len(args) > 0 {
				return cluster.UsageErrorf(cmd, "no names are taken: kubectl sandbox get %s shows one", args[0])
			}
			return s.begin(cmd, f, scope{batches: true, pools: true})
		},
	}
	s.output.AddFlags(cmd)
	cluster.AddAllNamespaces(cmd, &s.all)
	cmd.Flags().BoolVarP(&s.watch, "watch", "w", false, "After the first look, watch for changes: on a terminal the tables are drawn anew, else lines are appended.")
	return cmd
}

func renderTop(s *show, w *world, out io.Writer) error {
	now := s.clock.Now()
	pools, batches := s.newTable(pressureColumns()), s.newTable(needColumns())
	byNeed := w.sortedPools()
	slices.SortStableFunc(byNeed, byPressure)
	for _, p := range byNeed {
		s.namespaced(pools, p, pressureRow(p))
	}
	for _, sb := range neediest(w.sortedBatches(), maxNeedy) {
		s.namespaced(batches, sb, needRow(sb, now))
	}
	if len(pools.rows)+len(batches.rows) == 0 {
		fmt.Fprintln(s.streams.ErrOut, "No pools found, and no batch misses a sandbox.")
		return nil
	}
	return s.tables(out, *pools, *batches)
}

func lineTop(s *show, changed []client.Object, out io.Writer) error {
	now := s.clock.Now()
	for _, o := range changed {
		t := s.newTable(pressureColumns())
		switch o := o.(type) {
		case *v1alpha1.Pool:
			s.namespaced(t, o, pressureRow(o))
		case *v1alpha1.BatchSandbox:
			t = s.newTable(needColumns())
			if o.DeletionTimestamp == nil && missing(o) > 0 {
				s.namespaced(t, o, needRow(o, now))
			}
		}
		if len(t.rows) == 0 {
			continue
		}
		if err := s.noHeaders().PrintTable(cluster.Table(t.columns, t.rows), out); err != nil {
			return err
		}
	}
	return nil
}
