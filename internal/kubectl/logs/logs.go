// SPDX-License-Identifier: Apache-2.0

// Package logs is kubectl sandbox logs: the output of a batch's tasks.
package logs

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/tasklog"
	"opensandbox.io/controller/internal/kubectl/tasks"
)

// defaultAtOnce is how many logs are followed at the same time.
const defaultAtOnce = 100

const long = `Show what the tasks of a batch wrote, all tries of each, with "[INDEX] " before each line unless --index names one.

The output is read from the logs of the pods that the batch holds. Where a pod is gone its output is gone with it, but for the last lines of up to ten failed tasks
that the batch's status keeps: those are shown then, and stderr says so.

The output of the sandboxes' own main process is no task's: see it with kubectl logs.`

const examples = `  # Show the output of all tasks of the batch build
  kubectl sandbox logs build

  # Follow the output of one task until it ends
  kubectl sandbox logs build --index 3 -f

  # Show the last 20 lines of each task that failed
  kubectl sandbox logs build --failed --tail 20`

// options are what one call has to go by.
type options struct {
	name       string
	index      int // below 0: all
	follow     bool
	failed     bool
	timestamps bool
	tail       int // below 0: all
	atOnce     int

	factory *cluster.Factory
	streams genericiooptions.IOStreams
}

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	o := &options{factory: f, streams: streams, index: -1, tail: -1}
	cmd := &cobra.Command{
		Use:                   "logs NAME [--index=N] [-f] [--failed]",
		DisableFlagsInUseLine: true,
		Short:                 "Show the output of a batch's tasks",
		Long:                  long,
		Example:               examples,
		Args:                  cobra.ExactArgs(1),
		ValidArgsFunction:     f.OneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			switch {
			case cmd.Flag("index").Changed && o.index < 0:
				return cluster.UsageErrorf(cmd, "--index=%d: must be at least 0", o.index)
			case o.atOnce < 1:
				return cluster.UsageErrorf(cmd, "--max-log-requests=%d: must be at least 1", o.atOnce)
			case o.follow && (o.failed || o.tail >= 0):
				return cluster.UsageErrorf(cmd, "--follow goes with neither --failed nor --tail")
			}
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.index, "index", o.index, "Only the task of this index.")
	flags.BoolVarP(&o.follow, "follow", "f", false, "Show the output as it is written, until all tasks have ended.")
	flags.BoolVar(&o.failed, "failed", false, "Only the tasks that failed.")
	flags.BoolVar(&o.timestamps, "timestamps", false, "Put the time before each line.")
	flags.IntVar(&o.tail, "tail", o.tail, "Lines of recent output to show of each task. -1 shows all.")
	flags.IntVar(&o.atOnce, "max-log-requests", defaultAtOnce, "How many tasks to follow at the same time. The output of the others is shown as these end.")
	flags.Lookup("index").DefValue = "all"
	return cmd
}

func (o *options) run(ctx context.Context) error {
	namespace, c, err := o.factory.NamespaceAndClient()
	if err != nil {
		return err
	}
	source, err := tasklog.NewSource(o.factory)
	if err != nil {
		return err
	}
	sb, err := cluster.Batch(ctx, c, namespace, o.name)
	if err != nil {
		return err
	}
	list, err := o.choose(sb)
	if err != nil {
		return err
	}
	printer := &tasklog.Printer{Out: o.streams.Out, ErrOut: o.streams.ErrOut, Prefixed: o.index < 0 && cluster.Replicas(sb) > 1, Timestamps: o.timestamps}
	if o.follow {
		return o.followAll(ctx, sb, following{client: c, source: source, printer: printer, list: list})
	}
	return o.showAll(ctx, sb, following{client: c, source: source, printer: printer, list: list})
}

// choose returns the tasks to show.
func (o *options) choose(sb *v1alpha1.BatchSandbox) ([]tasks.Task, error) {
	list := tasks.Of(sb)
	switch {
	case sb.Spec.TaskTemplate == nil:
		return nil, fmt.Errorf("batchsandbox %s has no tasks: its sandboxes' own output is shown by kubectl logs -l %s=%s",
			sb.Name, v1alpha1.BatchNameLabel, sb.Name)
	case o.index >= len(list):
		return nil, cluster.IndexError(sb, o.index)
	case o.index >= 0:
		list = list[o.index : o.index+1]
	}
	if !o.failed {
		return list, nil
	}
	var failed []tasks.Task
	for _, t := range list {
		if t.State == tasks.Failed {
			failed = append(failed, t)
		}
	}
	if len(failed) == 0 {
		fmt.Fprintf(o.streams.ErrOut, "No failed tasks in batchsandbox %s.\n", sb.Name)
	}
	return failed, nil
}

// following is what it takes to show output.
type following struct {
	client  client.WithWatch
	source  tasklog.Source
	printer *tasklog.Printer
	list    []tasks.Task
}

// followAll shows the output as it is written.
func (o *options) followAll(ctx context.Context, sb *v1alpha1.BatchSandbox, f following) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	states := tasklog.NewStates(sb)
	watched := make(chan error, 1)
	go func() {
		w := cluster.BatchWatch{Client: f.client, Clock: o.factory.Clock(), Key: client.ObjectKeyFromObject(sb), Tell: o.streams.ErrOut}
		err := w.Run(ctx, func(sb *v1alpha1.BatchSandbox) bool {
			states.See(sb)
			return sb != nil
		})
		if err != nil {
			stop() // nobody would tell when the tasks end
		}
		watched <- err
	}()
	indexes := make([]int, len(f.list))
	for i, t := range f.list {
		indexes[i] = t.Index
	}
	incomplete := tasklog.Many{
		Source: f.source, States: states, Clock: o.factory.Clock(), Indexes: indexes, AtOnce: o.atOnce, Emit: f.printer.Print,
	}.Follow(ctx)
	interrupted := ctx.Err() != nil
	stop()
	if err := <-watched; interrupted {
		if cluster.IsRefused(err) {
			return err
		}
		return &cluster.ExitError{Code: cluster.ExitInterrupted}
	}
	state, _ := states.Get()
	return o.tellMissing(tasks.Of(state.Batch), incomplete)
}

// tellMissing shows what the status has of the tasks whose output is not all there.
func (o *options) tellMissing(all []tasks.Task, incomplete []tasklog.Incomplete) error {
	for _, i := range incomplete {
		if i.Err != nil {
			return fmt.Errorf("read the output of index %d: %w", i.Index, i.Err)
		}
		o.tellGone(all[i.Index])
	}
	return nil
}

// showAll shows what there is now, in the order of the indexes.
func (o *options) showAll(ctx context.Context, sb *v1alpha1.BatchSandbox, f following) error {
	pods, err := o.pods(ctx, sb, f.client)
	if err != nil {
		return err
	}
	state := tasklog.NewState(sb)
	for _, t := range f.list {
		var pod *corev1.Pod
		if t.Index < len(pods) {
			pod = pods[t.Index]
		}
		if pod == nil {
			o.tellGone(t)
			continue
		}
		lines, err := tasklog.Read(ctx, f.source, state, tasklog.ReadInput{Index: t.Index, Pod: pod.Name, Restarted: tasklog.Restarted(pod)})
		if err != nil {
			return err
		}
		lines = tasklog.Output(lines)
		if o.tail >= 0 {
			lines = lines[max(0, len(lines)-o.tail):]
		}
		for _, l := range lines {
			f.printer.Print(t.Index, l)
		}
		if len(lines) == 0 && t.Output != "" && o.tail != 0 {
			o.tellGone(t) // its pod was replaced
		}
	}
	return nil
}

// pods returns the pods by index. For one index one is read.
func (o *options) pods(ctx context.Context, sb *v1alpha1.BatchSandbox, c client.Reader) ([]*corev1.Pod, error) {
	if o.index < 0 {
		return cluster.Pods(ctx, c, sb)
	}
	pods := make([]*corev1.Pod, o.index+1)
	pod, err := cluster.Pod(ctx, c, sb, o.index)
	pods[o.index] = pod
	return pods, err
}

// tellGone shows the last lines of a task that the status has, and says that they are no more than that.
func (o *options) tellGone(t tasks.Task) {
	switch {
	case t.Output != "":
		fmt.Fprintf(o.streams.ErrOut, "The pod of index %d is gone. The batch's status has the last lines of its task:\n", t.Index)
		prefix := ""
		if o.index < 0 {
			prefix = fmt.Sprintf("[%d] ", t.Index)
		}
		for line := range strings.Lines(strings.TrimSuffix(t.Output, "\n") + "\n") {
			fmt.Fprint(o.streams.Out, prefix, line)
		}
	case t.State == tasks.Failed || t.State == tasks.Succeeded:
		fmt.Fprintf(o.streams.ErrOut, "The pod of index %d is gone, and the output of its task with it.\n", t.Index)
	default:
		fmt.Fprintf(o.streams.ErrOut, "Index %d has no pod yet.\n", t.Index)
	}
}
