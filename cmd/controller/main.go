// SPDX-License-Identifier: Apache-2.0

// Command controller runs the BatchSandbox and Pool controllers. `controller uninstall` is what the Helm chart runs before and
// after it removes them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"
)

// version is set at build time.
var version = "dev"

func main() {
	err := start(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

// start does what the command line asks for.
func start(args []string) error {
	if len(args) > 0 && args[0] == "uninstall" {
		opts, err := parseUninstall(args[1:], os.Stderr)
		if err != nil {
			return err
		}
		return runUninstall(ctrl.SetupSignalHandler(), opts)
	}
	opts, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return run(ctrl.SetupSignalHandler(), opts)
}
