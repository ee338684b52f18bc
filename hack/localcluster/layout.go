// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

const (
	defaultName = "default"

	kindNode = "node"
	kindKwok = "kwok"
	kindKind = "kind"
)

// layout holds the two places everything hangs on.
type layout struct {
	checkout string // root of the project's source
	cache    string // shared by all checkouts of this user: binaries, images, clusters' state
}

// findLayout looks for the checkout from the working folder upwards.
func findLayout() (layout, error) {
	dir, err := os.Getwd()
	if err != nil {
		return layout{}, fmt.Errorf("find the checkout: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return layout{}, fmt.Errorf("find the cache folder, set HOME or XDG_CACHE_HOME: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "localcluster", "go.mod")); err == nil {
			return layout{checkout: dir, cache: filepath.Join(cache, "opensandbox")}, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return layout{}, errors.New("find the checkout: no hack/localcluster above the working folder; run it inside the project")
		}
		dir = up
	}
}

// cluster names one cluster of one checkout and knows its paths.
type cluster struct {
	layout
	name string
}

// A name is short: it is part of the state folder's name, and a person types it.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func openCluster(name string) (*cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q: use at most 32 of a-z, 0-9 and -, beginning and ending with a letter or digit", name)
	}
	lay, err := findLayout()
	if err != nil {
		return nil, err
	}
	return &cluster{layout: lay, name: name}, nil
}

func shortHash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// id tells this cluster from every other one on the machine: 8 hexadecimal digits.
func (c *cluster) id() string { return shortHash(c.cache, c.checkout, c.name)[:8] }

// link is the name of the host's end of the pair that leads to the node; Linux allows 15 bytes.
func (c *cluster) link() string { return "osb-" + c.id() }

// cgroup is the root of the node's cgroups, in every hierarchy.
func (c *cluster) cgroup() string { return "/opensandbox-" + c.id() }

func (l layout) clusters() string { return filepath.Join(l.cache, "clusters") }

func (c *cluster) dir() string {
	return filepath.Join(c.clusters(), shortHash(c.checkout)[:12]+"-"+c.name)
}

func (c *cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir()}, elem...)...)
}

func (c *cluster) kubeconfig() string        { return c.path("kubeconfig") }
func (c *cluster) log(part string) string    { return c.path("logs", part+".log") }
func (c *cluster) cert(name string) string   { return c.path("pki", name+".crt") }
func (c *cluster) key(name string) string    { return c.path("pki", name+".key") }
func (c *cluster) config(name string) string { return c.path("config", name) }

// lock takes the lock file at path and waits for it; waiting is told once. The file stays, so that two waiters never
// hold two different files.
func lock(path string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		waiting()
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing drops the lock; there is nothing to do about an error
}

// lock keeps `up`, `down` and `push` of one cluster from running at once.
func (c *cluster) lock(p *progress) (unlock func(), err error) {
	return lock(c.dir()+".lock", func() { p.say("waiting for another command on cluster %q", c.name) })
}

// writeFile makes path appear with all of its content or not at all.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
