// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/leaderelection"

	"opensandbox.io/controller/internal/utils/tracing"
)

// maxQPS bounds --kube-client-qps, so that twice of it is still a number.
const maxQPS = 1_000_000

// Options are the settings of the controller.
type Options struct {
	// Kubeconfig is the path of a kubeconfig file. Empty: the one of the environment, else the pod's own account.
	Kubeconfig string

	// LeaderElect lets one of several controllers lead; LeaseDuration > RenewDeadline > RetryPeriod time it.
	LeaderElect   bool
	LeaseDuration time.Duration
	RenewDeadline time.Duration
	RetryPeriod   time.Duration

	// MetricsAddress and HealthAddress are host:port; "0" or empty turns them off.
	MetricsAddress string
	HealthAddress  string

	// MetricsSecure serves metrics over TLS, to whom the API server allows to read them. On loopback they are served to all.
	MetricsSecure bool

	// PprofAddress is host:port of profiles; "0" or empty, the default, turns them off. Whoever reaches it may slow the
	// controller down.
	PprofAddress string

	// QPS and Burst limit the calls to the API server; QPS 0 means no limit on this side.
	QPS   float64
	Burst int

	// Concurrency is the number of batches, and of pools, of one namespace that are worked on at once. A quarter more are where
	// several namespaces have something to do.
	Concurrency int

	// WatchNamespaces are the namespaces that are looked after, each once; none means all. No two controllers with Leases of their
	// own may look after the same one. Nodes belong to no namespace: they are watched where the controller has the right to.
	WatchNamespaces []string

	// Namespace is the controller's own, where its Lease is. Empty: the pod's own, else opensandbox-system.
	Namespace string

	// TracingEndpoint is where traces of deliveries are sent, as OTEL_EXPORTER_OTLP_ENDPOINT has it. Empty, the default: there are none.
	TracingEndpoint string

	// TracingRate is how many deliveries of a million are traced.
	TracingRate int

	// Verbosity is 0 for changes of state, 1 for detail.
	Verbosity int
}

// parse reads the command line; usage and mistakes are told on out.
func parse(args []string, out io.Writer) (Options, error) {
	var o Options
	var namespaces string
	flags := flag.NewFlagSet("controller", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "path of a kubeconfig file; default: KUBECONFIG, else the pod's own account")
	flags.BoolVar(&o.LeaderElect, "leader-elect", false, "let one of several controllers lead")
	flags.DurationVar(&o.LeaseDuration, "leader-elect-lease-duration", 15*time.Second, "how long a lost leader keeps others from leading")
	flags.DurationVar(&o.RenewDeadline, "leader-elect-renew-deadline", 10*time.Second, "how long a leader tries to renew its lease before it gives up")
	flags.DurationVar(&o.RetryPeriod, "leader-elect-retry-period", 2*time.Second, "time between two tries to lead or to renew")
	flags.StringVar(&o.MetricsAddress, "metrics-bind-address", ":8443", "host:port of the metrics; 0 turns them off")
	flags.BoolVar(&o.MetricsSecure, "metrics-secure", true, "serve metrics over TLS to those who may get /metrics; not needed on loopback")
	flags.StringVar(&o.HealthAddress, "health-probe-bind-address", ":8081", "host:port of /healthz and /readyz; 0 turns them off")
	flags.StringVar(&o.PprofAddress, "pprof-bind-address", "", "host:port of profiles, for development; default off")
	flags.Float64Var(&o.QPS, "kube-client-qps", 0, "calls a second to the API server; 0 leaves the limit to the API server")
	flags.IntVar(&o.Burst, "kube-client-burst", 0, "calls above --kube-client-qps for a moment; default twice the QPS")
	flags.IntVar(&o.Concurrency, "concurrency", 16, "batches, and pools, of one namespace worked on at once")
	flags.StringVar(&namespaces, "watch-namespaces", "", "comma-separated namespaces to look after; default all; nodes are watched wherever that is permitted")
	flags.StringVar(&o.Namespace, "namespace", "", "the controller's own namespace; default the pod's own, else opensandbox-system")
	flags.StringVar(&o.TracingEndpoint, "tracing-endpoint", os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
		"URL of a receiver of OTLP over HTTP for traces of deliveries, as http://collector:4318; default OTEL_EXPORTER_OTLP_ENDPOINT, else off")
	flags.IntVar(&o.TracingRate, "tracing-sampling-rate-per-million", tracing.MaxRate, "how many deliveries of a million are traced")
	flags.IntVar(&o.Verbosity, "v", 0, "0 logs changes of state, 1 details")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.WatchNamespaces = splitNamespaces(namespaces)
	return o, o.check(flags.Args())
}

// splitNamespaces returns each of the comma-separated names once.
func splitNamespaces(list string) (namespaces []string) {
	for ns := range strings.SplitSeq(list, ",") {
		if ns = strings.TrimSpace(ns); ns != "" && !slices.Contains(namespaces, ns) {
			namespaces = append(namespaces, ns)
		}
	}
	return namespaces
}

// tracing says where traces go.
func (o Options) tracing() tracing.Options {
	host, _ := os.Hostname() // in a pod it is the pod's name, and elsewhere it may as well be unknown
	return tracing.Options{Endpoint: o.TracingEndpoint, Rate: o.TracingRate, Instance: host, Version: version}
}

func (o Options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q: see --help", rest[0])
	case o.Concurrency < 1:
		return errors.New("--concurrency must be at least 1")
	case math.IsNaN(o.QPS) || o.QPS < 0 || o.QPS > maxQPS || o.Burst < 0:
		return fmt.Errorf("--kube-client-qps must be from 0 to %d, and --kube-client-burst 0 or more", maxQPS)
	case o.RetryPeriod <= 0:
		return errors.New("--leader-elect-retry-period must exceed 0")
	case o.LeaseDuration <= o.RenewDeadline || float64(o.RenewDeadline) <= leaderelection.JitterFactor*float64(o.RetryPeriod):
		return fmt.Errorf("--leader-elect-lease-duration must exceed --leader-elect-renew-deadline, and that %v times --leader-elect-retry-period",
			leaderelection.JitterFactor)
	}
	if err := o.tracing().Check(); err != nil {
		return fmt.Errorf("--tracing-endpoint, --tracing-sampling-rate-per-million: %w", err)
	}
	return checkNamespaces(o.WatchNamespaces)
}

func checkNamespaces(namespaces []string) error {
	for _, ns := range namespaces {
		if problems := validation.IsDNS1123Label(ns); len(problems) > 0 {
			return fmt.Errorf("--watch-namespaces: %q is no name of a namespace: %s", ns, strings.Join(problems, "; "))
		}
	}
	return nil
}
