// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	defaultControllerImage = "opensandbox/controller:dev"
	defaultExecutorImage   = "opensandbox/task-executor:dev"
	defaultBin             = "bin" // under the checkout, where `make build` writes
	pauseImage             = "opensandbox/pause:dev"

	pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// loadable is an image with the name it is loaded or pushed under.
type loadable struct {
	ref   string
	image v1.Image
}

// buildImage makes an image of one layer. It has a platform: runtimes skip images without.
func buildImage(r rootfs, config v1.Config) (v1.Image, error) {
	data, err := r.layer()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = config
	return mutate.ConfigFile(img, file)
}

func describe(text string) map[string]string {
	return map[string]string{"org.opencontainers.image.description": text}
}

// controllerImage is the binary and nothing else.
func controllerImage(bin string) (v1.Image, error) {
	r := rootfs{}
	if err := addStatic(r, "controller", filepath.Join(bin, "controller")); err != nil {
		return nil, err
	}
	return buildImage(r, v1.Config{
		Entrypoint: []string{"/controller"},
		User:       "65532:65532",
		WorkingDir: "/",
		Env:        []string{pathEnv},
		Labels:     describe("OpenSandbox controller"),
	})
}

// executorImage is a static busybox with the binary, which is also where older pool manifests copy it from.
func executorImage(busybox, bin string) (v1.Image, error) {
	r, err := busyboxRoot(busybox)
	if err != nil {
		return nil, err
	}
	for _, to := range []string{"task-executor", "workspace/server"} {
		if err := addStatic(r, to, filepath.Join(bin, "task-executor")); err != nil {
			return nil, err
		}
	}
	return buildImage(r, v1.Config{
		Entrypoint:   []string{"/task-executor"},
		WorkingDir:   "/",
		Env:          []string{pathEnv},
		ExposedPorts: map[string]struct{}{"5758/tcp": {}},
		Labels:       describe("OpenSandbox task executor"),
	})
}

// addStatic takes a binary that needs no loader, since these images have none.
func addStatic(r rootfs, name, file string) error {
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	if err := checkStatic(file); err != nil {
		return err
	}
	return r.program(name, file)
}

// busyboxRoot has one link per applet. /bin, not /usr/bin: that is where a busybox image has them.
func busyboxRoot(busybox string) (rootfs, error) {
	out, err := exec.Command(busybox, "--list").Output() //nolint:noctx // it prints a list
	if err != nil {
		return nil, fmt.Errorf("list the applets of busybox: %w", err)
	}
	r := rootfs{}
	if err := r.program("bin/busybox", busybox); err != nil {
		return nil, err
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			r.symlink("bin/"+applet, "busybox")
		}
	}
	r.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"))
	r.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	for _, dir := range []string{"proc", "sys", "dev", "run", "var", "usr/bin", "usr/sbin", "sbin"} {
		r.dir(dir, 0o755)
	}
	r.dir("root", 0o700)
	r.dir("tmp", 0o1777)
	return r, nil
}

// projectImages builds both images of the project from its binaries.
func (l layout) projectImages(ctx context.Context, o imageOptions, p *progress) ([]loadable, error) {
	busybox, err := l.busybox(ctx, p)
	if err != nil {
		return nil, err
	}
	controller, err := controllerImage(o.bin)
	if err != nil {
		return nil, err
	}
	executor, err := executorImage(busybox, o.bin)
	if err != nil {
		return nil, err
	}
	return []loadable{{o.controller, controller}, {o.executor, executor}}, nil
}

// imageOptions are the flags that `images` and `push` share.
type imageOptions struct {
	bin        string
	controller string
	executor   string
}

func (o *imageOptions) register(fs flagSet, lay layout) {
	fs.StringVar(&o.bin, "bin", filepath.Join(lay.checkout, defaultBin), "folder of the project's static binaries")
	fs.StringVar(&o.controller, "controller-image", defaultControllerImage, "name of the controller's image")
	fs.StringVar(&o.executor, "task-executor-image", defaultExecutorImage, "name of the executor's image")
}

type flagSet interface {
	StringVar(p *string, name, value, usage string)
}

func runImages(ctx context.Context, args []string) error {
	lay, err := findLayout()
	if err != nil {
		return err
	}
	fs := newFlags("images")
	var o imageOptions
	o.register(fs, lay)
	out := fs.String("out", "", "folder for controller.tar and task-executor.tar (required)")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if *out == "" {
		return errors.New("images: --out=DIR is required")
	}
	p := newProgress(os.Stderr)
	images, err := lay.projectImages(ctx, o, p)
	if err != nil {
		return err
	}
	for i, file := range []string{"controller.tar", "task-executor.tar"} {
		path := filepath.Join(*out, file)
		if err := images[i].write(path); err != nil {
			return err
		}
		p.say("wrote %s: docker load -i, podman load -i or ctr -n k8s.io images import brings %s", path, images[i].ref)
	}
	return nil
}

// write makes a tarball that docker, podman and containerd load.
func (l loadable) write(path string) error {
	tag, err := name.NewTag(l.ref)
	if err != nil {
		return fmt.Errorf("image name %q: %w", l.ref, err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, l.image, &buf); err != nil {
		return fmt.Errorf("write image %s: %w", l.ref, err)
	}
	return writeFile(path, buf.Bytes(), 0o644)
}
