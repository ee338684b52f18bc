// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// hostNeeds are the programs of the host that a real node runs, and the Debian packages that have them.
var hostNeeds = []struct{ file, pkg string }{
	{"runc", "runc"},
	{"/usr/lib/cni/ptp", "containernetworking-plugins"},
	{"ip", "iproute2"},
	{"iptables", "iptables"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
}

// sbin is searched besides PATH, which lacks it for many users.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// findProgram is exec.LookPath that also knows the folders of system programs.
func findProgram(name string) (string, error) {
	file, err := exec.LookPath(name)
	if err == nil {
		return file, nil
	}
	for _, dir := range sbin {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", err
}

func missingPackages() []string {
	var missing []string
	for _, n := range hostNeeds {
		if _, err := findProgram(n.file); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// installMissing installs what a real node needs of the host, where it may.
func installMissing(ctx context.Context, p *progress) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing on this machine, and no apt-get to get it with: install the equals of the Debian packages %s",
			strings.Join(missing, " "))
	}
	err := p.step("installing Debian packages: "+strings.Join(missing, " "), func() error {
		args := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
		return aptGet(ctx, p, args...)
	})
	if err != nil {
		return err
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("apt-get installed the packages %s, but their programs are still not found", strings.Join(still, " "))
	}
	return nil
}

// aptGet runs apt-get, and once more after an update of its lists if that failed: fresh machines have none.
func aptGet(ctx context.Context, p *progress, args ...string) error {
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, tail(out, 10))
		}
		return nil
	}
	first := run(args...)
	if first == nil || os.Geteuid() != 0 {
		return first
	}
	p.say("that failed; updating the package lists and trying once more")
	if err := run("update", "-q"); err != nil {
		return errors.Join(first, err)
	}
	return run(args...)
}

// fetchPackages downloads packages and all they depend on into dir and returns the files, sorted. It installs nothing and
// does not look at what this machine has installed, so that the result is the same on every machine of a distribution.
func fetchPackages(ctx context.Context, p *progress, dir string, packages ...string) ([]string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, fmt.Errorf("no apt-get on this machine: images are built from the Debian packages %s", strings.Join(packages, " "))
	}
	if err := os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755); err != nil {
		return nil, err
	}
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	args := append([]string{
		"-q", "-y", "--no-install-recommends", "--download-only",
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache=" + dir,
		"-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=",
		"install",
	}, packages...)
	if err := aptGet(ctx, p, args...); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "archives", "*.deb"))
	slices.Sort(files)
	return files, err
}

// unpack calls visit for every entry of a package's file system.
func unpack(ctx context.Context, deb string, visit func(h *tar.Header, content io.Reader) error) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_, drainErr := io.Copy(io.Discard, out) // the padding at the end; else dpkg-deb dies of a broken pipe
		err = errors.Join(err, drainErr, cmd.Wait())
		if err != nil {
			err = fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}()
	in := tar.NewReader(out)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(h, in); err != nil {
			return err
		}
	}
}
