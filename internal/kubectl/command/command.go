// SPDX-License-Identifier: Apache-2.0

// Package command puts the commands of kubectl sandbox together: flags, help, completion and exit codes.
package command

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// completer is the name under which kubectl looks for what completes the arguments of this plugin.
const completer = "kubectl_complete-sandbox"

// Run runs the command line args, the first of which is the program's name, and returns the exit code.
func Run(ctx context.Context, version string, args []string, streams genericiooptions.IOStreams) int {
	ctrllog.SetLogger(klog.NewKlogr())
	root := New(version, streams)
	root.SetArgs(arguments(args))
	cmd, err := root.ExecuteContextC(ctx)
	return report(cmd, err, streams.ErrOut)
}

// arguments returns the arguments for the root command. kubectl asks kubectl_complete-sandbox, which is a link to this
// program, to complete what it is given.
func arguments(args []string) []string {
	if len(args) == 0 {
		return []string{}
	}
	if name := strings.TrimSuffix(filepath.Base(args[0]), ".exe"); name == completer {
		return append([]string{cobra.ShellCompRequestCmd}, args[1:]...)
	}
	return args[1:]
}

// New returns the command with all of its subcommands.
func New(version string, streams genericiooptions.IOStreams) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-sandbox",
		Short: "Run commands in sandboxes, and see how batches and pools fare",
		Long: `Run commands in sandboxes, and see how batches and pools fare.

A BatchSandbox is a number of identical sandboxes, taken from a Pool of warm ones or made from a template, with an optional task in each.`,
		Version:       version,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl sandbox"},
		Args:          cobra.ArbitraryArgs,
		RunE:          showHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.SetVersionTemplate("kubectl sandbox {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return cluster.UsageErrorf(cmd, "%v", err) })
	useKubectlHelp(root)

	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag()
	flags.AddFlags(root.PersistentFlags())
	addVerbosity(root)
	f := cluster.NewFactory(flags, streams.ErrOut)
	for i, g := range groups() {
		id := fmt.Sprint(i)
		root.AddGroup(&cobra.Group{ID: id, Title: g.title})
		for _, build := range g.builders {
			sub := build(f, streams)
			sub.GroupID = id
			root.AddCommand(sub)
		}
	}
	root.AddCommand(newOptions(streams))
	completeNames(root, f)
	return root
}

// showHelp is the root command alone. An unknown subcommand gets here too.
func showHelp(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	message := fmt.Sprintf("unknown command %q for %q", args[0], cmd.DisplayName())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		message += "\n\nDid you mean this?\n\t" + strings.Join(near, "\n\t") + "\n"
	}
	return cluster.UsageErrorf(cmd, "%s", message)
}

// addVerbosity adds kubectl's flag for the level of its log, which tells of requests from 6 on.
func addVerbosity(root *cobra.Command) {
	logFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logFlags)
	root.PersistentFlags().AddGoFlag(logFlags.Lookup("v"))
}

// completeNames completes the flags that all commands share.
func completeNames(root *cobra.Command, f *cluster.Factory) {
	for name, complete := range map[string]cobra.CompletionFunc{
		"namespace": f.CompleteNamespaces,
		"context":   f.CompleteContexts,
		"cluster":   f.CompleteClusters,
		"user":      f.CompleteUsers,
	} {
		if err := root.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // the flag is not there: a mistake in this package
		}
	}
}
