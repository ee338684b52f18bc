// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// usage is what kubectl's help has, in its order: examples, commands by group, options, and the line of usage.
const usage = `{{if .HasExample}}Examples:
{{.Example}}

{{end}}{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{range $group := .Groups}}{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}   {{.Short}}{{end}}{{end}}

{{end}}Other Commands:{{range $cmds}}{{if and (eq .GroupID "") .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}   {{.Short}}{{end}}{{end}}

{{end}}{{with options .}}Options:
{{.}}
{{end}}Usage:
  {{usageLine .}}
{{if .HasAvailableSubCommands}}
Use "{{.CommandPath}} <command> --help" for more information about a given command.{{end}}
Use "{{.Root.CommandPath}} options" for a list of global command-line options (applies to all commands).
`

// useKubectlHelp makes the help of a command and its subcommands read like kubectl's.
func useKubectlHelp(root *cobra.Command) {
	cobra.AddTemplateFunc("options", localOptions)
	cobra.AddTemplateFunc("usageLine", usageLine)
	root.SetUsageTemplate(usage)
	root.SetHelpTemplate("{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}\n\n{{end}}{{.UsageString}}")
	cobra.EnableCommandSorting = false
}

// localOptions are the flags of a command itself, but for the one for help, which is everywhere.
func localOptions(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return ""
	}
	if help := cmd.Flags().Lookup("help"); help != nil {
		help.Hidden = true
	}
	return cmd.NonInheritedFlags().FlagUsagesWrapped(120)
}

// usageLine ends with [options], as kubectl's does.
func usageLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " [flags] [options]"
	}
	return strings.TrimSuffix(cmd.UseLine(), " [flags]") + " [options]"
}

// newOptions returns the command that lists the flags of all commands.
func newOptions(streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "Print the list of flags inherited by all commands",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(streams.Out, "The following options can be passed to any command:")
			fmt.Fprintln(streams.Out)
			fmt.Fprint(streams.Out, cmd.InheritedFlags().FlagUsagesWrapped(120))
		},
	}
}
