// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// runServeRegistry serves the cluster's images on loopback. Layers are files, manifests live as long as it does.
func runServeRegistry(ctx context.Context, args []string) error {
	fs := newFlags("serve-registry")
	listen := fs.String("listen", "127.0.0.1:5000", "address to serve at")
	dir := fs.String("dir", "", "folder of the layers")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	server := &http.Server{
		Addr:              *listen,
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(*dir))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // ends ListenAndServe
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hubPath is the repository and tag under which a mirror of Docker Hub serves ref: "nginx:latest" is library/nginx:latest.
func hubPath(ref string) (string, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", ref, err)
	}
	if tag.RegistryStr() != name.DefaultRegistry {
		return "", fmt.Errorf("image name %q: the local registry stands in for Docker Hub only: leave %s out", ref, tag.RegistryStr())
	}
	return tag.RepositoryStr() + ":" + tag.TagStr(), nil
}

// pushImage puts an image into the registry at address and returns its digest.
func pushImage(ctx context.Context, address string, l loadable) (v1.Hash, error) {
	path, err := hubPath(l.ref)
	if err != nil {
		return v1.Hash{}, err
	}
	tag, err := name.NewTag(address+"/"+path, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	// A transport of its own: a proxy of the environment must not come between this machine and itself.
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if err := remote.Write(tag, l.image, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return v1.Hash{}, fmt.Errorf("push %s: %w", l.ref, err)
	}
	return l.image.Digest()
}

// byDigest is the reference that pins the content: opensandbox/controller@sha256:...
func byDigest(ref string, digest v1.Hash) string {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	return ref + "@" + digest.String()
}
