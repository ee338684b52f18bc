// SPDX-License-Identifier: Apache-2.0

// Command bench measures the controller on a simulated cluster, as a client sees it: `make bench`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"opensandbox.io/controller/test/bench/internal/executors"
)

// serveExecutors is the first argument of the process that serves the executors of all simulated pods.
const serveExecutors = "serve-executors"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := start(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) error {
	ctrl.SetLogger(logr.Discard())                   // what goes wrong is returned
	if len(args) == 3 && args[0] == serveExecutors { // the kubeconfig, the namespace
		return executors.Serve(ctx, args[1], args[2], os.Stdin, os.Stdout)
	}
	opts, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return run(ctx, opts)
}
