// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"

	"opensandbox.io/controller/api/v1alpha1"
)

func defaults() Options {
	return Options{
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		MetricsAddress: ":8443", MetricsSecure: true, HealthAddress: ":8081", Concurrency: 16,
		TracingRate: 1_000_000,
	}
}

func TestParse(t *testing.T) {
	cases := map[string]struct {
		args   []string
		change func(*Options)
	}{
		"nothing gives the defaults": {nil, func(*Options) {}},
		"every flag of the contract is taken": {
			[]string{
				"--kubeconfig=/kube/config", "--leader-elect", "--metrics-bind-address=:1", "--health-probe-bind-address=:2",
				"--kube-client-qps=2.5", "--kube-client-burst=7", "--concurrency=3", "--watch-namespaces=a,b", "--namespace=own",
				"--leader-elect-lease-duration=30s", "--leader-elect-renew-deadline=20s", "--leader-elect-retry-period=5s", "--metrics-secure=false", "-v=1",
				"--tracing-endpoint=http://collector:4318", "--tracing-sampling-rate-per-million=100",
			},
			func(o *Options) {
				*o = Options{
					Kubeconfig: "/kube/config", LeaderElect: true, MetricsAddress: ":1", HealthAddress: ":2", QPS: 2.5, Burst: 7, Concurrency: 3,
					WatchNamespaces: []string{"a", "b"}, Namespace: "own", Verbosity: 1,
					LeaseDuration: 30 * time.Second, RenewDeadline: 20 * time.Second, RetryPeriod: 5 * time.Second,
					TracingEndpoint: "http://collector:4318", TracingRate: 100,
				}
			},
		},
		"blanks, empty entries and repeated namespaces are dropped": {
			[]string{"--watch-namespaces", " a, ,b ,a"}, func(o *Options) { o.WatchNamespaces = []string{"a", "b"} },
		},
		"no namespaces means all": {[]string{"--watch-namespaces="}, func(*Options) {}},
		"0 turns addresses off": {
			[]string{"--metrics-bind-address=0", "--health-probe-bind-address="},
			func(o *Options) { o.MetricsAddress, o.HealthAddress = "0", "" },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			want := defaults()
			c.change(&want)
			got, err := parse(c.args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheEnvironmentSaysWhereTracesGoUnlessAFlagDoes(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
	for want, args := range map[string][]string{"http://collector:4318": nil, "http://other:4318": {"--tracing-endpoint=http://other:4318"}, "": {"--tracing-endpoint="}} {
		if o, err := parse(args, io.Discard); err != nil || o.TracingEndpoint != want {
			t.Errorf("parse(%q) sends traces to %q (%v), want %q", args, o.TracingEndpoint, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]struct {
		args []string
		want string // in the error
	}{
		"an argument without a flag":                    {[]string{"serve"}, `"serve"`},
		"an unknown flag":                               {[]string{"--qps=1"}, "-qps"},
		"no workers":                                    {[]string{"--concurrency=0"}, "--concurrency"},
		"a negative QPS":                                {[]string{"--kube-client-qps=-1"}, "--kube-client-qps"},
		"a QPS that is no number":                       {[]string{"--kube-client-qps=NaN"}, "--kube-client-qps"},
		"an endless QPS":                                {[]string{"--kube-client-qps=Inf"}, "--kube-client-qps"},
		"a negative burst":                              {[]string{"--kube-client-burst=-1"}, "--kube-client-burst"},
		"a lease that ends with its renewal":            {[]string{"--leader-elect-lease-duration=10s"}, "--leader-elect-lease-duration"},
		"a renewal that is over before its second try":  {[]string{"--leader-elect-retry-period=10s"}, "--leader-elect-renew-deadline"},
		"a renewal without room for the retries jitter": {[]string{"--leader-elect-retry-period=9s"}, "--leader-elect-renew-deadline"},
		"tries without a pause":                         {[]string{"--leader-elect-retry-period=0s"}, "--leader-elect-retry-period"},
		"a namespace with a path in it":                 {[]string{"--watch-namespaces=a,../b"}, `"../b"`},
		"traces by gRPC":                                {[]string{"--tracing-endpoint=collector:4317"}, "http://collector.monitoring:4318"},
		"more traces than there are deliveries":         {[]string{"--tracing-sampling-rate-per-million=1000001"}, "--tracing-sampling-rate-per-million"},
		"a duration without a unit":                     {[]string{"--leader-elect-retry-period=2"}, "leader-elect-retry-period"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(c.args, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("parse(%q): %v, want an error about %s", c.args, err, c.want)
			}
		})
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("err = %v, want flag.ErrHelp", err)
	}
	for _, name := range []string{
		"kubeconfig", "leader-elect", "metrics-bind-address", "health-probe-bind-address", "kube-client-qps", "kube-client-burst",
		"metrics-secure", "concurrency", "watch-namespaces", "namespace", "leader-elect-lease-duration", "leader-elect-renew-deadline", "leader-elect-retry-period",
		"tracing-endpoint", "tracing-sampling-rate-per-million",
	} {
		if !strings.Contains(out.String(), "-"+name) {
			t.Errorf("--help says nothing of --%s", name)
		}
	}
}

func TestManagerOptions(t *testing.T) {
	o := defaults()
	o.WatchNamespaces, o.Namespace, o.MetricsAddress = []string{"a", "b"}, "own", ""
	got := managerOptions(o, klog.Background())
	if len(got.Cache.DefaultNamespaces) != 2 || got.Metrics.BindAddress != "0" || got.HealthProbeBindAddress != ":8081" {
		t.Errorf("namespaces %v, metrics at %q, health at %q", got.Cache.DefaultNamespaces, got.Metrics.BindAddress, got.HealthProbeBindAddress)
	}
	if got.LeaderElection || got.LeaderElectionNamespace != "own" || got.LeaderElectionID != "2fa1c467.opensandbox.io" {
		t.Errorf("election: %v in %q as %q", got.LeaderElection, got.LeaderElectionNamespace, got.LeaderElectionID)
	}
	for _, obj := range []runtime.Object{&v1alpha1.BatchSandbox{}, &v1alpha1.Pool{}, &corev1.Pod{}} {
		if _, _, err := got.Scheme.ObjectKinds(obj); err != nil {
			t.Errorf("the scheme doesn't know %T: %v", obj, err)
		}
	}
}

func TestMetricsAreGuardedUnlessOnLoopbackOrNotWanted(t *testing.T) {
	cases := map[string]struct {
		address string
		secure  bool
		want    bool
	}{
		"on all addresses":                  {":8443", true, true},
		"on one of this machine":            {"192.0.2.1:8443", true, true},
		"on a name":                         {"metrics.example.com:8443", true, true},
		"on a name that begins like a loop": {"127.example.com:8443", true, true},
		"guarding is turned off":            {":8443", false, false},
		"on loopback":                       {"127.0.0.1:8080", true, false},
		"on loopback, another address":      {"127.9.8.7:8080", true, false},
		"on loopback of IPv6":               {"[::1]:8080", true, false},
		"on localhost":                      {"localhost:8080", true, false},
		"what can't be read is guarded":     {"127.0.0.1", true, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := metricsOptions(Options{MetricsAddress: c.address, MetricsSecure: c.secure})
			if got.BindAddress != c.address || got.SecureServing != c.want || (got.FilterProvider != nil) != c.want {
				t.Errorf("at %s, TLS %t, guarded %t, want %t", got.BindAddress, got.SecureServing, got.FilterProvider != nil, c.want)
			}
		})
	}
}

func TestSlimPodKeepsWhatTheControllersRead(t *testing.T) {
	pod := func(labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: "p", Labels: labels, Annotations: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
			},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{ // the ledger reads the root from there
				Name: v1alpha1.TaskExecutorContainer, Env: []corev1.EnvVar{{Name: "SANDBOX_CONTROLLER_ROOT", Value: "r"}},
			}}},
			Status: corev1.PodStatus{PodIP: "10.0.0.1"},
		}
	}
	cases := map[string]struct {
		labels map[string]string
		keeps  bool
	}{
		"a pod of a pool is kept":                  {map[string]string{v1alpha1.PoolNameLabel: "p"}, true},
		"a pod of a batch is kept":                 {map[string]string{v1alpha1.BatchNameLabel: "b"}, true},
		"of a foreign pod only the identity stays": {map[string]string{"app": "x"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			obj, err := slimPod(pod(c.labels))
			if err != nil {
				t.Fatal(err)
			}
			want := pod(c.labels)
			want.ManagedFields = nil
			if !c.keeps {
				want.Annotations, want.Spec, want.Status = nil, corev1.PodSpec{}, corev1.PodStatus{}
			}
			if diff := cmp.Diff(want, obj); diff != "" {
				t.Errorf("pod (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRestConfigLimitsCallsOnlyWhenAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	config := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}]}`
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		qps       float64
		burst     int
		wantQPS   float32
		wantBurst int
	}{
		"QPS 0 leaves the limit to the API server": {0, 0, -1, 0},
		"a burst of 0 becomes twice the QPS":       {20, 0, 20, 41},
		"both are taken as they are":               {20, 30, 20, 30},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := restConfig(Options{Kubeconfig: path, QPS: c.qps, Burst: c.burst})
			if err != nil {
				t.Fatal(err)
			}
			if got.QPS != c.wantQPS || got.Burst != c.wantBurst {
				t.Errorf("QPS %v and burst %d, want %v and %d", got.QPS, got.Burst, c.wantQPS, c.wantBurst)
			}
		})
	}
	if _, err := restConfig(Options{Kubeconfig: path + ".missing"}); err == nil {
		t.Error("a missing kubeconfig is taken")
	}
}
