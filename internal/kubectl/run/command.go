// SPDX-License-Identifier: Apache-2.0

// Package run is kubectl sandbox run: a command in sandboxes, from their making to the exit code.
package run

import (
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// defaultTTL is when the controller deletes a batch that its runner didn't, as when it was killed.
const defaultTTL = 10 * time.Minute

const long = `Run a command in one or more sandboxes, and wait for it.

A BatchSandbox is made whose task is COMMAND, with sandboxes from a pool (--pool) or with pods of their own (--image). What the tasks write is
shown as they write it, with "[INDEX] " before each line where there are several; a last line without an end gets one. What the command waits for is told on stderr.

The exit code is that of the task. Of several tasks it is 0 if all succeeded, else that of the failed one with the lowest index; 1 where there is no exit code, as
when the sandbox was lost.

The batch is deleted at the end, and when this command is interrupted: with it end the tasks. A second interrupt leaves at once; then the batch is
deleted after --ttl, if its tasks end. With --keep the batch stays in both cases.

COMMAND is not run in a shell. Its environment has JOB_COMPLETION_INDEX, the index of its sandbox, from 0 to --replicas less 1. With --image the image needs the command sleep, for the sandbox to stay up.

It needs the rights to create, get, watch and delete batchsandboxes, and to get pods/log; with --image to list pods, too.`

const examples = `  # Print hi from a sandbox of the pool small
  kubectl sandbox run --pool small -- echo hi

  # Run a script in ten sandboxes at once, each for at most a minute
  kubectl sandbox run --pool small --replicas 10 --timeout 1m -- sh -c 'echo $JOB_COMPLETION_INDEX on $(hostname)'

  # Run in a pod of its own, with a variable and a working directory
  kubectl sandbox run --image python:3.13 --env GREETING=hi --workdir /tmp -- python3 -c 'import os; print(os.environ["GREETING"])'

  # Keep the batch, and look at it afterwards
  kubectl sandbox run build --pool small --keep -- make all
  kubectl sandbox results build`

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	o := &options{factory: f, streams: streams, settings: settings{replicas: 1}}
	cmd := &cobra.Command{
		Use:                   "run [NAME] (--pool=POOL | --image=IMAGE) [--replicas=N] [--timeout=DURATION] [--env=\"NAME=VALUE\"] -- COMMAND [args...]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command in sandboxes, show its output, and end with its exit code",
		Long:                  long,
		Example:               examples,
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.complete(cmd, args); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.pool, "pool", "", "Take the sandboxes from this pool of the namespace.")
	flags.StringVar(&o.image, "image", "", "Run in pods of their own whose sandbox container has this image.")
	flags.StringVar(&o.executorImage, "executor-image", "", "The image of the task-executor that goes beside it (default "+executorRepository+" of this release).")
	flags.Int32Var(&o.replicas, "replicas", o.replicas, "Number of sandboxes; the command runs in each.")
	flags.DurationVar(&o.timeout, "timeout", 0, "Stop and fail a task that runs for longer. 0 is no limit.")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "Environment variable of the task, NAME=VALUE. May be given several times.")
	flags.StringVar(&o.workdir, "workdir", "", "Working directory of the task (default that of the sandbox's main process).")
	flags.BoolVar(&o.keep, "keep", false, "Keep the batch at the end, and when interrupted.")
	flags.Int32Var(&o.priority, "priority", 0, "Place in the pool's queue: higher first, then oldest first.")
	flags.DurationVar(&o.ttl, "ttl", defaultTTL, "Have the controller delete the batch this long after its tasks ended, if it is still there. With --keep the default is never.")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Don't tell what the command waits for.")
	flags.IntVar(&o.atOnce, "max-log-requests", defaultAtOnce, "How many tasks to show the output of at the same time. The output of the others is shown as these end.")
	if err := cmd.RegisterFlagCompletionFunc("pool", f.CompletePools); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

// complete takes over arguments and what the defaults of flags depend on.
func (o *options) complete(cmd *cobra.Command, args []string) error {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		if len(args) > 1 {
			return cluster.UsageErrorf(cmd, "the command goes after --, as in: -- %s", args[len(args)-1])
		}
		dash = len(args)
	}
	if dash > 1 {
		return cluster.UsageErrorf(cmd, "there is one NAME before --, not %d", dash)
	}
	if dash == 1 {
		o.name = args[0]
	}
	o.command = args[dash:]
	if o.keep && !cmd.Flag("ttl").Changed {
		o.ttl = -1
	} else if o.ttl < 0 {
		return cluster.UsageErrorf(cmd, "--ttl=%s: must not be negative", o.ttl)
	}
	if o.executorImage == "" {
		o.executorImage = executorImage(cmd.Root().Version)
	}
	if o.atOnce < 1 {
		return cluster.UsageErrorf(cmd, "--max-log-requests=%d: must be at least 1", o.atOnce)
	}
	namespace, err := o.factory.Namespace()
	if err != nil {
		return err
	}
	if o.batch, err = o.settings.batch(namespace); err != nil {
		return cluster.UsageErrorf(cmd, "%v", err)
	}
	return nil
}
