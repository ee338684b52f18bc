// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

const long = `Say in plain words why a batch or a pool is not as you want it, and what to do.

The answer is read from the object, its conditions and events, its pods with their containers and events, its pool and who
waits there, quotas, nodes and the controller's lease: what you may read of them. The first cause is the one to look at first;
each says where it was read. Nothing is changed.

It exits with 1 if there is no such object, and with 0 otherwise, whatever is wrong.`

const example = `  # Why is the batch web not ready?
  kubectl sandbox explain web

  # Why does the pool small not grow?
  kubectl sandbox explain pool/small

  # The reason in one word, for a script
  kubectl sandbox explain web -o json | jq -r '.causes[0].reason'`

// NewCommand returns explain.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	output := cluster.NewOutput(cluster.FormatJSON, cluster.FormatYAML)
	cmd := &cobra.Command{
		Use:                   "explain (NAME | batch/NAME | pool/NAME)",
		Short:                 "Say why a batch or pool is not ready, and what to do",
		Long:                  long,
		Example:               example,
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return complete(f, cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.Validate(cmd); err != nil {
				return err
			}
			return run(cmd, f, args, output, streams.Out)
		},
	}
	output.AddFlags(cmd)
	return cmd
}

// complete completes names of batches, and of pools behind pool/.
func complete(f *cluster.Factory, cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	kind, name, found := strings.Cut(prefix, "/")
	if !found {
		return f.OneBatch(cmd, args, prefix)
	}
	names, directive := f.OneBatch(cmd, args, name)
	if strings.HasPrefix(kind, "pool") {
		names, directive = f.CompletePools(cmd, args, name)
	}
	for i := range names {
		names[i] = kind + "/" + names[i]
	}
	return names, directive
}

func run(cmd *cobra.Command, f *cluster.Factory, args []string, output *cluster.Output, out io.Writer) error {
	if len(args) != 1 {
		return cluster.UsageErrorf(cmd, "exactly one name is required: NAME, batch/NAME or pool/NAME")
	}
	kind, name, err := parse(cmd, args[0])
	if err != nil {
		return err
	}
	namespace, c, err := f.NamespaceAndClient()
	if err != nil {
		return err
	}
	facts, err := Observe(cmd.Context(), c, kind, types.NamespacedName{Namespace: namespace, Name: name}, f.Clock().Now())
	if err != nil {
		return err
	}
	e := Explain(facts)
	if output.IsTable() {
		err = e.print(out)
	} else {
		err = output.PrintValue(e, out)
	}
	if err == nil && len(e.Causes) > 0 && e.Causes[0].Reason == ReasonNotFound {
		return &cluster.ExitError{Code: 1}
	}
	return err
}

// parse reads NAME, batch/NAME or pool/NAME, with kubectl's other words for the kinds.
func parse(cmd *cobra.Command, arg string) (kind, name string, err error) {
	word, name, found := strings.Cut(arg, "/")
	if !found {
		word, name = "batch", arg
	}
	word, _, _ = strings.Cut(strings.ToLower(word), ".")
	switch word {
	case "batch", "batches", "batchsandbox", "batchsandboxes", "bsbx":
		kind = KindBatch
	case "pool", "pools":
		kind = KindPool
	default:
		return "", "", cluster.UsageErrorf(cmd, "%q is neither a batch nor a pool: use batch/NAME or pool/NAME", arg)
	}
	if name == "" || strings.Contains(name, "/") {
		return "", "", cluster.UsageErrorf(cmd, "%q has no name: use batch/NAME or pool/NAME", arg)
	}
	return kind, name, nil
}

// print writes the explanation for a person.
func (e Explanation) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", e.Summary)
	for i, c := range e.Causes {
		fmt.Fprintf(&b, "\n%d. %s: %s\n", i+1, c.Reason, c.Sentence)
		if c.Remedy != "" {
			fmt.Fprintf(&b, "   What to do: %s\n", c.Remedy)
		}
		for _, command := range c.Commands {
			fmt.Fprintf(&b, "     %s\n", command)
		}
		for _, evidence := range c.Evidence {
			fmt.Fprintf(&b, "   Seen in: %s\n", evidence)
		}
	}
	for i, note := range e.Notes {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "Note: %s\n", note)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
