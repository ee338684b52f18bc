// SPDX-License-Identifier: Apache-2.0

package command

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/dashboard"
)

// builder makes one subcommand. Every package of a subcommand has one: NewCommand, or several with more in their names.
type builder func(*cluster.Factory, genericiooptions.IOStreams) *cobra.Command

// group are subcommands that the help shows together.
type group struct {
	title    string
	builders []builder
}

// groups are all subcommands, in the order the help shows them.
func groups() []group {
	return []group{
		{"Commands that run:", []builder{}},
		{"Commands that show:", []builder{dashboard.NewCommand}},
		{"Commands that change:", []builder{}},
	}
}
