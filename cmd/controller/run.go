// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/controller/batchsandbox"
	"opensandbox.io/controller/internal/controller/keyring"
	"opensandbox.io/controller/internal/controller/node"
	"opensandbox.io/controller/internal/controller/pool"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/apiwrites"
	"opensandbox.io/controller/internal/utils/executorcalls"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/internal/utils/metricsguard"
	"opensandbox.io/controller/internal/utils/trigger"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const (
	defaultNamespace = "opensandbox-system"
	namespaceFile    = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

	shutdownTimeout = 20 * time.Second
	rebuildRetry    = time.Second
)

// run runs the controllers until the context ends.
func run(ctx context.Context, o Options) error {
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(o.Verbosity)))
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	logger.Info("starting", "version", version)

	config, err := restConfig(o)
	if err != nil {
		return err
	}
	counters, err := newCounters(metrics.Registry)
	if err != nil {
		return err
	}
	config.Wrap(counters.writes.Wrap)
	options := managerOptions(o, logger)
	leads := func() bool { return true }
	if o.LeaderElect {
		lock, err := newLease(config, o, clock.RealClock{})
		if err != nil {
			return err
		}
		options.LeaderElectionResourceLockInterface, leads = lock, lock.leads
	}
	config.Wrap(leading.Guard(leads))
	mgr, err := ctrl.NewManager(config, options)
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	runnerCtx, stopRunner := context.WithCancel(ctx)
	defer stopRunner()
	wake := waker{batches: trigger.New(), pools: trigger.New()}
	keys := keyring.New(mgr.GetAPIReader(), mgr.GetClient(), ownNamespace(o), clock.RealClock{})
	sign := whileLeading(leads, keys.Sign)
	runner := batchsandbox.NewRunner(runnerCtx, clock.RealClock{}, wake.WakeBatch, batchsandbox.Dialer(sign, counters.calls.Wrap))
	defer runner.Wait()
	calls := pool.NewCalls(runnerCtx, wake.WakePool, pool.Dialer(sign, counters.calls.Wrap))
	defer calls.Wait()
	defer stopRunner()
	ledger, rebuilt := scheduler.NewLedger(wake), make(chan struct{})
	if err := setup(ctx, mgr, o, parts{
		ledger: ledger, runner: runner, calls: calls, starts: counters.starts, keys: keys, wake: wake, leads: leads, rebuilt: rebuilt,
	}); err != nil {
		return err
	}
	if err := addChecks(mgr, readiness{synced: mgr.GetCache().WaitForCacheSync, elected: mgr.Elected(), rebuilt: rebuilt}); err != nil {
		return err
	}
	if err := feedLedger(ctx, mgr.GetCache(), ledger, counters.starts); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run the manager: %w", err)
	}
	return nil
}

// whileLeading signs calls of executors only while this process leads for sure. A leader that was frozen would else go on with
// what it was about to tell them, as to clear away a try that the next leader has begun meanwhile and to begin it again.
func whileLeading(leads func() bool, sign func(token.Call) (string, error)) func(token.Call) (string, error) {
	return func(c token.Call) (string, error) {
		if !leads() {
			return "", leading.ErrLost
		}
		return sign(c)
	}
}

type waker struct{ batches, pools *trigger.Trigger }

func (w waker) WakeBatch(batch types.NamespacedName) { w.batches.Wake(batch) }
func (w waker) WakePool(pool types.NamespacedName)   { w.pools.Wake(pool) }

// counters are the metrics of what no controller has to itself.
type counters struct {
	writes *apiwrites.Counter
	calls  *executorcalls.Counter
	starts *pool.Starts
}

func newCounters(registry prometheus.Registerer) (c counters, err error) {
	if c.writes, err = apiwrites.New(registry); err != nil {
		return c, err
	}
	if c.calls, err = executorcalls.New(registry); err != nil {
		return c, err
	}
	c.starts, err = pool.NewStarts(registry, clock.RealClock{})
	return c, err
}

// parts are what the controllers share.
type parts struct {
	ledger *scheduler.Ledger
	runner *batchsandbox.Runner
	calls  *pool.Calls
	starts *pool.Starts
	keys   *keyring.Keyring
	wake   waker
	leads  func() bool

	// rebuilt is closed when the ledger has been rebuilt after the election.
	rebuilt chan struct{}
}

// setup adds the controllers, and what rebuilds the ledger after the election.
func setup(ctx context.Context, mgr ctrl.Manager, o Options, p parts) error {
	recorder := mgr.GetEventRecorder("opensandbox-controller")
	batches, err := batchsandbox.New(batchsandbox.Options{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Clock: clock.RealClock{}, Recorder: recorder,
		Registry: metrics.Registry, Ledger: p.ledger, Runner: p.runner, Root: p.keys.Root, Ready: p.rebuilt, Leads: p.leads,
	})
	if err != nil {
		return fmt.Errorf("make the batch controller: %w", err)
	}
	if err := batches.SetupWithManager(mgr, p.wake.batches, o.Concurrency); err != nil {
		return fmt.Errorf("set up the batch controller: %w", err)
	}
	pools, err := pool.New(pool.Options{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Clock: clock.RealClock{}, Recorder: recorder,
		Registry: metrics.Registry, Starts: p.starts, Ledger: p.ledger, Ready: p.rebuilt, Leads: p.leads, Calls: p.calls, Root: p.keys.Root, Suffix: pool.RandomSuffix,
	})
	if err != nil {
		return fmt.Errorf("make the pool controller: %w", err)
	}
	if err := pools.SetupWithManager(mgr, p.wake.pools, o.Concurrency); err != nil {
		return fmt.Errorf("set up the pool controller: %w", err)
	}
	if err := mgr.Add(batchsandbox.NewPlaces(p.ledger, clock.RealClock{})); err != nil {
		return fmt.Errorf("set up the places in queues: %w", err)
	}
	rebuildNodes, err := watchNodes(ctx, mgr, p)
	if err != nil {
		return err
	}
	rebuild := func(ctx context.Context) error {
		if err := p.keys.Load(ctx); err != nil {
			return fmt.Errorf("load the root of the task-executors' tokens: %w", err)
		}
		if err := rebuildNodes(ctx); err != nil {
			return err
		}
		if err := pools.Rebuild(ctx, o.WatchNamespaces); err != nil {
			return err
		}
		return batches.Rebuild(ctx, rand.Text(), o.WatchNamespaces)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error { return begin(ctx, rebuild, p.rebuilt) }))
}

// begin does what must be done after the election before anything is handed out, trying again until it succeeds, and closes
// ready.
func begin(ctx context.Context, rebuild func(context.Context) error, ready chan<- struct{}) error {
	attempt := func(ctx context.Context) (bool, error) {
		if err := rebuild(ctx); err != nil {
			ctrl.Log.Error(err, "rebuild the ledger")
			return false, nil
		}
		return true, nil
	}
	if err := wait.PollUntilContextCancel(ctx, rebuildRetry, true, attempt); err != nil {
		return nil //nolint:nilerr // only the end of the context ends the tries
	}
	close(ready)
	return nil
}

// watchNodes adds the controller of nodes if it may watch them, and returns what tells the ledger of all nodes after the
// election.
func watchNodes(ctx context.Context, mgr ctrl.Manager, p parts) (rebuild func(context.Context) error, err error) {
	allowed, err := node.Allowed(ctx, mgr.GetAPIReader())
	if err != nil {
		return nil, fmt.Errorf("find out about the right to watch nodes: %w", err)
	}
	if !allowed {
		ctrl.Log.Info("may not watch nodes: goes by the conditions of pods; those on nodes that are cordoned, not Ready or gone are treated like others until the cluster marks or deletes them")
		return func(context.Context) error { return nil }, nil
	}
	nodes := node.New(node.Options{Client: mgr.GetClient(), Clock: clock.RealClock{}, Ledger: p.ledger, WakeBatch: p.wake.WakeBatch})
	if err := nodes.SetupWithManager(ctx, mgr); err != nil {
		return nil, fmt.Errorf("set up the node controller: %w", err)
	}
	if _, err := mgr.GetCache().GetInformer(ctx, &corev1.Node{}); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	return nodes.Rebuild, nil
}

// feedLedger tells the ledger of every pod of a pool, from now on, and starts of those that became Ready.
func feedLedger(ctx context.Context, c cache.Cache, ledger *scheduler.Ledger, starts *pool.Starts) error {
	informer, err := c.GetInformer(ctx, &corev1.Pod{})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if pod, ok := obj.(*corev1.Pod); ok {
				batchsandbox.ObservePod(ledger, pod)
				starts.Observe(pod)
			}
		},
		UpdateFunc: func(before, after any) {
			was, ok1 := before.(*corev1.Pod)
			is, ok2 := after.(*corev1.Pod)
			if !ok1 || !ok2 {
				return
			}
			if was.Labels[v1alpha1.PoolNameLabel] != is.Labels[v1alpha1.PoolNameLabel] {
				batchsandbox.RemovePod(ledger, was)
			}
			batchsandbox.ObservePod(ledger, is)
			starts.Observe(is)
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				batchsandbox.RemovePod(ledger, pod)
				starts.Forget(client.ObjectKeyFromObject(pod))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return nil
}

func restConfig(o Options) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = "opensandbox-controller/" + version
	config.QPS, config.Burst = float32(o.QPS), o.Burst
	switch {
	case o.QPS == 0:
		config.QPS = -1
	case o.Burst == 0:
		config.Burst = int(2*o.QPS) + 1
	}
	return config, nil
}

func managerOptions(o Options, logger logr.Logger) ctrl.Options {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	timeout := shutdownTimeout
	opts := ctrl.Options{
		Scheme: scheme,
		Logger: logger,
		Cache: cache.Options{
			DefaultTransform: slim,
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}: {Transform: slimPod}, &corev1.Node{}: {Transform: node.Slim},
			},
		},
		Metrics:                       metricsOptions(o),
		HealthProbeBindAddress:        offIfEmpty(o.HealthAddress),
		PprofBindAddress:              offIfEmpty(o.PprofAddress),
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              v1alpha1.LeaderElectionID,
		LeaderElectionNamespace:       ownNamespace(o),
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &o.LeaseDuration,
		RenewDeadline:                 &o.RenewDeadline,
		RetryPeriod:                   &o.RetryPeriod,
		GracefulShutdownTimeout:       &timeout,
	}
	if len(o.WatchNamespaces) > 0 {
		opts.Cache.DefaultNamespaces = map[string]cache.Config{}
		for _, ns := range o.WatchNamespaces {
			opts.Cache.DefaultNamespaces[ns] = cache.Config{}
		}
	}
	return opts
}

// metricsOptions say how metrics are served: whoever reaches them must have a right, but on loopback, where nobody else is.
func metricsOptions(o Options) metricsserver.Options {
	opts := metricsserver.Options{BindAddress: offIfEmpty(o.MetricsAddress)}
	if o.MetricsSecure && !onLoopback(o.MetricsAddress) {
		opts.SecureServing = true
		opts.FilterProvider = metricsguard.Provider(clock.RealClock{})
		opts.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }} // strangers get no streams
	}
	return opts
}

// onLoopback says that only this machine, or this pod, reaches an address.
func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func offIfEmpty(address string) string {
	if address == "" {
		return "0"
	}
	return address
}

// ownNamespace is where the Lease lives.
func ownNamespace(o Options) string {
	if o.Namespace != "" {
		return o.Namespace
	}
	if data, err := os.ReadFile(namespaceFile); err == nil {
		if ns := strings.TrimSpace(string(data)); ns != "" {
			return ns
		}
	}
	return defaultNamespace
}

// addChecks serves /healthz and /readyz.
func addChecks(mgr ctrl.Manager, r readiness) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("add the health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("work", r.check); err != nil {
		return fmt.Errorf("add the readiness check: %w", err)
	}
	return nil
}
