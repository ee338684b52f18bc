// SPDX-License-Identifier: Apache-2.0

// Package dashboard is kubectl sandbox dashboard: pools and batches in a browser, as they change, with the rights of whoever runs it.
//
// What is observed (source.go) becomes a view (pools.go, batches.go, indexes.go, output.go), which is drawn as a whole once
// (render.go), and whose changes are sent to the page after that (view.go, stream.go). Who may see it is in guard.go.
package dashboard

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// tokenBytes is the length of the secret in the address.
const tokenBytes = 32

type options struct {
	port int
	open bool
	all  bool
}

// NewCommand returns the command dashboard.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show pools and batches in a browser, live",
		Long: `Show pools and batches in a browser, live.

The pages are served on 127.0.0.1 until the command is interrupted, and show what your kubeconfig lets you see. They change nothing. The
address has a secret that is another one each time: whoever on this machine knows the address sees the pages.`,
		Example: `  # Print the address of the dashboard of the current namespace
  kubectl sandbox dashboard

  # Open the dashboard of all namespaces in the browser
  kubectl sandbox dashboard -A --open

  # Serve on a port of one's choice, as for a tunnel: ssh -L 8700:127.0.0.1:8700 HOST
  kubectl sandbox dashboard --port 8700`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.port < 0 || o.port > 65535 {
				return cluster.UsageErrorf(cmd, "--port must be between 0 and 65535")
			}
			return run(cmd.Context(), f, streams, o)
		},
	}
	cmd.Flags().IntVar(&o.port, "port", 0, "Port on 127.0.0.1 to serve on. 0 takes one that is free.")
	cmd.Flags().BoolVar(&o.open, "open", false, "If true, open the address in the browser. Other users of this machine may see it for a moment, in the list of processes.")
	cluster.AddAllNamespaces(cmd, &o.all)
	return cmd
}

func run(ctx context.Context, f *cluster.Factory, streams genericiooptions.IOStreams, o options) error {
	c, err := newConfig(f, o)
	if err != nil {
		return err
	}
	s, err := newServer(c)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port)))
	if err != nil {
		return fmt.Errorf("serve on port %d: %w; choose another one with --port, or leave it away", o.port, err)
	}
	where := address(l, c.token)
	fmt.Fprintln(streams.Out, where)
	fmt.Fprintln(streams.ErrOut, "Open this address in a browser on this machine. Press Ctrl-C to stop.")
	if o.open {
		if err := openBrowser(ctx, where); err != nil {
			fmt.Fprintf(streams.ErrOut, "warning: no browser could be opened: %v\n", err)
		}
	}
	return s.serve(ctx, l)
}

func newConfig(f *cluster.Factory, o options) (config, error) {
	c := config{clock: f.Clock(), token: newToken()}
	var err error
	if c.namespace, err = f.NamespaceOrAll(&o.all); err != nil {
		return c, err
	}
	if c.client, err = f.Client(); err != nil {
		return c, err
	}
	rest, err := f.RESTConfig()
	if err != nil {
		return c, err
	}
	c.about = rest.Host
	core, err := f.Core()
	if err != nil {
		return c, err
	}
	c.logs = func(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error) {
		return core.Pods(namespace).GetLogs(pod, options).Stream(ctx)
	}
	return c, nil
}

// newToken returns a secret that may stand in a path.
func newToken() string {
	secret := make([]byte, tokenBytes)
	_, _ = rand.Read(secret) // never fails
	return base64.RawURLEncoding.EncodeToString(secret)
}

// openBrowser opens an address as a desktop does when a link is clicked.
func openBrowser(ctx context.Context, where string) error {
	args := map[string][]string{"darwin": {"open"}, "windows": {"rundll32", "url.dll,FileProtocolHandler"}}[runtime.GOOS]
	if args == nil {
		args = []string{"xdg-open"}
	}
	return exec.CommandContext(ctx, args[0], append(args[1:], where)...).Run() //nolint:gosec // our own address
}
