// SPDX-License-Identifier: Apache-2.0

// Package results is kubectl sandbox results: a row for each task of a batch.
package results

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/tasklog"
	"opensandbox.io/controller/internal/kubectl/tasks"
)

const (
	// defaultLogs is of how many tasks the logs are read.
	defaultLogs = 100
	// logsAtOnce is how many logs are read at the same time.
	logsAtOnce = 16
	// logLines is how many of a log's last lines are looked at first.
	logLines = 30
	// keptLines is how many lines of a task's output a row has.
	keptLines = 10
	// lastLineRunes is how much of the last line the table shows.
	lastLineRunes = 60
)

const long = `Show a row for each task of a batch: its state, exit code, why it failed, how many times it was run, and the last line it wrote.

The status of a batch has the details of up to ten failed tasks, those with the lowest indexes, and of every other one whether and for which
reason it failed. The rest is read from the logs of the pods that the batch holds, of up to --max-log-requests tasks; where a pod is gone it is not known, and the cell is empty. The status counts the tasks that have not ended: where some run and others wait, each is "Unfinished".

The exit code is 0 whatever the tasks' are.`

const examples = `  # Show how the tasks of the batch build ended
  kubectl sandbox results build

  # Wait until all have ended
  kubectl sandbox results build --wait

  # List the indexes that failed
  kubectl sandbox results build -o json | jq '.results[] | select(.state == "Failed").index'`

// options are what one call has to go by.
type options struct {
	name    string
	wait    bool
	maxLogs int
	output  *cluster.Output

	factory *cluster.Factory
	streams genericiooptions.IOStreams
}

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	o := &options{factory: f, streams: streams, output: cluster.NewOutput(cluster.FormatWide, cluster.FormatJSON, cluster.FormatYAML)}
	cmd := &cobra.Command{
		Use:                   "results NAME [--wait] [-o json|yaml|wide]",
		DisableFlagsInUseLine: true,
		Short:                 "Show how each task of a batch ended",
		Long:                  long,
		Example:               examples,
		Args:                  cobra.ExactArgs(1),
		ValidArgsFunction:     f.OneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.output.Validate(cmd); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	o.output.AddFlags(cmd)
	cmd.Flags().BoolVar(&o.wait, "wait", false, "Wait until every task has ended.")
	cmd.Flags().IntVar(&o.maxLogs, "max-log-requests", defaultLogs, "Of how many tasks to read the logs. 0 reads none.")
	return cmd
}

func (o *options) run(ctx context.Context) error {
	namespace, c, err := o.factory.NamespaceAndClient()
	if err != nil {
		return err
	}
	sb, err := cluster.Batch(ctx, c, namespace, o.name)
	if err == nil && sb.Spec.TaskTemplate == nil {
		err = fmt.Errorf("batchsandbox %s has no tasks", sb.Name)
	}
	if err == nil && o.wait {
		sb, err = o.await(ctx, c, sb)
	}
	if err != nil {
		return err
	}
	list, err := o.complete(ctx, c, sb)
	if err != nil {
		return err
	}
	return o.print(sb, list)
}

// await returns the batch when every task has ended.
func (o *options) await(ctx context.Context, c client.WithWatch, sb *v1alpha1.BatchSandbox) (*v1alpha1.BatchSandbox, error) {
	w := cluster.BatchWatch{Client: c, Clock: o.factory.Clock(), Key: client.ObjectKeyFromObject(sb), Tell: o.streams.ErrOut}
	last := sb
	err := w.Run(ctx, func(now *v1alpha1.BatchSandbox) bool {
		last = now
		return now != nil && !tasklog.NewState(now).AllEnded()
	})
	switch {
	case ctx.Err() != nil:
		return nil, &cluster.ExitError{Code: cluster.ExitInterrupted}
	case err != nil:
		return nil, err
	case last == nil:
		return nil, fmt.Errorf("batchsandbox %s was deleted before its tasks ended", sb.Name)
	}
	return last, nil
}

// complete adds what pods and their logs tell.
func (o *options) complete(ctx context.Context, c client.Reader, sb *v1alpha1.BatchSandbox) ([]tasks.Task, error) {
	list := tasks.Of(sb)
	pods, err := cluster.Pods(ctx, c, sb)
	if err != nil {
		fmt.Fprintf(o.streams.ErrOut, "The pods can't be read, so only what the status has is shown: %v\n", err)
		return list, nil
	}
	source, err := tasklog.NewSource(o.factory)
	if err != nil {
		return nil, err
	}
	r := reader{source: source, state: tasklog.NewState(sb)}
	asked := 0
	for i := range list {
		if i >= len(pods) || pods[i] == nil {
			continue
		}
		list[i].Pod = pods[i].Name
		if list[i].State == tasks.Pending || asked >= o.maxLogs {
			continue
		}
		asked++
		r.want = append(r.want, wanted{task: &list[i], pod: pods[i]})
	}
	if err := r.readAll(ctx); err != nil {
		fmt.Fprintf(o.streams.ErrOut, "Not every log could be read, so some last lines and exit codes may be missing: %v\n", err)
	}
	if asked > 0 && asked == o.maxLogs && len(list) > asked {
		fmt.Fprintf(o.streams.ErrOut, "The logs of %d tasks were read, of %d: raise --max-log-requests to read more.\n", asked, len(list))
	}
	return list, ctx.Err()
}

// reader reads logs, some at a time.
type reader struct {
	source tasklog.Source
	state  *tasklog.State
	want   []wanted
}

type wanted struct {
	task *tasks.Task
	pod  *corev1.Pod
}

// readAll returns the first error; it reads the other logs nevertheless.
func (r *reader) readAll(ctx context.Context) error {
	turns := make(chan struct{}, logsAtOnce)
	errs := make([]error, len(r.want))
	var readers sync.WaitGroup
	for i, w := range r.want {
		turns <- struct{}{}
		readers.Go(func() {
			defer func() { <-turns }()
			errs[i] = r.read(ctx, w)
		})
	}
	readers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) read(ctx context.Context, w wanted) error {
	lines, err := tasklog.Read(ctx, r.source, r.state, tasklog.ReadInput{
		Index: w.task.Index, Pod: w.pod.Name, Restarted: tasklog.Restarted(w.pod), Limit: logLines,
	})
	if err != nil {
		return err
	}
	addLog(w.task, lines)
	return nil
}

// addLog adds what the log of a task's last try tells and the status doesn't.
func addLog(t *tasks.Task, lines []tasklog.Line) {
	var last []tasklog.Line
	for _, l := range lines {
		if l.Try == t.Tries {
			last = append(last, l)
		}
	}
	if code, ok := tasklog.ExitCode(last); ok && t.State == tasks.Failed && t.ExitCode == nil {
		t.ExitCode = &code
	}
	if t.Output != "" {
		return
	}
	last = tasklog.Output(last)
	var output []string
	for _, l := range last[max(0, len(last)-keptLines):] {
		output = append(output, string(l.Text))
	}
	t.Output = strings.Join(output, "\n")
}

// results is what -o json and -o yaml print.
type results struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Results   []tasks.Task `json:"results"`
}

func (o *options) print(sb *v1alpha1.BatchSandbox, list []tasks.Task) error {
	if !o.output.IsTable() {
		return o.output.PrintValue(results{Namespace: sb.Namespace, Name: sb.Name, Results: list}, o.streams.Out)
	}
	return o.output.PrintTable(cluster.Table(columns, rows(list)), o.streams.Out)
}

// columns of the table.
var columns = []cluster.Column{
	{Name: "INDEX"}, {Name: "STATE"}, {Name: "EXIT"}, {Name: "REASON"}, {Name: "TRIES"}, {Name: "POD", Wide: true}, {Name: "MESSAGE", Wide: true}, {Name: "LAST LINE"},
}

func rows(list []tasks.Task) [][]any {
	all := make([][]any, len(list))
	for i, t := range list {
		exit := ""
		if t.ExitCode != nil {
			exit = fmt.Sprint(*t.ExitCode)
		}
		all[i] = []any{t.Index, string(t.State), exit, t.Reason, t.Tries, t.Pod, t.Message, lastLine(t.Output)}
	}
	return all
}

// lastLine is short enough for a table.
func lastLine(output string) string {
	output = strings.TrimRight(output, "\n")
	line := []rune(output[strings.LastIndexByte(output, '\n')+1:])
	if len(line) > lastLineRunes {
		return string(line[:lastLineRunes-1]) + "…"
	}
	return string(line)
}
