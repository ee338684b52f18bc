// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// rootfs is a file system in the making: entries by clean path without a leading slash. Written out it is sorted and
// without times, so that the same content gives the same bytes.
type rootfs map[string]entry

type entry struct {
	kind    byte // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	mode    int64
	uid     int
	gid     int
	link    string
	content []byte
}

func cleanPath(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (r rootfs) file(name string, mode int64, content []byte) {
	r[cleanPath(name)] = entry{kind: tar.TypeReg, mode: mode, content: content}
}

func (r rootfs) dir(name string, mode int64) {
	r[cleanPath(name)] = entry{kind: tar.TypeDir, mode: mode}
}

func (r rootfs) symlink(name, target string) {
	r[cleanPath(name)] = entry{kind: tar.TypeSymlink, mode: 0o777, link: target}
}

// program copies a binary of this machine.
func (r rootfs) program(name, source string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	r.file(name, 0o755, data)
	return nil
}

// layer returns the tar archive, with all parent folders.
func (r rootfs) layer() ([]byte, error) {
	all := r.withParents()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// Two rounds: a hard link must come after the file it names, which may be later in the order.
	for _, links := range []bool{false, true} {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			e := all[name]
			if (e.kind == tar.TypeLink) != links {
				continue
			}
			if err := e.write(w, name); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// withParents adds the parent folders that nobody made, as root's.
func (r rootfs) withParents() rootfs {
	all := maps.Clone(r)
	for name := range r {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = entry{kind: tar.TypeDir, mode: 0o755}
			}
		}
	}
	return all
}

func (e entry) write(w *tar.Writer, name string) error {
	if e.kind == tar.TypeDir {
		name += "/"
	}
	h := &tar.Header{
		Typeflag: e.kind, Name: name, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid,
		Size: int64(len(e.content)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(e.content)
	return err
}

// merged are the folders of the root that are links into /usr on current systems, though packages still use both names.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

func mergeUsr(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(merged, first) {
		return "usr/" + name
	}
	return name
}

// useless paths make an image large and no sandbox better. Licences stay.
func useless(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") {
		return path.Base(name) != "copyright"
	}
	for _, dir := range []string{"usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/", "usr/lib/udev/", "usr/share/i18n/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

// add takes one entry of a package.
func (r rootfs) add(h *tar.Header, content io.Reader) error {
	name := mergeUsr(cleanPath(h.Name))
	if name == "" || useless(name) {
		return nil
	}
	e := entry{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, link: h.Linkname}
	switch h.Typeflag {
	case tar.TypeReg:
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		e.content = data
	case tar.TypeLink:
		e.link = mergeUsr(cleanPath(h.Linkname))
	case tar.TypeSymlink:
		// With both names merged, a link from the one to the other would name itself.
		target := h.Linkname
		if !strings.HasPrefix(target, "/") {
			target = path.Join(path.Dir(cleanPath(h.Name)), target)
		}
		if mergeUsr(cleanPath(target)) == name {
			return nil
		}
	case tar.TypeDir:
	default:
		return nil // devices: the runtime makes those a container may have
	}
	r[name] = e
	return nil
}

// debianRoot merges packages into one file system. Their scripts are not run: what those would make and a container
// needs is made here.
func debianRoot(ctx context.Context, debs []string) (rootfs, error) {
	r := rootfs{}
	for _, deb := range debs {
		if err := unpack(ctx, deb, r.add); err != nil {
			return nil, err
		}
	}
	for _, dir := range merged {
		if _, ok := r["usr/"+dir]; ok {
			r.symlink(dir, "usr/"+dir)
		}
	}
	for _, file := range []string{"passwd", "group"} {
		master, ok := r["usr/share/base-passwd/"+file+".master"]
		if !ok {
			return nil, errors.New("base-passwd is not among the packages")
		}
		r.file("etc/"+file, 0o644, master.content)
	}
	r.file("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	r.symlink("usr/bin/sh", "dash")
	r.symlink("usr/bin/awk", "mawk")
	for _, dir := range []string{"proc", "sys", "dev", "run", "mnt", "usr/local/bin"} {
		r.dir(dir, 0o755)
	}
	r.dir("root", 0o700)
	r.dir("tmp", 0o1777)
	r.dir("var/tmp", 0o1777)
	return r, nil
}
