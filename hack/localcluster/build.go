// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// component is a set of binaries built from one module under hack/, whose go.mod pins the version.
type component struct {
	folder   string   // under hack/
	module   string   // whose required version names the component's
	packages []string // main packages; the binary has the last element's name unless renamed
	rename   map[string]string
	ldflags  func(version string) []string
	// after copies what else is needed into the component's folder.
	after func(ctx context.Context, source, out string) error
}

var (
	etcdComponent = component{
		folder:   "etcd",
		module:   "go.etcd.io/etcd/server/v3",
		packages: []string{"go.etcd.io/etcd/server/v3"},
		rename:   map[string]string{"v3": "etcd", "server": "etcd"},
	}
	kubernetesComponent = component{
		folder: "kubernetes",
		module: "k8s.io/kubernetes",
		packages: []string{
			"k8s.io/kubernetes/cmd/kube-apiserver",
			"k8s.io/kubernetes/cmd/kube-controller-manager",
			"k8s.io/kubernetes/cmd/kube-scheduler",
			"k8s.io/kubernetes/cmd/kubectl",
		},
		ldflags: kubernetesVersion,
	}
	kubeletComponent = component{
		folder:   "kubernetes",
		module:   "k8s.io/kubernetes",
		packages: []string{"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-proxy"},
		ldflags:  kubernetesVersion,
	}
	containerdComponent = component{
		folder: "containerd",
		module: "github.com/containerd/containerd/v2",
		packages: []string{
			"github.com/containerd/containerd/v2/cmd/containerd",
			"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"github.com/containerd/containerd/v2/cmd/ctr",
		},
		ldflags: func(version string) []string {
			return []string{"-X", "github.com/containerd/containerd/v2/version.Version=" + version}
		},
	}
	kwokComponent = component{
		folder:   "kwok",
		module:   "sigs.k8s.io/kwok",
		packages: []string{"sigs.k8s.io/kwok/cmd/kwok"},
		ldflags: func(version string) []string {
			return []string{"-X", "sigs.k8s.io/kwok/pkg/consts.Version=" + version}
		},
		after: copyStages,
	}
)

// kubernetesVersion sets what `kubectl version` and the nodes show.
func kubernetesVersion(version string) []string {
	const pkg = "k8s.io/component-base/version"
	parts := strings.Split(strings.TrimPrefix(semver.MajorMinor(version), "v"), ".")
	return []string{
		"-X", pkg + ".gitVersion=" + version,
		"-X", pkg + ".gitMajor=" + parts[0],
		"-X", pkg + ".gitMinor=" + parts[1],
		"-X", pkg + ".gitTreeState=clean",
		"-X", pkg + ".gitCommit=",
		"-X", pkg + ".buildDate=1970-01-01T00:00:00Z",
	}
}

func componentsOf(kind string) ([]component, error) {
	switch kind {
	case kindKwok:
		return []component{etcdComponent, kubernetesComponent, kwokComponent}, nil
	case kindNode:
		return []component{etcdComponent, kubernetesComponent, kwokComponent, kubeletComponent, containerdComponent}, nil
	default:
		return nil, fmt.Errorf("cluster kind %q has no binaries of its own: use %s or %s", kind, kindNode, kindKwok)
	}
}

// version is what the module's go.mod requires: the only place where it stands.
func (c component) version(checkout string) (string, error) {
	file := filepath.Join(checkout, "hack", c.folder, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		return "", err
	}
	for _, r := range mod.Require {
		if r.Mod.Path == c.module {
			return r.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", file, c.module)
}

func (c component) binaries() []string {
	names := make([]string, 0, len(c.packages))
	for _, p := range c.packages {
		names = append(names, c.binary(path.Base(p)))
	}
	return names
}

func (c component) binary(built string) string {
	if name, ok := c.rename[built]; ok {
		return name
	}
	return built
}

// assets builds what is missing and returns a folder with all binaries that kind needs. The folder's name is a function
// of what it holds, so that a checkout of another version gets another folder.
func (l layout) assets(ctx context.Context, kind string, p *progress) (string, error) {
	components, err := componentsOf(kind)
	if err != nil {
		return "", err
	}
	links := map[string]string{} // name -> file
	for _, c := range components {
		dir, err := l.build(ctx, c, p)
		if err != nil {
			return "", err
		}
		for _, name := range c.binaries() {
			links[name] = filepath.Join(dir, name)
		}
		if c.after != nil {
			links["stages"] = filepath.Join(dir, "stages")
		}
	}
	if err := useEnvironment(links); err != nil {
		return "", err
	}
	return l.link(kind, links)
}

// useEnvironment prefers the three binaries of KUBEBUILDER_ASSETS where that is set.
func useEnvironment(links map[string]string) error {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		return nil
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		file, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("KUBEBUILDER_ASSETS is set but has no %s: unset it or complete it: %w", name, err)
		}
		links[name] = file
	}
	return nil
}

func (l layout) link(kind string, links map[string]string) (string, error) {
	names := make([]string, 0, len(links))
	for name := range links {
		names = append(names, name)
	}
	slices.Sort(names)
	key := make([]string, 0, 2*len(names))
	for _, name := range names {
		key = append(key, name, links[name])
	}
	dir := filepath.Join(l.cache, "bin", "assets-"+kind+"-"+shortHash(key...)[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".assets-*")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if err := os.Symlink(links[name], filepath.Join(tmp, name)); err != nil {
			return "", errors.Join(err, os.RemoveAll(tmp))
		}
	}
	err = errors.Join(os.Chmod(tmp, 0o755), os.Rename(tmp, dir))
	if err == nil {
		return dir, nil
	}
	cleanErr := os.RemoveAll(tmp)
	if _, statErr := os.Stat(dir); statErr == nil {
		return dir, cleanErr // another command made the same folder at the same time
	}
	return "", errors.Join(err, cleanErr)
}

// build compiles a component into the cache unless it is there already, and returns its folder.
func (l layout) build(ctx context.Context, c component, p *progress) (string, error) {
	version, err := c.version(l.checkout)
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(path.Base(c.packages[0]), ".git")
	if c.folder == "etcd" || c.folder == "kubernetes" && name == "kube-apiserver" {
		name = c.folder
	}
	dir := filepath.Join(l.cache, "bin", name+"-"+version)
	if c.complete(dir) {
		return dir, nil
	}
	unlock, err := lock(filepath.Join(l.cache, "bin", ".lock-"+name+"-"+version), func() {
		p.say("waiting for another build of %s %s", name, version)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.complete(dir) {
		return dir, nil
	}
	what := fmt.Sprintf("building %s %s into the cache (%s)", name, version, strings.Join(c.binaries(), ", "))
	return dir, p.step(what, func() error { return c.compile(ctx, filepath.Join(l.checkout, "hack", c.folder), version, dir) })
}

func (c component) complete(dir string) bool {
	for _, name := range c.binaries() {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// compile builds into a temporary folder and renames it, so that dir is complete whenever it exists.
func (c component) compile(ctx context.Context, source, version, dir string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".build-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	flags := []string{"-s", "-w"}
	if c.ldflags != nil {
		flags = append(flags, c.ldflags(version)...)
	}
	args := []string{"build", "-C", source, "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", strings.Join(flags, " "), "-o", tmp + "/"}
	if err := runGo(ctx, append(args, c.packages...)...); err != nil {
		return fmt.Errorf("build %s: %w", c.folder, err)
	}
	for built, name := range c.rename {
		err := os.Rename(filepath.Join(tmp, built), filepath.Join(tmp, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if c.after != nil {
		if err := c.after(ctx, source, tmp); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), os.RemoveAll(dir)); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// runGo runs the go command for static binaries. A GOFLAGS of the caller could change what is built; it is dropped.
func runGo(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, tail(out.Bytes(), 30))
	}
	return nil
}

// tail returns the last n lines of data.
func tail(data []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// copyStages copies what tells kwok how simulated pods and nodes behave: its module has it beside the source.
func copyStages(ctx context.Context, source, out string) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-C", source, "-mod=readonly", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	dir, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("find kwok's module: %w", err)
	}
	module := strings.TrimSpace(string(dir))
	stages := filepath.Join(out, "stages")
	if err := os.Mkdir(stages, 0o755); err != nil {
		return err
	}
	for _, file := range []string{
		"node/fast/node-initialize.yaml", "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
		"pod/fast/pod-ready.yaml", "pod/fast/pod-complete.yaml", "pod/fast/pod-delete.yaml",
	} {
		data, err := os.ReadFile(filepath.Join(module, "kustomize", "stage", filepath.FromSlash(file)))
		if err != nil {
			return fmt.Errorf("read kwok's stage: %w", err)
		}
		if err := os.WriteFile(filepath.Join(stages, path.Base(file)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
