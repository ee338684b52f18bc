// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/internal/uninstall"
)

// uninstallOptions are the settings of `controller uninstall`, which the chart runs before and after it removes a controller.
type uninstallOptions struct {
	Options

	// After says that the controller was removed; else it is about to be.
	After bool

	// Policy says what happens to the batches and pools that are there.
	Policy uninstall.Policy

	// Timeout bounds how long all of it may take.
	Timeout time.Duration
}

// parseUninstall reads the command line after the word uninstall; usage and mistakes are told on out.
func parseUninstall(args []string, out io.Writer) (uninstallOptions, error) {
	var o uninstallOptions
	var namespaces, policy string
	flags := flag.NewFlagSet("controller uninstall", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "path of a kubeconfig file; default: KUBECONFIG, else the pod's own account")
	flags.BoolVar(&o.After, "after", false, "the controller was removed: wait until it has ended, and delete its Lease and its Secret")
	flags.StringVar(&policy, "policy", string(uninstall.Refuse), "what to do when there are batches or pools: Refuse, or Delete them")
	flags.StringVar(&namespaces, "watch-namespaces", "", "comma-separated namespaces that the controller looks after; default all")
	flags.StringVar(&o.Namespace, "namespace", "", "the controller's own namespace; default the pod's own, else opensandbox-system")
	flags.DurationVar(&o.Timeout, "timeout", 4*time.Minute, "how long all of it may take")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.WatchNamespaces = splitNamespaces(namespaces)
	o.Policy = uninstall.Policy(policy)
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q: see --help", flags.Arg(0))
	case o.Policy != uninstall.Refuse && o.Policy != uninstall.Delete:
		return o, fmt.Errorf("--policy must be %s or %s", uninstall.Refuse, uninstall.Delete)
	case o.Timeout <= 0:
		return o, errors.New("--timeout must exceed 0")
	}
	return o, checkNamespaces(o.WatchNamespaces)
}

// runUninstall does one of the two steps.
func runUninstall(ctx context.Context, o uninstallOptions) error {
	ctrl.SetLogger(klog.Background())
	config, err := restConfig(o.Options)
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return fmt.Errorf("make the client: %w", err)
	}
	options := uninstall.Options{
		Client: c, Policy: o.Policy, WatchNamespaces: o.WatchNamespaces, Namespace: ownNamespace(o.Options), Timeout: o.Timeout,
	}
	if o.After {
		return uninstall.After(ctx, options)
	}
	return uninstall.Before(ctx, options)
}
