// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParseCgroup reads files as the kernel shows them for the usual runtimes, drivers and namespaces.
func TestParseCgroup(t *testing.T) {
	const (
		id      = "aaaaaaaabbbbbbbbccccccccddddddddaaaaaaaabbbbbbbbccccccccdddddddd"
		node    = "eeeeeeeeffffffffeeeeeeeeffffffffeeeeeeeeffffffffeeeeeeeeffffffff"
		uid     = "pod0f1e2d3c-1111-2222-3333-444455556666"
		uidUnit = "pod0f1e2d3c_1111_2222_3333_444455556666.slice"
	)
	want := map[string]Container{
		"v1-cgroupfs":                     {"/kubepods/burstable/" + uid, id},
		"v1-systemd":                      {"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-" + uidUnit, id},
		"v1-kind":                         {"/docker/" + node + "/kubelet/kubepods/" + uid, id},
		"v1-static-pod":                   {"/kubepods/podd41d8cd98f00b204e9800998ecf8427e", id},
		"v2-host-systemd":                 {"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-" + uidUnit, id},
		"v2-host-cgroupfs":                {"/kubepods/besteffort/" + uid, id},
		"v2-host-crio-nested":             {"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-" + uidUnit, id},
		"v2-private-own":                  {"/..", ""},
		"v2-private-own-nested":           {"/..", ""},
		"v2-private-neighbour-systemd":    {"/..", id},
		"v2-private-neighbour-nested":     {"/..", id},
		"v2-private-neighbour-without-id": {"/..", "sandbox"},
		"v2-private-other-pod":            {"/../../kubepods-burstable-" + uidUnit, id},
		"no-container":                    {"/..", ""},
		"malformed":                       {},
	}
	files, err := os.ReadDir(filepath.Join("testdata", "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(want) {
		t.Errorf("%d files, %d cases", len(files), len(want))
	}
	for _, file := range files {
		t.Run(file.Name(), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", "cgroup", file.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want[file.Name()], parseCgroup(string(data))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
