// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

func (c *cluster) kindName() string { return "opensandbox-" + c.id() }

// requireKind says in one line what is missing.
func requireKind() error {
	if _, err := exec.LookPath("kind"); err != nil {
		return errors.New("--cluster=kind needs the program kind, which is not in PATH: install it, or use --cluster=node")
	}
	for _, engine := range []string{"docker", "podman", "nerdctl"} {
		if _, err := exec.LookPath(engine); err == nil {
			return nil
		}
	}
	return errors.New("--cluster=kind needs a container engine (docker, podman or nerdctl): install one, or use --cluster=node")
}

func (c *cluster) upKind(ctx context.Context, p *progress) error {
	if err := requireKind(); err != nil {
		return err
	}
	st := &state{Name: c.name, Checkout: c.checkout, Kind: kindKind, Slot: -1}
	if err := c.save(st); err != nil {
		return err
	}
	err := p.step("kind create cluster", func() error {
		return runVisible(ctx, "kind", "create", "cluster", "--name", c.kindName(), "--kubeconfig", c.kubeconfig(), "--wait", "3m")
	})
	if err != nil {
		return err
	}
	st.Ready = true
	if err := c.save(st); err != nil {
		return err
	}
	p.say("cluster %q is up: export KUBECONFIG=%s", c.name, c.kubeconfig())
	return nil
}

func (c *cluster) stopKind(ctx context.Context) error {
	if err := requireKind(); err != nil {
		return err
	}
	return runVisible(ctx, "kind", "delete", "cluster", "--name", c.kindName(), "--kubeconfig", c.kubeconfig())
}

func (c *cluster) kindHealthy(ctx context.Context) bool {
	if requireKind() != nil {
		return false
	}
	return exec.CommandContext(ctx, "kind", "get", "kubeconfig", "--name", c.kindName()).Run() == nil
}

// runVisible runs a program whose output is for the person at the terminal.
func runVisible(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}
