// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// recipe is raised when a stand-in is built in another way, so that cached ones are built anew.
const recipe = "1"

// basePackages make a small Debian: a shell, the usual programs, and what they need. usr-is-merged keeps apt from
// choosing the package that would merge /usr with a Perl script.
var basePackages = []string{
	"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "findutils", "grep", "gzip", "hostname",
	"libc-bin", "mawk", "ncurses-base", "procps", "sed", "tar", "usr-is-merged", "util-linux",
}

// standIn is an image under the name of a well-known one, so that examples run word for word without a network.
type standIn struct {
	ref      string
	packages []string // beyond the base; nil means busybox alone
	config   v1.Config
	finish   func(r rootfs)
}

const standInText = "Stand-in for %s on a local OpenSandbox cluster, built from Debian packages. Not the image of that name on Docker Hub."

func standIns() []standIn {
	return []standIn{
		{ref: "busybox:latest", config: v1.Config{Cmd: []string{"sh"}, Env: []string{pathEnv}}},
		{ref: "ubuntu:latest", packages: []string{}, config: v1.Config{Cmd: []string{"/bin/bash"}, Env: []string{pathEnv}}, finish: func(rootfs) {}},
		{ref: "nginx:latest", packages: []string{"nginx"}, config: v1.Config{
			Cmd:          []string{"nginx", "-g", "daemon off;"},
			Env:          []string{pathEnv},
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
			StopSignal:   "SIGQUIT",
		}, finish: finishNginx},
	}
}

// finishNginx arranges Debian's nginx as users of the container image know it: one page, logs on the container's output.
func finishNginx(r rootfs) {
	r.file("etc/nginx/nginx.conf", 0o644, []byte(`user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events {
    worker_connections 1024;
}
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
`))
	r.file("etc/nginx/conf.d/default.conf", 0o644, []byte(`server {
    listen 80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html;
    }
}
`))
	r.dir("var/log/nginx", 0o755)
	r.dir("var/lib/nginx", 0o755)
}

func (s standIn) build(ctx context.Context, lay layout, p *progress) (v1.Image, error) {
	var r rootfs
	if s.packages == nil {
		busybox, err := lay.busybox(ctx, p)
		if err != nil {
			return nil, err
		}
		if r, err = busyboxRoot(busybox); err != nil {
			return nil, err
		}
	} else {
		err := withDebs(ctx, p, append(s.packages, basePackages...), func(debs []string) (err error) {
			r, err = debianRoot(ctx, debs)
			return err
		})
		if err != nil {
			return nil, err
		}
		s.finish(r)
	}
	text := fmt.Sprintf(standInText, s.ref)
	r.file("README.opensandbox", 0o644, []byte(text+"\n"))
	s.config.Labels = describe(text)
	return buildImage(r, s.config)
}

// standInImages returns all stand-ins, building those that the cache lacks.
func (l layout) standInImages(ctx context.Context, p *progress) ([]loadable, error) {
	var images []loadable
	for _, s := range standIns() {
		key := shortHash(recipe, distribution(), runtime.GOARCH, strings.Join(s.packages, " "), strings.Join(basePackages, " "))[:12]
		img, err := l.cachedImage(s.ref, key, p, func() (v1.Image, error) { return s.build(ctx, l, p) })
		if err != nil {
			return nil, err
		}
		images = append(images, loadable{s.ref, img})
	}
	return images, nil
}

// cachedImage builds the image once per key.
func (l layout) cachedImage(ref, key string, p *progress, build func() (v1.Image, error)) (v1.Image, error) {
	short := strings.NewReplacer("/", "-", ":", "-").Replace(ref)
	file := filepath.Join(l.cache, "images", short+"-"+key+".tar")
	unlock, err := lock(filepath.Join(l.cache, "images", ".lock"), func() { p.say("waiting for another build of images") })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(file); err != nil {
		err := p.step("building image "+ref, func() error {
			img, err := build()
			if err != nil {
				return err
			}
			return loadable{ref, img}.write(file)
		})
		if err != nil {
			return nil, fmt.Errorf("build image %s: %w", ref, err)
		}
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, err
	}
	return tarball.ImageFromPath(file, &tag)
}

// pause is what keeps a pod's namespaces; see pause/main.go.
func (l layout) pause(ctx context.Context, p *progress) (v1.Image, error) {
	source := filepath.Join(l.checkout, "hack", "localcluster")
	code, err := os.ReadFile(filepath.Join(source, "pause", "main.go"))
	if err != nil {
		return nil, err
	}
	key := shortHash(recipe, runtime.Version(), runtime.GOARCH, string(code))[:12]
	return l.cachedImage(pauseImage, key, p, func() (v1.Image, error) {
		dir, err := os.MkdirTemp("", "opensandbox-pause-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		file := filepath.Join(dir, "pause")
		if err := runGo(ctx, "build", "-C", source, "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, "./pause"); err != nil {
			return nil, err
		}
		r := rootfs{}
		if err := r.program("pause", file); err != nil {
			return nil, err
		}
		return buildImage(r, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"})
	})
}

// busybox returns Debian's static busybox, from the cache.
func (l layout) busybox(ctx context.Context, p *progress) (string, error) {
	file := filepath.Join(l.cache, "images", "busybox-static-"+shortHash(recipe, distribution(), runtime.GOARCH)[:12])
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, p.step("getting Debian's busybox-static", func() error {
		return withDebs(ctx, p, []string{"busybox-static"}, func(debs []string) error {
			r := rootfs{}
			for _, deb := range debs {
				if err := unpack(ctx, deb, r.add); err != nil {
					return err
				}
			}
			program, ok := r["usr/bin/busybox"]
			if !ok {
				return errors.New("the package busybox-static has no /bin/busybox")
			}
			return writeFile(file, program.content, 0o755)
		})
	})
}

// withDebs calls use with the downloaded packages and removes them.
func withDebs(ctx context.Context, p *progress, packages []string, use func(debs []string) error) error {
	dir, err := os.MkdirTemp("", "opensandbox-debs-")
	if err != nil {
		return err
	}
	debs, err := fetchPackages(ctx, p, dir, packages...)
	if err == nil {
		err = use(debs)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// distribution is the host's, whose packages are used: "debian 12".
func distribution() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "unknown"
	}
	var id, version string
	for line := range strings.SplitSeq(string(data), "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "ID":
			id = strings.Trim(value, `"`)
		case "VERSION_ID":
			version = strings.Trim(value, `"`)
		}
	}
	return id + " " + version
}

// checkStatic refuses a binary that names a loader.
func checkStatic(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s is not a Linux binary: %w", file, err)
	}
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked, but its image has no libraries: build it with CGO_ENABLED=0", file)
		}
	}
	return nil
}
