// SPDX-License-Identifier: Apache-2.0

package command

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/audit"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/dashboard"
	"opensandbox.io/controller/internal/kubectl/exec"
	"opensandbox.io/controller/internal/kubectl/explain"
	"opensandbox.io/controller/internal/kubectl/extend"
	"opensandbox.io/controller/internal/kubectl/logs"
	"opensandbox.io/controller/internal/kubectl/overview"
	"opensandbox.io/controller/internal/kubectl/queue"
	"opensandbox.io/controller/internal/kubectl/results"
	"opensandbox.io/controller/internal/kubectl/run"
	"opensandbox.io/controller/internal/kubectl/scale"
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
		{"Commands that run:", []builder{
			run.NewCommand,
			logs.NewCommand,
			exec.NewCommand,
			results.NewCommand,
		}},
		{"Commands that show:", []builder{
			overview.NewGet,
			overview.NewTop,
			queue.NewCommand,
			explain.NewCommand,
			audit.NewCommand,

			dashboard.NewCommand,
		}},
		{"Commands that change:", []builder{
			scale.NewCommand,
			extend.NewCommand,
		}},
	}
}
