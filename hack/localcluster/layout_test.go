// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testCluster(t *testing.T, name string) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{layout: layout{checkout: filepath.Join(dir, "checkout"), cache: filepath.Join(dir, "cache")}, name: name}
	for _, d := range []string{"logs", "config", "pki"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"default": true, "a": true, "e2e-1": true, strings.Repeat("a", 32): true,
		"": false, "-a": false, "a-": false, "A": false, "a/b": false, "..": false, "a b": false, strings.Repeat("a", 33): false,
	} {
		if got := validName.MatchString(name); got != want {
			t.Errorf("name %q: valid %v, want %v", name, got, want)
		}
	}
}

func TestNamesOfTheKernelAreDistinctAndShort(t *testing.T) {
	seen := map[string]string{}
	for _, cache := range []string{"/home/v/.cache/opensandbox", "/home/u/.cache/opensandbox"} {
		for _, checkout := range []string{"/src/a", "/src/b"} {
			for _, name := range []string{"default", strings.Repeat("n", 32)} {
				c := &cluster{layout: layout{checkout: checkout, cache: cache}, name: name}
				if n := len(c.link()); n > 15 {
					t.Errorf("link %q has %d bytes, Linux allows 15", c.link(), n)
				}
				key := cache + " " + checkout + " " + name
				for _, got := range []string{c.link(), c.cgroup(), c.dir()} {
					if other, ok := seen[got]; ok {
						t.Errorf("%s and %s share %s", key, other, got)
					}
					seen[got] = key
				}
			}
		}
	}
}

// Sockets have at most 107 bytes of path. Inside the node they are at fixed places, however deep the cache is.
func TestNodeHasNoSocketUnderTheCache(t *testing.T) {
	c := &cluster{layout: layout{checkout: "/x", cache: "/" + strings.Repeat("long", 30)}, name: "default"}
	n := &nodeConfig{cluster: c, assets: "/assets"}
	if got := n.kubeletConfig()["containerRuntimeEndpoint"]; got != "unix://"+containerdSocket {
		t.Errorf("runtime endpoint is %v", got)
	}
	for _, arg := range n.kubelet().Args {
		if strings.HasPrefix(arg, "--root-dir") {
			t.Errorf("%s moves the kubelet's sockets", arg)
		}
	}
	if config := n.containerdConfig("/usr/sbin/runc"); !strings.Contains(config, "state = \"/run/containerd\"\n") {
		t.Errorf("containerd's sockets are not in /run:\n%s", config)
	}
}

func TestLockIsHeldByOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "lock")
	unlock, err := lock(path, func() { t.Error("the first one waits") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, taken := make(chan struct{}), make(chan error, 1)
	go func() {
		second, err := lock(path, func() { close(waiting) })
		if err == nil {
			second()
		}
		taken <- err
	}()
	select {
	case <-waiting:
	case <-time.After(10 * time.Second):
		t.Fatal("the second one did not wait")
	}
	select {
	case err := <-taken:
		t.Fatalf("the second one did not wait for the lock to be dropped (error: %v)", err)
	default:
	}
	unlock()
	select {
	case err := <-taken:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the second one never got the lock")
	}
}
