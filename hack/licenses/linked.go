// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// standardLibrary is the name of what is linked and is no module.
const standardLibrary = "the Go standard library"

// platforms are those the binaries are built for; modules may be linked on one of them alone.
var platforms = []string{"linux/amd64", "linux/arm64"}

// legalNames are files that speak of licences, licenceNames those that are one.
var (
	legalNames   = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying|copyright|notice|patents)s?([.-]|$)`)
	licenceNames = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)s?([.-]|$)`)
	sourceNames  = regexp.MustCompile(`\.go$`)
)

// file is a text about the licence of what is linked.
type file struct {
	module string // path of the module, or standardLibrary
	path   string // within the module, with slashes
	text   []byte
}

func (f file) String() string { return f.module + ": " + f.path }

// isLicence tells a licence from what only goes with one.
func (f file) isLicence() bool { return licenceNames.MatchString(filepath.Base(f.path)) }

// linked is what the binaries of a checkout contain, both sorted.
type linked struct {
	modules []string
	files   []file
}

// findLinked returns the modules that are linked into a binary of the checkout with their texts: those beside a linked package
// and in the folders above it, up to the module's top. What is embedded from a folder third_party/NAME is the module NAME.
func findLinked(ctx context.Context, checkout string) (linked, error) {
	packages := make(map[linkedPackage]bool)
	for _, platform := range platforms {
		if err := listPackages(ctx, checkout, platform, packages); err != nil {
			return linked{}, err
		}
	}
	var l linked
	found := make(map[string]file) // by module and path: packages share folders
	for p := range packages {
		l.modules = append(l.modules, p.module)
		if err := readFolders(p, found); err != nil {
			return linked{}, err
		}
	}
	slices.Sort(l.modules)
	l.modules = slices.Compact(l.modules)
	l.files = slices.SortedFunc(maps.Values(found), func(a, b file) int { return strings.Compare(a.String(), b.String()) })
	return l, nil
}

// linkedPackage is a package that is linked into a binary, as folders of this machine.
type linkedPackage struct {
	module string
	dir    string // of the package
	top    string // of its module
}

// listPackages adds the packages of other modules, and the standard library as one.
func listPackages(ctx context.Context, checkout, platform string, packages map[linkedPackage]bool) error {
	goos, goarch, _ := strings.Cut(platform, "/")
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	out, err := goCommand(ctx, checkout, env, "list", "-deps",
		"-f", `{{if .Standard}}std{{else}}{{with .Module}}{{if .Main}}{{range $.EmbedFiles}}embed{{"\t"}}{{$.Dir}}/{{.}}{{"\n"}}{{end}}`+
			`{{else}}{{.Path}}{{"\t"}}{{$.Dir}}{{"\t"}}{{.Dir}}{{end}}{{end}}{{end}}`, "./cmd/...")
	if err != nil {
		return fmt.Errorf("list what is linked for %s: %w", platform, err)
	}
	root, err := goCommand(ctx, checkout, env, "env", "GOROOT")
	if err != nil {
		return fmt.Errorf("find the standard library: %w", err)
	}
	for line := range strings.Lines(out) {
		cells := strings.Split(strings.TrimSpace(line), "\t")
		switch {
		case cells[0] == "std":
			goroot := strings.TrimSpace(root)
			packages[linkedPackage{module: standardLibrary, dir: goroot, top: goroot}] = true
		case cells[0] == "embed" && len(cells) == 2:
			addEmbedded(cells[1], packages)
		case len(cells) == 3:
			packages[linkedPackage{module: cells[0], dir: cells[1], top: cells[2]}] = true
		}
	}
	return nil
}

// addEmbedded adds the project that an embedded file is from, if it is another one: its folder is in one that is named third_party.
func addEmbedded(file string, packages map[linkedPackage]bool) {
	before, path, ok := strings.Cut(filepath.ToSlash(file), "/third_party/")
	if !ok {
		return
	}
	name, _, _ := strings.Cut(path, "/")
	dir := filepath.Join(before, "third_party", name)
	packages[linkedPackage{module: name, dir: dir, top: dir}] = true
}

func goCommand(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.Output()
	if exit := (&exec.ExitError{}); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// readFolders adds the texts in a package's folder and in those above it.
func readFolders(p linkedPackage, found map[string]file) error {
	for dir := p.dir; ; dir = filepath.Dir(dir) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("look for licences of %s: %w", p.module, err)
		}
		for _, e := range entries {
			if e.IsDir() || !legalNames.MatchString(e.Name()) || sourceNames.MatchString(e.Name()) {
				continue
			}
			if err := readFile(p, filepath.Join(dir, e.Name()), found); err != nil {
				return err
			}
		}
		if dir == p.top || !strings.HasPrefix(dir, p.top) {
			return nil
		}
	}
}

func readFile(p linkedPackage, name string, found map[string]file) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read a licence of %s: %w", p.module, err)
	}
	path, err := filepath.Rel(p.top, name)
	if err != nil {
		return fmt.Errorf("read a licence of %s: %w", p.module, err)
	}
	f := file{module: p.module, path: filepath.ToSlash(path), text: text}
	found[f.String()] = f
	return nil
}
