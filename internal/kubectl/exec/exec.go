// SPDX-License-Identifier: Apache-2.0

// Package exec is kubectl sandbox exec: a command in the container of one sandbox.
package exec

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/tasks"
)

const long = `Execute a command in a sandbox: in the sandbox's container of the pod that is one index of a batch.

The exit code is that of the command. It needs the right to create pods/exec, as kubectl exec does.`

const examples = `  # List files in the first sandbox of the batch web
  kubectl sandbox exec web -- ls /

  # Open a shell in the fourth one
  kubectl sandbox exec web --index 3 -it -- sh

  # Copy a file into a sandbox
  kubectl sandbox exec web -i -- sh -c 'cat > /tmp/data' < data`

// options are what one call has to go by.
type options struct {
	name       string
	index      int
	container  string
	stdin, tty bool
	command    []string

	factory *cluster.Factory
	streams genericiooptions.IOStreams
}

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	o := &options{factory: f, streams: streams}
	cmd := &cobra.Command{
		Use:                   "exec NAME [--index=N] [-c CONTAINER] [-it] -- COMMAND [args...]",
		DisableFlagsInUseLine: true,
		Short:                 "Execute a command in one sandbox of a batch",
		Long:                  long,
		Example:               examples,
		ValidArgsFunction:     f.OneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.complete(cmd, args); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.index, "index", 0, "Index of the sandbox in its batch.")
	flags.StringVarP(&o.container, "container", "c", "", "Container name (default that of the sandbox).")
	flags.BoolVarP(&o.stdin, "stdin", "i", false, "Pass stdin to the container")
	flags.BoolVarP(&o.tty, "tty", "t", false, "Stdin is a TTY")
	return cmd
}

func (o *options) complete(cmd *cobra.Command, args []string) error {
	switch dash := cmd.ArgsLenAtDash(); {
	case len(args) == 0 || dash == 0:
		return cluster.UsageErrorf(cmd, "NAME is missing: name the batch")
	case dash != 1:
		return cluster.UsageErrorf(cmd, "the command goes after --, as in: exec %s -- ls", args[0])
	case len(args) < 2:
		return cluster.UsageErrorf(cmd, "COMMAND is missing: give it after --")
	case o.index < 0:
		return cluster.UsageErrorf(cmd, "--index=%d: must be at least 0", o.index)
	}
	o.name, o.command = args[0], args[1:]
	return nil
}

func (o *options) run(ctx context.Context) error {
	pod, err := o.pod(ctx)
	if err != nil {
		return err
	}
	container, err := o.containerOf(pod)
	if err != nil {
		return err
	}
	terminal := newTerminal(o.streams, o.stdin, o.tty)
	if o.tty && !terminal.raw {
		fmt.Fprintln(o.streams.ErrOut, "Unable to use a TTY - input is not a terminal or the right kind of file")
	}
	executor, err := o.executor(pod, container, terminal)
	if err != nil {
		return err
	}
	err = terminal.with(func(sizes remotecommand.TerminalSizeQueue) error {
		options := remotecommand.StreamOptions{Stdin: terminal.in, Stdout: o.streams.Out, Tty: terminal.raw, TerminalSizeQueue: sizes}
		if !terminal.raw {
			options.Stderr = o.streams.ErrOut
		}
		return executor.StreamWithContext(ctx, options)
	})
	if ctx.Err() != nil {
		return &cluster.ExitError{Code: cluster.ExitInterrupted}
	}
	return exitOf(err)
}

// exitOf passes the exit code of the command on, with kubectl's words.
func exitOf(err error) error {
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &cluster.ExitError{Code: exit.ExitStatus(), Err: cluster.Plain(fmt.Sprintf("command terminated with exit code %d", exit.ExitStatus()))}
	}
	return err
}

// pod returns the pod of the index, or says why there is none.
func (o *options) pod(ctx context.Context) (*corev1.Pod, error) {
	namespace, c, err := o.factory.NamespaceAndClient()
	if err != nil {
		return nil, err
	}
	sb, err := cluster.Batch(ctx, c, namespace, o.name)
	if err != nil {
		return nil, err
	}
	if o.index >= cluster.Replicas(sb) {
		return nil, cluster.IndexError(sb, o.index)
	}
	pod, err := cluster.Pod(ctx, c, sb, o.index)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, noPod(sb, o.index)
	}
	return pod, nil
}

// noPod says why an index has no sandbox: it was given back, or what the batch waits for.
func noPod(sb *v1alpha1.BatchSandbox, index int) error {
	for _, t := range tasks.Of(sb) {
		if t.Index == index && (t.State == tasks.Succeeded || t.State == tasks.Failed) {
			return fmt.Errorf("index %d of batchsandbox %s has no sandbox any more: its task ended (see kubectl sandbox results %s)", index, sb.Name, sb.Name)
		}
	}
	return fmt.Errorf("index %d of batchsandbox %s has no sandbox yet: %s (see kubectl sandbox explain %s)", index, sb.Name, tasks.Progress(sb), sb.Name)
}

// containerOf returns the container to enter, which must be there.
func (o *options) containerOf(pod *corev1.Pod) (string, error) {
	container := o.container
	if container == "" {
		container = cluster.SandboxContainer(pod)
	}
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return "", fmt.Errorf("cannot exec into a container in a completed pod; current phase of pod %s is %s", pod.Name, pod.Status.Phase)
	case corev1.PodPending:
		return "", fmt.Errorf("pod %s of index %d has not started yet: see kubectl sandbox explain %s", pod.Name, o.index, o.name)
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container {
			return container, nil
		}
	}
	return "", fmt.Errorf("pod %s has no container %s: it has %s", pod.Name, container, containerNames(pod))
}

func containerNames(pod *corev1.Pod) string {
	names := ""
	for i := range pod.Spec.Containers {
		if i > 0 {
			names += ", "
		}
		names += pod.Spec.Containers[i].Name
	}
	return names
}

// executor connects as kubectl does: over WebSocket, or over SPDY with API servers and proxies that don't know that.
func (o *options) executor(pod *corev1.Pod, container string, t *terminal) (remotecommand.Executor, error) {
	config, err := o.factory.RESTConfig()
	if err != nil {
		return nil, err
	}
	core, err := o.factory.Core()
	if err != nil {
		return nil, err
	}
	at := execURL(core, pod, &corev1.PodExecOptions{
		Container: container, Command: o.command, Stdin: t.in != nil, Stdout: true, Stderr: !t.raw, TTY: t.raw,
	})
	return connect(config, at)
}

func execURL(core corev1client.CoreV1Interface, pod *corev1.Pod, options *corev1.PodExecOptions) *url.URL {
	return core.RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
}

func connect(config *rest.Config, at *url.URL) (remotecommand.Executor, error) {
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", at)
	if err != nil {
		return nil, err
	}
	socket, err := remotecommand.NewWebSocketExecutor(config, "GET", at.String())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}
