// SPDX-License-Identifier: Apache-2.0

// Command task-executor runs tasks beside, or inside of, a sandbox's main process, and tells over HTTP how they fare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/enter"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == enter.Command {
		os.Exit(enter.Main()) // a task's process, on its way to its command
	}
	opts, err := parse(os.Args[1:], os.Getenv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // told by the flag set
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err = run(ctx, opts)
	stop()
	if errors.Is(err, errRecycle) {
		os.Exit(taskexecutor.RecycleExitCode)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "task-executor:", err)
		os.Exit(1)
	}
}
