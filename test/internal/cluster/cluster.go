// SPDX-License-Identifier: Apache-2.0

// Package cluster starts a simulated cluster with the project's definitions, and takes it down again.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/internal/process"
	"opensandbox.io/controller/test/internal/promtext"
)

// definitions is where the custom resource definitions are, below the checkout.
const definitions = "config/crd/bases"

// servedTimeout bounds how long a definition may take to be served.
const servedTimeout = time.Minute

// Options say which cluster is wanted. All are required.
type Options struct {
	// Checkout is the root of the checkout.
	Checkout string
	// Name is the cluster's; one of that name that is up already is used, and stays up.
	Name string
	// PodCIDR are the addresses of its pods. Below 127.0.0.0/8 every pod is this machine.
	PodCIDR string
	// Nodes is the number of its simulated nodes.
	Nodes int
	// Out takes what its start and end tell.
	Out io.Writer
}

// Cluster is a cluster that is up.
type Cluster struct {
	// Kubeconfig is the path of its kubeconfig.
	Kubeconfig string
	// AuditLog is the path of its API server's audit log.
	AuditLog string
	// Client talks to it, without limits of its own.
	Client client.WithWatch

	etcd    *http.Client
	etcdURL string
	options Options
	keep    bool
}

// Up starts a cluster, or finds the one of that name, and installs the definitions. It leaves nothing behind after an error.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	kubeconfig, err := c.find(ctx)
	c.keep = err == nil
	if !c.keep {
		err := c.run(ctx, "up", "--cluster=kwok", "--name="+o.Name, "--pod-cidr="+o.PodCIDR, "--nodes="+strconv.Itoa(o.Nodes))
		if err == nil {
			kubeconfig, err = c.find(ctx)
		}
		if err != nil {
			return nil, errors.Join(err, c.Down(ctx))
		}
	}
	c.Kubeconfig, c.AuditLog = kubeconfig, filepath.Join(filepath.Dir(kubeconfig), "audit.log")
	err = c.connect()
	if err == nil {
		err = c.install(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Down(ctx))
	}
	return c, nil
}

// Down takes the cluster down, if Up started it; also after ctx is done.
func (c *Cluster) Down(ctx context.Context) error {
	if c.keep {
		return nil
	}
	return c.run(context.WithoutCancel(ctx), "down", "--name="+c.options.Name)
}

func (c *Cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", append([]string{"-C", "hack/localcluster", "run", "."}, args...)...)
	cmd.Dir = c.options.Checkout
	cmd.Stderr = c.options.Out
	return cmd
}

func (c *Cluster) run(ctx context.Context, args ...string) error {
	return process.Run(ctx, c.command(context.WithoutCancel(ctx), args...)) // interrupted in an orderly way, not killed
}

// find returns the kubeconfig of the cluster if it is up.
func (c *Cluster) find(ctx context.Context) (string, error) {
	cmd := c.command(ctx, "kubeconfig", "--name="+c.options.Name)
	var said bytes.Buffer
	cmd.Stderr = &said
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the cluster: %w\n%s", err, said.String())
	}
	return strings.TrimSpace(string(path)), nil
}

// Config is how to talk to the API server of a kubeconfig, without limits on this side.
func Config(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	config.QPS = -1
	config.UserAgent = "opensandbox-test/1"
	return config, nil
}

// Scheme knows the kinds that the project deals with.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme))
}

func (c *Cluster) connect() error {
	config, err1 := Config(c.Kubeconfig)
	scheme, err2 := Scheme()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var err3, err4 error
	c.Client, err3 = client.NewWithWatch(config, client.Options{Scheme: scheme})
	c.etcd, c.etcdURL, err4 = etcdOf(config, filepath.Join(filepath.Dir(c.Kubeconfig), "pki"))
	return errors.Join(err3, err4)
}

// etcdOf returns how to read etcd's metrics. A simulated cluster's etcd has the port after the API server's, and shows its
// metrics to those it serves.
func etcdOf(config *rest.Config, pki string) (*http.Client, string, error) {
	server, err := url.Parse(config.Host)
	if err != nil {
		return nil, "", fmt.Errorf("read the address of the API server: %w", err)
	}
	port, err := strconv.Atoi(server.Port())
	if err != nil {
		return nil, "", fmt.Errorf("read the port of the API server: %w", err)
	}
	settings, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{
		CAFile: filepath.Join(pki, "etcd-ca.crt"), CertFile: filepath.Join(pki, "etcd-client.crt"), KeyFile: filepath.Join(pki, "etcd-client.key"),
	}})
	if err != nil {
		return nil, "", fmt.Errorf("prepare to ask etcd: %w", err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: settings}}, fmt.Sprintf("https://127.0.0.1:%d/metrics", port+1), nil
}

// EtcdPuts is the number of keys that etcd was told to write so far.
func (c *Cluster) EtcdPuts(ctx context.Context) (float64, error) {
	samples, err := promtext.Fetch(ctx, c.etcd, c.etcdURL)
	if err != nil {
		return 0, fmt.Errorf("ask etcd: %w", err)
	}
	for _, name := range []string{"etcd_mvcc_put_total", "etcd_debugging_mvcc_put_total"} {
		if n := samples.Sum(name); n > 0 {
			return n, nil
		}
	}
	return 0, errors.New("etcd doesn't tell how many keys it wrote")
}

// install creates or updates the definitions, and waits until they are served.
func (c *Cluster) install(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(c.options.Checkout, definitions, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("no definitions in %s (%w)", definitions, err)
	}
	for _, path := range paths {
		if err := c.installOne(ctx, path); err != nil {
			return fmt.Errorf("install %s: %w", filepath.Base(path), err)
		}
	}
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, servedTimeout, true, func(ctx context.Context) (bool, error) {
		return errors.Join(
			c.Client.List(ctx, &v1alpha1.BatchSandboxList{}, client.Limit(1)),
			c.Client.List(ctx, &v1alpha1.PoolList{}, client.Limit(1))) == nil, nil
	})
}

func (c *Cluster) installOne(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal(data, definition); err != nil {
		return err
	}
	existing := &apiextensionsv1.CustomResourceDefinition{}
	err = c.Client.Get(ctx, client.ObjectKeyFromObject(definition), existing)
	switch {
	case apierrors.IsNotFound(err):
		return c.Client.Create(ctx, definition)
	case err != nil:
		return err
	}
	definition.ResourceVersion = existing.ResourceVersion
	return c.Client.Update(ctx, definition)
}
