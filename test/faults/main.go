// SPDX-License-Identifier: Apache-2.0

// Command faults breaks everything around two controllers on a simulated cluster, for a while, and has an independent auditor
// judge what became of it: `make faults FOR=10m SEED=1`. CONTRIBUTING.md says how to read a finding.
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
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := start(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) error {
	ctrl.SetLogger(logr.Discard()) // what goes wrong is returned
	klog.SetLogger(logr.Discard())
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	if o.Judge != "" {
		return judgeAgain(o.Judge)
	}
	err = run(ctx, o)
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted"), err)
	}
	return err
}
