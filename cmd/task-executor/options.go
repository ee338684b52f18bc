// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/base64"
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
	// Root is the certificate of the controller's root, nil for none, and PodUID the pod whose calls it may prove.
	Root   *x509.Certificate
	PodUID string
	// AllowUnauthenticated serves ListenAddr to everybody where there is no root.
	AllowUnauthenticated bool
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
		"`address` to serve the API on; without $"+taskexecutor.RootCertificateEnv+" only its port counts, and the loopback address is served")
	flags.BoolVar(&opts.AllowUnauthenticated, "allow-unauthenticated", false,
		"serve all of -listen-addr without $"+taskexecutor.RootCertificateEnv+": whoever reaches it can start processes in the sandbox")
	flags.StringVar(&opts.DataDir, "data-dir", "/var/lib/sandbox/tasks", "`directory` for the records and the output of tasks")
	flags.StringVar(&opts.MainContainer, "main-container-name", opts.MainContainer,
		"`name` of the sandbox's container, which has it in its environment as "+sandbox.MainContainerEnv+
			"; needed where a pod has several containers beside the executor's (default $"+sandbox.MainContainerEnv+")")
	mode := (*modeFlag)(&opts.Mode)
	modeErr := mode.Set(getenv(taskexecutor.SidecarModeEnv))
	flags.Var(mode, "enable-sidecar-mode",
		"run tasks in another container of the pod (true), in the executor's own (false), or as the pod is made (auto) (default $"+
			taskexecutor.SidecarModeEnv+", else auto)")
	flags.TextVar(&opts.LogLevel, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	if modeErr != nil {
		modeErr = fmt.Errorf("$%s: %w", taskexecutor.SidecarModeEnv, modeErr)
	}
	if err := errors.Join(modeErr, opts.readRoot(getenv), opts.check(flags.Args())); err != nil {
		fmt.Fprintln(out, "task-executor:", err) // nobody to tell a failed write to
		return Options{}, err
	}
	return opts, nil
}

// readRoot takes over whom to believe. An executor whose root can't be read must not run without.
func (o *Options) readRoot(getenv func(string) string) error {
	encoded := getenv(taskexecutor.RootCertificateEnv)
	if encoded == "" {
		return nil
	}
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("$%s: %w", taskexecutor.RootCertificateEnv, err)
	}
	if o.Root, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("$%s: %w", taskexecutor.RootCertificateEnv, err)
	}
	if o.PodUID = getenv(taskexecutor.PodUIDEnv); o.PodUID == "" {
		return fmt.Errorf("$%s is set, but $%s isn't: set it to metadata.uid of the pod", taskexecutor.RootCertificateEnv, taskexecutor.PodUIDEnv)
	}
	return nil
}

// address is where to listen: without a root on loopback alone, unless that is wanted otherwise in so many words.
func (o Options) address() string {
	host, port, err := net.SplitHostPort(o.ListenAddr)
	if err != nil || o.Root != nil || o.AllowUnauthenticated {
		return o.ListenAddr // check told of the error
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return o.ListenAddr
	}
	return net.JoinHostPort("127.0.0.1", port)
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
