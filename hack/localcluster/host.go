// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// connect leads a pair of links into the node's network namespace, so that the host reaches pods by their address. The
// link is removed by the kernel when the namespace goes.
func (b *bringer) connect(ctx context.Context, a addresses) error {
	pid := strconv.Itoa(b.crew.process.PID)
	bits := fmt.Sprintf("/%d", a.uplink().Bits())
	inside := []string{"nsenter", "--net=/proc/" + pid + "/ns/net"}
	for _, step := range []struct {
		in   []string
		args string
	}{
		{nil, "link add " + b.link() + " type veth peer name eth0 netns " + pid},
		{nil, "addr add " + a.host().String() + bits + " dev " + b.link()},
		{nil, "link set " + b.link() + " up"},
		{inside, "link set lo up"},
		{inside, "addr add " + a.node().String() + bits + " dev eth0"},
		{inside, "link set eth0 up"},
		// The node has no way out, so it needs a route to have a source address for the Services' before they are rewritten.
		{inside, "route add " + services.String() + " dev eth0 src " + a.node().String()},
		{nil, "route add " + a.pods().String() + " via " + a.node().String() + " dev " + b.link()},
	} {
		if err := ip(ctx, step.in, step.args); err != nil {
			return err
		}
	}
	return nil
}

// disconnect removes the link if it is still there.
func (c *cluster) disconnect(ctx context.Context) error {
	if _, err := net.InterfaceByName(c.link()); err != nil {
		return nil //nolint:nilerr // no such link is what is wanted
	}
	err := ip(ctx, nil, "link delete "+c.link())
	if _, gone := net.InterfaceByName(c.link()); gone != nil {
		return nil // the kernel was faster
	}
	return err
}

// ip runs the program of that name, with prefix before it.
func ip(ctx context.Context, prefix []string, args string) error {
	program, err := findProgram("ip")
	if err != nil {
		return err
	}
	line := append(slices.Concat(prefix, []string{program}), strings.Fields(args)...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}

// cgroupMounts finds the hierarchies: one for version 2, several for version 1.
func cgroupMounts(mountinfo string) []string {
	var mounts []string
	for line := range strings.SplitSeq(mountinfo, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 {
			continue
		}
		if kind, _, _ := strings.Cut(after, " "); kind == "cgroup" || kind == "cgroup2" {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

func eachCgroup(root string, do func(dir string) error) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range cgroupMounts(string(data)) {
		errs = append(errs, do(filepath.Join(m, root)))
	}
	return errors.Join(errs...)
}

// makeCgroups makes the kubelet's root group, which it expects in every hierarchy.
func makeCgroups(root string) error {
	return eachCgroup(root, func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return inheritCpuset(dir)
	})
}

// inheritCpuset fills what version 1 leaves empty in a new group of the cpuset hierarchy; no process can enter it else.
func inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || len(bytes.TrimSpace(own)) > 0 {
			continue // another hierarchy, or version 2
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil || len(bytes.TrimSpace(parent)) == 0 {
			continue // version 2, whose empty value means the parent's
		}
		if err := os.WriteFile(filepath.Join(dir, file), parent, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes the group and all below it. Killed processes leave their groups a moment after they are gone.
func removeCgroups(ctx context.Context, root string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return eachCgroup(root, func(dir string) error {
		var last error
		err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
			last = removeTree(dir)
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w (%w)", dir, err, last)
		}
		return nil
	})
}

// removeTree removes folders only, deepest first: the files of a cgroup can't be removed and need not be.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
