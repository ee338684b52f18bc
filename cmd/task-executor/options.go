// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"

	"opensandbox.io/controller/internal/task-executor/sandbox"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// Options are what flags and environment say.
type Options struct {
	// ListenAddr is the address the API is served on.
	ListenAddr string
	// DataDir holds the records of tasks and their output.
	DataDir string
	// MainContainer is the name of the sandbox's container, for pods that have several.
	MainContainer string
	// InPod says that the executor runs in a pod of Kubernetes, whose containers it may have restarted.
	InPod bool
	// Mode says where tasks run.
	Mode sandbox.Mode
	// LogLevel is the least level that is logged.
	LogLevel slog.Level
}

// serviceEnv is in the environment of every container of a pod.
const serviceEnv = "KUBERNETES_SERVICE_HOST"

// parse reads the flags args, with the environment as default where a flag has one. What is wrong is told on out.
func parse(args []string, getenv func(string) string, out io.Writer) (Options, error) {
	opts := Options{MainContainer: getenv(sandbox.MainContainerEnv), InPod: getenv(serviceEnv) != ""}
	flags := flag.NewFlagSet("task-executor", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&opts.ListenAddr, "listen-addr", fmt.Sprintf("0.0.0.0:%d", taskexecutor.DefaultPort),
		"`address` to serve the API on; whoever reaches it can start processes in the sandbox")
	flags.StringVar(&opts.DataDir, "data-dir", "/var/lib/sandbox/tasks", "`directory` for the records and the output of tasks")
	flags.StringVar(&opts.MainContainer, "main-container-name", opts.MainContainer,
		"`name` of the sandbox's container, which has it in its environment as "+sandbox.MainContainerEnv+
			"; needed where a pod has several containers beside the executor's (default $"+sandbox.MainContainerEnv+")")
	flags.Var((*modeFlag)(&opts.Mode), "enable-sidecar-mode",
		"run tasks in another container of the pod (true), in the executor's own (false), or as the pod is made (auto)")
	flags.TextVar(&opts.LogLevel, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	if err := opts.check(flags.Args()); err != nil {
		fmt.Fprintln(out, "task-executor:", err) // nobody to tell a failed write to
		return Options{}, err
	}
	return opts, nil
}

func (o Options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q: only flags are taken", rest[0])
	}
	if _, _, err := net.SplitHostPort(o.ListenAddr); err != nil {
		return fmt.Errorf("-listen-addr: %w; give host:port", err)
	}
	if o.DataDir == "" {
		return errors.New("-data-dir must name a directory")
	}
	return nil
}

// modeFlag is a boolean flag with a third value.
type modeFlag sandbox.Mode

// IsBoolFlag lets the flag stand without a value.
func (*modeFlag) IsBoolFlag() bool { return true }

// String implements flag.Value.
func (m *modeFlag) String() string {
	switch sandbox.Mode(*m) {
	case sandbox.Sidecar:
		return "true"
	case sandbox.Own:
		return "false"
	default:
		return "auto"
	}
}

// Set implements flag.Value.
func (m *modeFlag) Set(value string) error {
	if value == "auto" || value == "" {
		*m = modeFlag(sandbox.Auto)
		return nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return errors.New("must be true, false or auto")
	}
	*m = modeFlag(sandbox.Own)
	if on {
		*m = modeFlag(sandbox.Sidecar)
	}
	return nil
}
