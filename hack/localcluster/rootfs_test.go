// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func headers(t *testing.T, layer []byte) []*tar.Header {
	t.Helper()
	var all []*tar.Header
	in := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

func TestLayerIsReproducible(t *testing.T) {
	build := func(reverse bool) []byte {
		r := rootfs{}
		names := []string{"/z", "a/b/c", "m/n", "a/x"}
		if reverse {
			slices.Reverse(names)
		}
		for _, n := range names {
			r.file(n, 0o644, []byte(n))
		}
		r.symlink("l", "z")
		r["a/hard"] = entry{kind: tar.TypeLink, link: "z", mode: 0o644}
		layer, err := r.layer()
		if err != nil {
			t.Fatal(err)
		}
		return layer
	}
	first := build(false)
	if !bytes.Equal(first, build(true)) {
		t.Error("the same content gave different bytes")
	}
	var names []string
	for _, h := range headers(t, first) {
		names = append(names, h.Name)
		if h.ModTime.Unix() != 0 {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
	}
	want := []string{"a/", "a/b/", "a/b/c", "a/x", "l", "m/", "m/n", "z", "a/hard"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v: sorted, parents made, hard links last", names, want)
	}
}

func TestAddMergesUsr(t *testing.T) {
	for name, tc := range map[string]struct {
		header  tar.Header
		want    string // path; empty: nothing is added
		wantTo  string
		content string
	}{
		"a program of the root":       {header: tar.Header{Typeflag: tar.TypeReg, Name: "./bin/bash", Mode: 0o755}, want: "usr/bin/bash", content: "x"},
		"a program of usr":            {header: tar.Header{Typeflag: tar.TypeReg, Name: "./usr/bin/env"}, want: "usr/bin/env", content: "x"},
		"a name that only looks like": {header: tar.Header{Typeflag: tar.TypeReg, Name: "./binary"}, want: "binary", content: "x"},
		"the loader":                  {header: tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib64/ld.so", Linkname: "/lib/x/ld.so"}, want: "usr/lib64/ld.so", wantTo: "/lib/x/ld.so"},
		"a link onto itself":          {header: tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/bin/touch", Linkname: "/bin/touch"}},
		"a relative link onto itself": {header: tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/bin/touch", Linkname: "../../bin/touch"}},
		"a hard link":                 {header: tar.Header{Typeflag: tar.TypeLink, Name: "./bin/b", Linkname: "./bin/a"}, want: "usr/bin/b", wantTo: "usr/bin/a"},
		"documentation":               {header: tar.Header{Typeflag: tar.TypeReg, Name: "./usr/share/doc/p/README"}},
		"a licence":                   {header: tar.Header{Typeflag: tar.TypeReg, Name: "./usr/share/doc/p/copyright"}, want: "usr/share/doc/p/copyright", content: "x"},
		"a device":                    {header: tar.Header{Typeflag: tar.TypeChar, Name: "./dev/null"}},
		"the root itself":             {header: tar.Header{Typeflag: tar.TypeDir, Name: "./"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := rootfs{}
			if err := r.add(&tc.header, strings.NewReader(tc.content)); err != nil {
				t.Fatal(err)
			}
			if tc.want == "" {
				if len(r) > 0 {
					t.Fatalf("got %v, want nothing", r)
				}
				return
			}
			e, ok := r[tc.want]
			if !ok || len(r) != 1 {
				t.Fatalf("got %v, want %s", r, tc.want)
			}
			if e.link != tc.wantTo || string(e.content) != tc.content {
				t.Errorf("got link %q and content %q, want %q and %q", e.link, e.content, tc.wantTo, tc.content)
			}
		})
	}
}
