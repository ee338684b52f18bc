// SPDX-License-Identifier: Apache-2.0

// Command localcluster runs a real Kubernetes on this machine, without a container engine: etcd, the control plane
// and either one real node (kubelet, containerd, runc) or simulated ones (kwok), all built from Go modules.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `usage: localcluster COMMAND [flags]

  up           start a cluster and wait until it is ready (--cluster=node|kwok|kind, --name, --nodes, --pod-cidr)
  down         stop a cluster and remove everything it made (--name, --all)
  kubeconfig   print the path of a running cluster's kubeconfig (--name)
  assets       build what is missing into the cache and print the folder of the binaries (--cluster)
  images       write the project's images as loadable tarballs (--out, --bin)
  push         put the project's images where the cluster's node finds them (--name, --bin)
  exec         run a command inside the node's namespaces (--name, -- COMMAND)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	var exit exitError
	if errors.As(err, &exit) {
		os.Exit(int(exit))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "localcluster:", err)
		os.Exit(1)
	}
}

// exitError is the exit code of a command that ran on the user's behalf and told its trouble by itself.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

type command func(ctx context.Context, args []string) error

func run(ctx context.Context, args []string) error {
	commands := map[string]command{
		"up":             runUp,
		"down":           runDown,
		"kubeconfig":     runKubeconfig,
		"assets":         runAssets,
		"images":         runImages,
		"push":           runPush,
		"exec":           runExec,
		"supervise":      runSupervise,     // internal: parent of a cluster's processes
		"serve-registry": runServeRegistry, // internal: a part of the node cluster
	}
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	cmd, ok := commands[args[0]]
	if !ok {
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("unknown command %q", args[0])
	}
	return cmd(ctx, args[1:])
}

// newFlags returns a flag set that reports its errors instead of exiting.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	return fs
}

// parseFlags parses args and refuses what is left over.
func parseFlags(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return flag.ErrHelp
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: unexpected arguments: %s", fs.Name(), strings.Join(fs.Args(), " "))
	}
	return nil
}

func runKubeconfig(_ context.Context, args []string) error {
	fs := newFlags("kubeconfig")
	name := fs.String("name", defaultName, "name of the cluster")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	cl, err := openCluster(*name)
	if err != nil {
		return err
	}
	st, err := cl.load()
	if err != nil {
		return err
	}
	if st == nil || !st.Ready || !st.alive() {
		return fmt.Errorf("cluster %q is not up: start it with `make cluster-up`", *name)
	}
	_, err = fmt.Fprintln(os.Stdout, cl.kubeconfig())
	return err
}

func runAssets(ctx context.Context, args []string) error {
	fs := newFlags("assets")
	kind := fs.String("cluster", kindKwok, "node or kwok: whose binaries to build")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	lay, err := findLayout()
	if err != nil {
		return err
	}
	dir, err := lay.assets(ctx, *kind, newProgress(os.Stderr))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, dir)
	return err
}

// closeInto closes c and keeps its error if there is no earlier one.
func closeInto(c io.Closer, err *error) {
	if closeErr := c.Close(); *err == nil {
		*err = closeErr
	}
}
