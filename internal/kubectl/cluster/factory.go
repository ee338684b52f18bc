// SPDX-License-Identifier: Apache-2.0

// Package cluster is what all commands of kubectl sandbox share: the user's cluster with the user's rights, what belongs to a
// batch, output formats, completion, and errors.
package cluster

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// Limits of this process alone, above client-go's 5 a second, since a command may read the logs of many pods. The API
// server's own limits stand.
const (
	requestsPerSecond = 50
	requestsAtOnce    = 300
)

// Factory makes what a command needs of the cluster that the flags and the kubeconfig name. Its methods may be called by several
// goroutines, and again: clients are made once.
type Factory struct {
	flags  *genericclioptions.ConfigFlags
	errOut io.Writer
	clock  clock.WithTicker

	connect func() (*connection, error)
}

// connection are clients that share one transport.
type connection struct {
	config *rest.Config
	client client.WithWatch
	core   corev1client.CoreV1Interface
}

// NewFactory returns a factory for the flags. Warnings of the API server go to errOut.
func NewFactory(flags *genericclioptions.ConfigFlags, errOut io.Writer) *Factory {
	f := &Factory{flags: flags, errOut: errOut, clock: clock.RealClock{}}
	f.connect = sync.OnceValues(f.newConnection)
	return f
}

// Clock is the clock to wait and to tell ages by.
func (f *Factory) Clock() clock.WithTicker { return f.clock }

// RESTConfig returns the connection's settings, for streams to pods. It must not be changed.
func (f *Factory) RESTConfig() (*rest.Config, error) {
	c, err := f.connect()
	if err != nil {
		return nil, err
	}
	return c.config, nil
}

// Client returns a client that reads from the API server, and that knows the kinds of Scheme without asking for them.
func (f *Factory) Client() (client.WithWatch, error) {
	c, err := f.connect()
	if err != nil {
		return nil, err
	}
	return c.client, nil
}

// Core returns a client for what Client can't do: logs of pods and streams to them.
func (f *Factory) Core() (corev1client.CoreV1Interface, error) {
	c, err := f.connect()
	if err != nil {
		return nil, err
	}
	return c.core, nil
}

// Namespace returns the namespace of the flags, else that of the kubeconfig's context, else default.
func (f *Factory) Namespace() (string, error) {
	namespace, _, err := f.flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// NamespaceAndClient returns both, for what works on objects of one namespace by their names.
func (f *Factory) NamespaceAndClient() (string, client.WithWatch, error) {
	namespace, err := f.Namespace()
	if err != nil {
		return "", nil, err
	}
	c, err := f.Client()
	return namespace, c, err
}

// NamespaceOrAll returns the namespace to list: all of them, which is "", if allNamespaces is set.
func (f *Factory) NamespaceOrAll(allNamespaces *bool) (string, error) {
	if *allNamespaces {
		return "", nil
	}
	return f.Namespace()
}

func (f *Factory) newConnection() (*connection, error) {
	config, err := f.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = requestsPerSecond, requestsAtOnce
	config.WarningHandler = rest.NewWarningWriter(f.errOut, rest.WarningWriterOptions{Deduplicate: true})
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return connect(config, transport)
}

func connect(config *rest.Config, transport *http.Client) (*connection, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{HTTPClient: transport, Scheme: scheme, Mapper: mapper()})
	if err != nil {
		return nil, err
	}
	core, err := corev1client.NewForConfigAndClient(config, transport)
	if err != nil {
		return nil, err
	}
	return &connection{config: config, client: c, core: core}, nil
}

// Scheme returns the kinds that the commands read and write: BatchSandbox, Pool, and those of Kubernetes that tell about them.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		v1alpha1.AddToScheme, corev1.AddToScheme, appsv1.AddToScheme, coordinationv1.AddToScheme, autoscalingv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("add kinds: %w", err)
		}
	}
	return scheme, nil
}

// kind says where the objects of a kind are served.
type kind struct {
	version        schema.GroupVersion
	name, resource string
	scope          meta.RESTScope
}

// mapper knows where the kinds are served. Discovery would cost every command some requests, and would know no more.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	namespaced, root := meta.RESTScopeNamespace, meta.RESTScopeRoot
	for _, k := range []kind{
		{v1alpha1.GroupVersion, "BatchSandbox", "batchsandboxes", namespaced},
		{v1alpha1.GroupVersion, "Pool", "pools", namespaced},
		{corev1.SchemeGroupVersion, "Pod", "pods", namespaced},
		{corev1.SchemeGroupVersion, "Event", "events", namespaced},
		{corev1.SchemeGroupVersion, "ResourceQuota", "resourcequotas", namespaced},
		{corev1.SchemeGroupVersion, "LimitRange", "limitranges", namespaced},
		{corev1.SchemeGroupVersion, "Node", "nodes", root},
		{corev1.SchemeGroupVersion, "Namespace", "namespaces", root},
		{appsv1.SchemeGroupVersion, "Deployment", "deployments", namespaced},
		{coordinationv1.SchemeGroupVersion, "Lease", "leases", namespaced},
	} {
		m.AddSpecific(k.version.WithKind(k.name), k.version.WithResource(k.resource), k.version.WithResource(strings.ToLower(k.name)), k.scope)
	}
	return m
}
