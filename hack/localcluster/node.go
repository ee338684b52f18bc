// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	nodeName = "opensandbox-node"

	// Inside the node's network namespace every cluster uses the same ports.
	registryPort = 5000

	containerdSocket = "/run/containerd/containerd.sock"
	certsD           = "certs.d" // under the config folder: how containerd finds registries
)

// nodeBinds are the paths that the parts of a node insist on, and the folders of the state that take their place.
func (c *cluster) nodeBinds() []bind {
	return []bind{
		{From: c.path("node", "kubelet"), To: "/var/lib/kubelet"},
		{From: c.path("node", "containerd"), To: "/var/lib/containerd"},
		{From: c.path("node", "cni"), To: "/var/lib/cni"},
		{From: c.path("node", "pods"), To: "/var/log/pods"},
		{From: c.path("node", "containers"), To: "/var/log/containers"},
	}
}

// nodePreparation is what a real node needs before anything is started.
type nodePreparation struct {
	images []loadable
}

// prepareNode checks the machine, installs what is missing and builds the images the node will find in its registry.
func (c *cluster) prepareNode(ctx context.Context, p *progress) (nodePreparation, error) {
	if runtime.GOOS != "linux" {
		return nodePreparation{}, fmt.Errorf("a real node needs Linux, this is %s: use --cluster=kwok or --cluster=kind", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return nodePreparation{}, fmt.Errorf("a real node needs root; missing Debian packages: %s. Or use --cluster=kwok", listOrNone(missingPackages()))
	}
	for _, hidden := range []string{"/run/", "/var/run/", "/proc/"} {
		if strings.HasPrefix(c.dir()+"/", hidden) {
			return nodePreparation{}, fmt.Errorf("the cache folder %s can't be under %s, which the node has to itself: set XDG_CACHE_HOME", c.cache, hidden)
		}
	}
	if err := installMissing(ctx, p); err != nil {
		return nodePreparation{}, err
	}
	images, err := c.standInImages(ctx, p)
	if err != nil {
		return nodePreparation{}, err
	}
	pause, err := c.pause(ctx, p)
	if err != nil {
		return nodePreparation{}, err
	}
	return nodePreparation{images: append(images, loadable{pauseImage, pause})}, nil
}

func listOrNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, " ")
}

// Ports on the host's loopback, led into the node's namespace by the supervisor. The last one leads to the API server by
// way of the Service "kubernetes", as pods reach it.
func hostAPI(a addresses) int      { return a.port(0) }
func hostRegistry(a addresses) int { return a.port(1) }
func hostService(a addresses) int  { return a.port(2) }

// entrance leads from a port of the host to an address in the node's namespace.
type entrance struct {
	port     int
	to       string
	patience time.Duration
}

func entrances(a addresses) []entrance {
	return []entrance{
		{hostAPI(a), fmt.Sprintf("127.0.0.1:%d", nodePorts.apiserver), time.Minute},
		{hostRegistry(a), fmt.Sprintf("127.0.0.1:%d", registryPort), time.Minute},
		// Until kube-proxy has made its rules nobody answers here. Asking anew finds them sooner than waiting for TCP to repeat.
		{hostService(a), netip.AddrPortFrom(apiService, 443).String(), 300 * time.Millisecond},
	}
}

func (b *bringer) node(ctx context.Context) error {
	addr := addresses{b.state.Slot}
	plane := &controlPlane{
		cluster: b.cluster, assets: b.assets, ports: nodePorts, bind: netip.IPv4Unspecified(), advertise: addr.node(),
		server: fmt.Sprintf("https://127.0.0.1:%d", hostAPI(addr)), endpoint: true,
	}
	n := &nodeConfig{cluster: b.cluster, assets: b.assets, addr: addr}
	if err := b.writeNode(plane, n); err != nil {
		return err
	}
	if err := b.isolateNode(ctx, n); err != nil {
		return err
	}
	runc, err := findProgram("runc")
	if err != nil {
		return err
	}
	if err := writeFile(b.config("containerd.toml"), []byte(n.containerdConfig(runc)), 0o644); err != nil {
		return err
	}
	if err := errors.Join(b.crew.start(n.registry()), b.crew.start(n.containerd())); err != nil {
		return err
	}
	together, groupCtx := errgroup.WithContext(ctx)
	together.Go(func() error { return b.fillRegistry(groupCtx, addr) })
	err = b.controlPlane(ctx, plane)
	if err := errors.Join(err, together.Wait()); err != nil {
		return err
	}
	if err := errors.Join(b.crew.start(n.kubelet()), b.crew.start(n.proxy())); err != nil {
		return err
	}
	service := &client{http: b.api.http, base: fmt.Sprintf("https://127.0.0.1:%d", hostService(addr))}
	err = b.wait(ctx, "waiting for the node", func() bool { return b.api.nodesReady(ctx, 1) && service.ok(ctx, "/readyz") })
	if err != nil {
		return err
	}
	return b.commit(ctx)
}

func (b *bringer) writeNode(plane *controlPlane, n *nodeConfig) error {
	hosts := []string{
		"127.0.0.1", "localhost", n.addr.node().String(), apiService.String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	if err := b.writeCerts(hosts, nodeName, []string{nodeName, n.addr.node().String(), "127.0.0.1"}); err != nil {
		return err
	}
	for _, dir := range n.nodeBinds() {
		if err := os.MkdirAll(dir.From, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		plane.writeConfigs(),
		plane.writeKubeconfig(b.config("kubelet.kubeconfig"), "kubelet"),
		plane.writeKubeconfig(b.config("proxy.kubeconfig"), "proxy"),
		writeYAML(b.config("kubelet.yaml"), n.kubeletConfig()),
		writeYAML(b.config("proxy.yaml"), n.proxyConfig()),
		writeFile(b.config("resolv.conf"), nil, 0o644), // there is no name server
		writeJSON(b.config("cni/10-pods.conflist"), n.cniConfig()),
		writeFile(b.config(certsD+"/docker.io/hosts.toml"), []byte(hostsConfig()), 0o644),
	)
}

// isolateNode starts the supervisor in namespaces of its own and connects them with the host.
func (b *bringer) isolateNode(ctx context.Context, n *nodeConfig) error {
	var mountPoints []string
	for _, bound := range b.nodeBinds() {
		mountPoints = append(mountPoints, bound.To)
	}
	if err := theHost().join(b.id(), mountPoints); err != nil {
		return err
	}
	if err := makeCgroups(b.cgroup()); err != nil {
		return err
	}
	if err := b.hireForNode(n.addr); err != nil {
		return err
	}
	if err := b.crew.send(request{Isolate: b.nodeBinds()}); err != nil {
		return err
	}
	for i, e := range entrances(n.addr) {
		if err := b.crew.send(request{Forward: &forward{FD: controlFD + 1 + i, To: e.to, Patience: e.patience}}); err != nil {
			return err
		}
	}
	return b.connect(ctx, n.addr)
}

// hireForNode hands the listening sockets of all entrances on to the supervisor.
func (b *bringer) hireForNode(a addresses) (err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, e := range entrances(a) {
		f, err := listen(e.port)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return b.hireCrew(true, files...)
}

// listen opens a port of the host's loopback for the supervisor.
func listen(port int) (*os.File, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listener is a %T", l), l.Close())
	}
	file, err := tcp.File()
	return file, errors.Join(err, l.Close())
}

// fillRegistry pushes the images as soon as the registry answers.
func (b *bringer) fillRegistry(ctx context.Context, addr addresses) error {
	address := fmt.Sprintf("127.0.0.1:%d", hostRegistry(addr))
	if err := waitForRegistry(ctx, address); err != nil {
		return err
	}
	names := make([]string, 0, len(b.prep.images))
	for _, img := range b.prep.images {
		if _, err := pushImage(ctx, address, img); err != nil {
			return err
		}
		if img.ref != pauseImage {
			names = append(names, img.ref)
		}
	}
	b.progress.say("the registry has stand-ins built from Debian packages, not the images of Docker Hub: %s", strings.Join(names, ", "))
	return nil
}

// cleanHost removes what the kernel does not remove with the node's namespaces.
func (c *cluster) cleanHost(ctx context.Context) error {
	return errors.Join(c.disconnect(ctx), removeCgroups(ctx, c.cgroup()), theHost().leave(c.id()))
}
