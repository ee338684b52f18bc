// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

const (
	// pause is the time between two looks: the controller writes what changed of a pool or a batch within a second or two.
	pause = 3 * time.Second

	// looks is how many looks in a row have to show what is wrong.
	looks = 3
)

const long = `Check the ledger of who holds which pod, which is in the annotations of the batches, against the pods that are there.

Found are pods that two batches hold, pods that a batch names and that are not there or of another pool, labels that name another
batch, pods that nobody holds and that no pool owns, pools above poolMax, and counts that are wrong. Nothing is changed.

Deliveries go on meanwhile, and a list of pods is older than the list of batches that follows it. What the first look shows is
therefore looked at again, after some seconds and twice, and only what every look shows is a finding. Labels that are not there yet
are a note and no finding: they come up to minutes after a delivery.

It exits with 1 if there are findings, and with 0 if there are none.`

const example = `  # Check this namespace
  kubectl sandbox audit

  # Check all of them, for a script
  kubectl sandbox audit -A -o json`

// NewCommand returns audit.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	output := cluster.NewOutput(cluster.FormatJSON, cluster.FormatYAML)
	all := false
	cmd := &cobra.Command{
		Use:                   "audit",
		Short:                 "Check who holds which pod against the pods that are there",
		Long:                  long,
		Example:               example,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.Validate(cmd); err != nil {
				return err
			}
			if len(args) > 0 {
				return cluster.UsageErrorf(cmd, "no names are taken, but %q is given: who holds a pod can only be told from all of a namespace", args[0])
			}
			namespace, err := f.NamespaceOrAll(&all)
			if err != nil {
				return err
			}
			c, err := f.Client()
			if err != nil {
				return err
			}
			r, err := auditor{reader: c, clock: f.Clock(), namespace: namespace}.run(cmd.Context())
			if err != nil {
				return err
			}
			return report(r, output, streams.Out)
		},
	}
	output.AddFlags(cmd)
	cluster.AddAllNamespaces(cmd, &all)
	return cmd
}

// report prints the result, and returns the exit code that it has.
func report(r Result, output *cluster.Output, out io.Writer) error {
	var err error
	if output.IsTable() {
		err = r.print(out)
	} else {
		err = output.PrintValue(r, out)
	}
	if err == nil && len(r.Findings) > 0 {
		return &cluster.ExitError{Code: 1}
	}
	return err
}

// auditor looks at one namespace, or at all of them.
type auditor struct {
	reader    client.Reader
	clock     clock.Clock
	namespace string // "" for all
}

// run looks once, and again as long as the looks before agree that something is wrong.
func (a auditor) run(ctx context.Context) (Result, error) {
	r, err := a.look(ctx)
	for range looks - 1 {
		if err != nil || len(r.Findings) == 0 {
			return r, err
		}
		select {
		case <-a.clock.After(pause):
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		var again Result
		if again, err = a.look(ctx); err == nil {
			r = Confirm(r, again)
		}
	}
	return r, err
}

// look reads pods, batches and pools in this order: a batch names no pod that was not there before, so that what is delivered
// in between is rather not seen than seen as missing.
func (a auditor) look(ctx context.Context) (Result, error) {
	var pods corev1.PodList
	var batches v1alpha1.BatchSandboxList
	var pools v1alpha1.PoolList
	for _, list := range []client.ObjectList{&pods, &batches, &pools} {
		if err := a.reader.List(ctx, list, client.InNamespace(a.namespace)); err != nil {
			return Result{}, err
		}
	}
	return Judge(World{Now: a.clock.Now(), Batches: batches.Items, Pools: pools.Items, Pods: pods.Items}), nil
}

// print writes the result for a person.
func (r Result) print(out io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s (namespace %s)\n   What to do: %s\n", f.Kind, f.Sentence, f.Namespace, f.Remedy)
		for _, command := range f.Commands {
			fmt.Fprintf(&b, "     %s\n", command)
		}
	}
	if len(r.Findings) > 0 {
		b.WriteString("\n")
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "Note: %s\n", note)
	}
	verdict := "nothing is wrong"
	if n := len(r.Findings); n > 0 {
		verdict = plural(n, "finding")
	}
	fmt.Fprintf(&b, "Looked at %s, %s and %s; batches hold %d: %s.\n",
		plural(r.Batches, "batch"), plural(r.Pools, "pool"), plural(r.Pods, "pod"), r.Holds, verdict)
	_, err := io.WriteString(out, b.String())
	return err
}
