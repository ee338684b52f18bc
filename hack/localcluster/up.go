// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// readyTimeout bounds each wait for a part that has been started. A machine busy with other work takes half a minute.
const readyTimeout = 3 * time.Minute

// upOptions are the flags of `up`.
type upOptions struct {
	kind    string
	name    string
	nodes   int
	podCIDR netip.Prefix // of simulated pods
}

func parseUp(args []string) (upOptions, error) {
	fs := newFlags("up")
	var o upOptions
	fs.StringVar(&o.kind, "cluster", kindNode, "node (one real node), kwok (simulated nodes) or kind (where kind and a container engine are)")
	fs.StringVar(&o.name, "name", defaultName, "name of the cluster: several run side by side")
	fs.IntVar(&o.nodes, "nodes", 20, "number of simulated nodes (kwok)")
	cidr := fs.String("pod-cidr", "10.0.0.0/16", "addresses of simulated pods (kwok); 127.1.0.0/16 makes every pod this machine")
	if err := parseFlags(fs, args); err != nil {
		return o, err
	}
	if o.kind != kindNode && o.kind != kindKwok && o.kind != kindKind {
		return o, fmt.Errorf("--cluster=%s: want %s, %s or %s", o.kind, kindNode, kindKwok, kindKind)
	}
	if o.nodes < 1 || o.nodes > maxNodes {
		return o, fmt.Errorf("--nodes=%d: want 1 to %d", o.nodes, maxNodes)
	}
	var err error
	if o.podCIDR, err = netip.ParsePrefix(*cidr); err != nil {
		return o, fmt.Errorf("--pod-cidr: %w", err)
	}
	return o, nil
}

func runUp(ctx context.Context, args []string) error {
	o, err := parseUp(args)
	if err != nil {
		return err
	}
	cl, err := openCluster(o.name)
	if err != nil {
		return err
	}
	p := newProgress(os.Stderr)
	unlock, err := cl.lock(p)
	if err != nil {
		return err
	}
	defer unlock()
	up, err := cl.settle(ctx, o, p)
	if err != nil || up {
		return err
	}
	if o.kind == kindKind {
		return cl.upKind(ctx, p)
	}
	if err := cl.bringUp(ctx, o, p); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return errors.Join(err, cl.afterFailure(ctx, p))
	}
	p.say("cluster %q is up: export KUBECONFIG=%s", cl.name, cl.kubeconfig())
	return nil
}

// settle looks at what is there: it returns true for a cluster that is up and well, and clears away the remains of any
// other one.
func (c *cluster) settle(ctx context.Context, o upOptions, p *progress) (up bool, err error) {
	st, err := c.load()
	if err != nil || st == nil {
		return false, err
	}
	if st.Ready && st.Kind != o.kind {
		return false, fmt.Errorf("cluster %q is up with --cluster=%s: run `make cluster-down` first, or choose another --name", c.name, st.Kind)
	}
	if st.Ready && c.healthy(ctx, st) {
		p.say("cluster %q is up already: export KUBECONFIG=%s", c.name, c.kubeconfig())
		return true, nil
	}
	p.say("clearing away what is left of cluster %q", c.name)
	return false, c.remove(ctx, st)
}

// afterFailure stops everything but keeps the logs for the person who reads the error.
func (c *cluster) afterFailure(ctx context.Context, p *progress) error {
	st, err := c.load()
	if err != nil || st == nil {
		return err
	}
	p.say("stopping what was started; logs stay in %s until the next start or `make cluster-down`", c.path("logs"))
	return c.stop(context.WithoutCancel(ctx), st)
}

func (c *cluster) bringUp(ctx context.Context, o upOptions, p *progress) error {
	var prep nodePreparation
	if o.kind == kindNode {
		var err error
		if prep, err = c.prepareNode(ctx, p); err != nil {
			return err
		}
	}
	assets, err := c.assets(ctx, o.kind, p)
	if err != nil {
		return err
	}
	st := &state{Name: c.name, Checkout: c.checkout, Kind: o.kind}
	for _, dir := range []string{"logs", "config", "pki"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := c.claimSlot(st); err != nil {
		return err
	}
	b := &bringer{cluster: c, state: st, options: o, progress: p, assets: assets, prep: prep}
	if o.kind == kindNode {
		err = b.node(ctx)
	} else {
		err = b.kwok(ctx)
	}
	if b.crew != nil {
		b.crew.close()
	}
	return err
}

// bringer is one run of `up`.
type bringer struct {
	*cluster
	state    *state
	options  upOptions
	progress *progress
	assets   string
	prep     nodePreparation
	crew     *crew
	api      *client
}

func (b *bringer) kwok(ctx context.Context) error {
	loopback := netip.MustParseAddr("127.0.0.1")
	addr := addresses{b.state.Slot}
	plane := &controlPlane{cluster: b.cluster, assets: b.assets, ports: kwokPorts(addr), bind: loopback, advertise: loopback}
	plane.server = fmt.Sprintf("https://127.0.0.1:%d", plane.ports.apiserver)
	hosts := []string{"127.0.0.1", "localhost"}
	if err := b.writeCerts(hosts, "kwok", nil); err != nil {
		return err
	}
	err := errors.Join(
		plane.writeConfigs(),
		plane.writeKubeconfig(b.config("kwok.kubeconfig"), "kwok"),
		writeYAML(b.config("kwok.yaml"), kwokConfig()))
	if err != nil {
		return err
	}
	if err := b.hireCrew(false); err != nil {
		return err
	}
	if err := b.controlPlane(ctx, plane); err != nil {
		return err
	}
	if err := b.crew.start(plane.kwok(b.options.podCIDR, addr.port(5))); err != nil {
		return err
	}
	if err := b.api.createNodes(ctx, b.options.nodes); err != nil {
		return err
	}
	what := fmt.Sprintf("waiting for %d simulated nodes", b.options.nodes)
	if err := b.wait(ctx, what, func() bool { return b.api.nodesReady(ctx, b.options.nodes) }); err != nil {
		return err
	}
	return b.commit(ctx)
}

func (b *bringer) hireCrew(isolated bool, listeners ...*os.File) error {
	crew, err := b.hire(isolated, listeners)
	if err != nil {
		return err
	}
	b.crew = crew
	b.state.Supervisor = crew.process
	return b.save(b.state)
}

// controlPlane starts etcd and the API server and, when that answers, the rest.
func (b *bringer) controlPlane(ctx context.Context, plane *controlPlane) error {
	api, err := b.client(plane.server)
	if err != nil {
		return err
	}
	b.api = api
	if err := errors.Join(b.crew.start(plane.etcd()), b.crew.start(plane.apiserver())); err != nil {
		return err
	}
	if err := b.wait(ctx, "waiting for the API server", func() bool { return api.ok(ctx, "/readyz") }); err != nil {
		return err
	}
	return errors.Join(b.crew.start(plane.controllerManager()), b.crew.start(plane.scheduler()))
}

// commit waits for what every user of a cluster relies on and then lets the cluster live on without this command.
func (b *bringer) commit(ctx context.Context) error {
	err := b.wait(ctx, "waiting for the control plane", func() bool {
		code, err := b.api.do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
		return err == nil && code == http.StatusOK && b.api.ok(ctx, "/readyz")
	})
	if err != nil {
		return err
	}
	if err := b.crew.send(request{Commit: true}); err != nil {
		return err
	}
	b.state.Ready = true
	return b.save(b.state)
}

// wait polls until ready, and ends at once when a part dies.
func (b *bringer) wait(ctx context.Context, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return b.progress.step(what, func() error {
		err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
			if err := b.crew.check(); err != nil {
				return false, err
			}
			return ready(), nil
		})
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: not within %s; see the logs in %s", what, readyTimeout, b.path("logs"))
		}
		return err
	})
}

// healthy asks a cluster that has been up whether it still is.
func (c *cluster) healthy(ctx context.Context, st *state) bool {
	if st.Kind == kindKind {
		return c.kindHealthy(ctx)
	}
	died, err := filepath.Glob(c.path("logs", "*"+diedSuffix))
	if err != nil || len(died) > 0 || !st.alive() {
		return false
	}
	api, err := c.client(fmt.Sprintf("https://127.0.0.1:%d", addresses{st.Slot}.port(0)))
	if err != nil {
		return false
	}
	return api.ok(ctx, "/readyz") && api.nodesReady(ctx, 1)
}
