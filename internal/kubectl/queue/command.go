// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

const long = `Show which batches wait for sandboxes of a pool, in the order in which they are served: higher priority first, then oldest,
then by name.

WANTS is the number of sandboxes that a batch asks for and has not, HELD of those it has, GANG of those that it takes together
or not at all (minAvailable). A batch without a position is not in the queue, and WHY says what keeps it out. In long queues that
move, the position that a batch tells may lag behind by seconds; the order of the lines doesn't.`

const example = `  # Who waits, in this namespace?
  kubectl sandbox queue

  # Who waits for the pool small, and in whose words?
  kubectl sandbox queue small -o wide

  # Everybody who waits
  kubectl sandbox queue -A`

// NewCommand returns queue.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	output := cluster.NewOutput(cluster.FormatWide, cluster.FormatJSON, cluster.FormatYAML)
	all := false
	cmd := &cobra.Command{
		Use:                   "queue [POOL]",
		Short:                 "Show who waits for a pool, in which order, and why",
		Long:                  long,
		Example:               example,
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return f.CompletePools(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.Validate(cmd); err != nil {
				return err
			}
			if len(args) > 1 {
				return cluster.UsageErrorf(cmd, "at most one pool can be named, %d are", len(args))
			}
			if len(args) == 1 && all {
				return cluster.UsageErrorf(cmd, "a pool can't be named across all namespaces: leave out the name or --all-namespaces")
			}
			v := &view{all: all, output: output, now: f.Clock().Now()}
			if len(args) == 1 {
				v.pool = args[0]
			}
			return v.run(cmd.Context(), f, streams)
		},
	}
	output.AddFlags(cmd)
	cluster.AddAllNamespaces(cmd, &all)
	return cmd
}

// view is what is shown.
type view struct {
	namespace string
	pool      string
	now       time.Time
	all       bool
	output    *cluster.Output
	entries   []Entry
	pools     map[types.NamespacedName]*v1alpha1.Pool
}

func (v *view) run(ctx context.Context, f *cluster.Factory, streams genericiooptions.IOStreams) error {
	namespace, err := f.NamespaceOrAll(&v.all)
	if err != nil {
		return err
	}
	c, err := f.Client()
	if err != nil {
		return err
	}
	v.namespace = namespace
	if err := v.read(ctx, c); err != nil {
		return err
	}
	return v.print(streams)
}

// read reads the queue of the pool, or of all pools. A pool that is named must be there, or be waited for.
func (v *view) read(ctx context.Context, c client.Reader) error {
	var batches v1alpha1.BatchSandboxList
	if err := c.List(ctx, &batches, client.InNamespace(v.namespace)); err != nil {
		return err
	}
	v.entries, v.pools = Entries(batches.Items, v.pool), map[types.NamespacedName]*v1alpha1.Pool{}
	if v.pool != "" {
		p := &v1alpha1.Pool{}
		err := c.Get(ctx, client.ObjectKey{Namespace: v.namespace, Name: v.pool}, p)
		if err != nil && len(v.entries) == 0 {
			return err
		}
		if err == nil {
			v.pools[client.ObjectKeyFromObject(p)] = p
		}
		return nil
	}
	var pools v1alpha1.PoolList
	if err := c.List(ctx, &pools, client.InNamespace(v.namespace)); err != nil {
		return err
	}
	for i := range pools.Items {
		v.pools[client.ObjectKeyFromObject(&pools.Items[i])] = &pools.Items[i]
	}
	return nil
}

func (v *view) print(streams genericiooptions.IOStreams) error {
	if !v.output.IsTable() {
		return v.output.PrintValue(v.entries, streams.Out)
	}
	if len(v.entries) == 0 {
		nobodyWaits(streams.ErrOut, v)
		return nil
	}
	columns := []cluster.Column{
		{Name: "POOL"}, {Name: "POSITION"}, {Name: "BATCH"}, {Name: "PRIORITY"}, {Name: "WANTS"}, {Name: "HELD"}, {Name: "GANG"}, {Name: "WAITING"},
		{Name: "WHY"}, {Name: "MESSAGE", Wide: true},
	}
	if v.all {
		columns = append([]cluster.Column{{Name: "NAMESPACE"}}, columns...)
	}
	rows := make([][]any, 0, len(v.entries))
	for _, e := range v.entries {
		row := []any{
			e.Pool, orDash(e.Position), e.Batch, e.Priority, e.Wants, e.Held, orDash(e.Gang), duration.HumanDuration(e.Waited(v.now)),
			Why(e, v.pools[types.NamespacedName{Namespace: e.Namespace, Name: e.Pool}]), e.Message,
		}
		if v.all {
			row = append([]any{e.Namespace}, row...)
		}
		rows = append(rows, row)
	}
	return v.output.PrintTable(cluster.Table(columns, rows), streams.Out)
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// nobodyWaits says so as kubectl says that there is nothing.
func nobodyWaits(out io.Writer, v *view) {
	what := "Nobody waits"
	if v.pool != "" {
		what += " for Pool " + v.pool
	}
	if !v.all {
		what += " in " + v.namespace + " namespace"
	}
	fmt.Fprintf(out, "%s.\n", what)
}

// Why says in a few words why a batch of the list waits. The first row that matches:
//
//	| the batch        | its pool                        | why                             |
//	| not in the queue | -                               | the reason of its condition     |
//	| in the queue     | not known                       | the reason of its condition     |
//	| in the queue     | its pods don't start            | pods don't start: ErrImagePull  |
//	| in the queue     | may not grow                    | poolMax 3 reached               |
//	| a gang           | -                               | gang of 3, 2 available          |
//	| in the queue     | pods are starting               | 2 pods starting                 |
//	| in the queue     | else                            | the reason of its condition     |
func Why(e Entry, pool *v1alpha1.Pool) string {
	reason := e.Reason
	if reason == "" {
		reason = "JustCreated"
	}
	if e.Position == 0 || pool == nil {
		return reason
	}
	status := pool.Status
	failing := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionPodsFailing)
	limited := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionScalingLimited)
	switch {
	case failing != nil && failing.Status == metav1.ConditionTrue:
		return "pods don't start: " + failing.Reason
	case limited != nil && limited.Status == metav1.ConditionTrue && limited.Reason == v1alpha1.ReasonPoolMaxReached:
		return fmt.Sprintf("poolMax %d reached", pool.Spec.CapacitySpec.PoolMax)
	case e.Gang > 0:
		return fmt.Sprintf("gang of %d, %d available", e.Gang, status.Available)
	case status.Starting == 1:
		return "1 pod starting"
	case status.Starting > 0:
		return fmt.Sprintf("%d pods starting", status.Starting)
	default:
		return reason
	}
}
