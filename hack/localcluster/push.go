// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// runPush builds the project's images and puts them where the cluster's node finds them. On stdout it prints both
// references by digest: a Deployment with these changes exactly when the content does.
func runPush(ctx context.Context, args []string) error {
	lay, err := findLayout()
	if err != nil {
		return err
	}
	fs := newFlags("push")
	name := fs.String("name", defaultName, "name of the cluster")
	var o imageOptions
	o.register(fs, lay)
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	cl, err := openCluster(*name)
	if err != nil {
		return err
	}
	p := newProgress(os.Stderr)
	unlock, err := cl.lock(p)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := cl.load()
	if err != nil {
		return err
	}
	if st == nil || !st.Ready || !st.alive() {
		return fmt.Errorf("cluster %q is not up: start it with `make cluster-up`", *name)
	}
	if st.Kind == kindKwok {
		return fmt.Errorf("cluster %q has simulated nodes, which run no images: there is nothing to push to", *name)
	}
	images, err := cl.projectImages(ctx, o, p)
	if err != nil {
		return err
	}
	if st.Kind == kindKind {
		return cl.loadKind(ctx, images)
	}
	return cl.pushAll(ctx, st, images, p)
}

func (c *cluster) pushAll(ctx context.Context, st *state, images []loadable, p *progress) error {
	assets, err := c.layout.assets(ctx, kindNode, p)
	if err != nil {
		return err
	}
	for i, variable := range []string{"IMG", "TASK_EXECUTOR_IMG"} {
		img := images[i]
		digest, err := pushImage(ctx, fmt.Sprintf("127.0.0.1:%d", hostRegistry(addresses{st.Slot})), img)
		if err != nil {
			return err
		}
		if err := c.refresh(ctx, st, assets, img.ref, digest.String()); err != nil {
			return err
		}
		p.say("pushed %s (%s)", img.ref, digest)
		if _, err := fmt.Printf("%s=%s\n", variable, byDigest(img.ref, digest)); err != nil {
			return err
		}
	}
	return nil
}

// refresh makes the node forget an older image of that name, so that the next container gets the new one whatever its
// pull policy is.
func (c *cluster) refresh(ctx context.Context, st *state, assets, ref, digest string) error {
	path, err := hubPath(ref)
	if err != nil {
		return err
	}
	full := "docker.io/" + path
	ctr := func(args ...string) ([]byte, error) {
		line := append([]string{filepath.Join(assets, "ctr"), "--address=" + containerdSocket, "--namespace=k8s.io"}, args...)
		return nsenter(ctx, st, line...).Output()
	}
	found, err := ctr("images", "list", "-q", "name=="+full+",target.digest!="+digest)
	if err != nil {
		return fmt.Errorf("look for %s on the node: %w", full, err)
	}
	if len(found) == 0 {
		return nil
	}
	if _, err := ctr("images", "remove", "--sync", full); err != nil {
		return fmt.Errorf("remove the old %s from the node: %w", full, err)
	}
	return nil
}

// nsenter prepares a command inside the node's namespaces.
func nsenter(ctx context.Context, st *state, line ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(st.Supervisor.PID), "--mount", "--net", "--pid", "--"}, line...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

func (c *cluster) loadKind(ctx context.Context, images []loadable) error {
	for _, img := range images {
		file := c.path("load.tar")
		if err := img.write(file); err != nil {
			return err
		}
		if err := runVisible(ctx, "kind", "load", "image-archive", file, "--name", c.kindName()); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// runExec runs a command as if on the node: with its processes, mounts and network, and the cluster's binaries in PATH.
func runExec(ctx context.Context, args []string) error {
	fs := newFlags("exec")
	name := fs.String("name", defaultName, "name of the cluster")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("exec: which command? exec [--name=NAME] -- COMMAND")
	}
	cl, err := openCluster(*name)
	if err != nil {
		return err
	}
	st, err := cl.load()
	if err != nil {
		return err
	}
	if st == nil || st.Kind != kindNode || !st.alive() {
		return fmt.Errorf("cluster %q has no real node that is up", *name)
	}
	assets, err := cl.layout.assets(ctx, kindNode, newProgress(os.Stderr))
	if err != nil {
		return err
	}
	line := append([]string{"env", "PATH=" + assets + ":" + os.Getenv("PATH")}, fs.Args()...)
	cmd := nsenter(ctx, st, line...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError(exit.ExitCode())
	}
	return err
}

// waitForRegistry waits until the registry answers.
func waitForRegistry(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &client{http: &http.Client{Transport: transport, Timeout: 5 * time.Second}, base: "http://" + address}
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) { return c.ok(ctx, "/v2/"), nil })
	if err != nil {
		return fmt.Errorf("wait for the registry at %s: %w", address, err)
	}
	return nil
}
