// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func runDown(ctx context.Context, args []string) error {
	fs := newFlags("down")
	name := fs.String("name", defaultName, "name of the cluster")
	all := fs.Bool("all", false, "stop all clusters of this checkout")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	p := newProgress(os.Stderr)
	names := []string{*name}
	if *all {
		lay, err := findLayout()
		if err != nil {
			return err
		}
		if names, err = lay.clusterNames(); err != nil {
			return err
		}
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, down(ctx, n, p))
	}
	return errors.Join(errs...)
}

// clusterNames lists the clusters of this checkout, running or not.
func (l layout) clusterNames() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(l.clusters(), "*", "state.json"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		st, err := loadState(f)
		if err != nil {
			return nil, err
		}
		if st != nil && st.Checkout == l.checkout {
			names = append(names, st.Name)
		}
	}
	return names, nil
}

func down(ctx context.Context, name string, p *progress) error {
	cl, err := openCluster(name)
	if err != nil {
		return err
	}
	unlock, err := cl.lock(p)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := cl.load()
	if err != nil {
		return err
	}
	if st == nil {
		p.say("cluster %q is not up", name)
		return os.RemoveAll(cl.dir()) // what a crash before the first state left
	}
	if err := cl.remove(ctx, st); err != nil {
		return fmt.Errorf("stop cluster %q: %w", name, err)
	}
	p.say("cluster %q is down", name)
	return nil
}

// remove leaves nothing of the cluster.
func (c *cluster) remove(ctx context.Context, st *state) error {
	if err := c.stop(ctx, st); err != nil {
		return err
	}
	return os.RemoveAll(c.dir())
}

// stop ends everything and leaves only the state folder. All parts are killed at once: nothing of the data is kept, so
// none of them has anything to save, and none waits for another one that is gone.
func (c *cluster) stop(ctx context.Context, st *state) error {
	if st.Kind == kindKind {
		return c.stopKind(ctx)
	}
	if err := endAll(ctx, st.Supervisor, c.dir()); err != nil {
		return err
	}
	if st.Kind == kindNode {
		return c.cleanHost(ctx)
	}
	return nil
}
