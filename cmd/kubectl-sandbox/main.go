// SPDX-License-Identifier: Apache-2.0

// Command kubectl-sandbox is the kubectl plugin for BatchSandboxes and Pools: kubectl sandbox.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/command"
)

// version is set at build time.
var version = "dev"

func main() {
	// The first signal asks the command to end, the second one ends it.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, stop)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	os.Exit(command.Run(ctx, version, os.Args, streams))
}
