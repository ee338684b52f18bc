// SPDX-License-Identifier: Apache-2.0

package enter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

func TestPlanRights(t *testing.T) {
	const (
		chown  = procfs.Caps(1) << 0
		netRaw = procfs.Caps(1) << 13
		full   = chown | netRaw
	)
	executor := procfs.Status{Bounding: full | sysPtrace, Permitted: full | sysPtrace, Effective: full | sysPtrace}
	cases := map[string]struct {
		main, own procfs.Status
		ownRoot   bool
		want      rights
	}{
		"root beside root": {main: procfs.Status{Bounding: full, Permitted: full, Effective: full, Umask: 0o22}, own: executor,
			want: rights{umask: 0o22, bounding: full, permitted: full}},
		"root that has given up a capability": {main: procfs.Status{Bounding: full, Permitted: full, Effective: chown}, own: executor,
			want: rights{bounding: chown, permitted: chown}},
		"a main process with more than the executor": {
			main: procfs.Status{Bounding: full | 1<<20, Permitted: full | 1<<20, Effective: full | 1<<20}, own: executor,
			want: rights{bounding: full, permitted: full}},
		"another user keeps the bounding set and no capability": {
			main: procfs.Status{UID: 7, GID: 8, Groups: []int{9}, Bounding: full, NoNewPrivs: true}, own: executor,
			want: rights{uid: 7, gid: 8, groups: []int{9}, noNewPrivs: true, bounding: full}},
		"another user with an ambient capability": {
			main: procfs.Status{UID: 7, Bounding: full, Permitted: chown, Effective: chown, Inheritable: chown, Ambient: chown}, own: executor,
			want: rights{uid: 7, bounding: full, permitted: chown, inheritable: chown, ambient: chown}},
		"in its own root, without what the executor needs": {main: executor, own: executor, ownRoot: true,
			want: rights{bounding: full, permitted: full}},
		"in its own root, as a user who couldn't use it": {
			main: procfs.Status{UID: 7, Bounding: full | sysPtrace}, own: procfs.Status{UID: 7, Bounding: full | sysPtrace}, ownRoot: true,
			want: rights{uid: 7, bounding: full | sysPtrace}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := planRights(tc.main, tc.own, tc.ownRoot)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(rights{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.bounding&^(tc.main.Bounding&tc.own.Bounding) != 0 {
				t.Error("the bounding set has grown")
			}
		})
	}
}

func TestPlanEnv(t *testing.T) {
	path := "PATH=" + defaultPath
	cases := map[string]struct{ base, overlay, want []string }{
		"an override keeps its place":         {[]string{"PATH=/bin", "A=1", "B=2"}, []string{"A=3"}, []string{"PATH=/bin", "A=3", "B=2"}},
		"new entries follow":                  {[]string{"PATH=/bin"}, []string{"Z=1", "A="}, []string{"PATH=/bin", "Z=1", "A="}},
		"the later of two overrides wins":     {nil, []string{"A=1", "A=2"}, []string{"A=2", path}},
		"the first of two in the base counts": {[]string{"A=1", "A=2"}, nil, []string{"A=1", path}},
		"without a PATH there is a usual one": {[]string{"A=1"}, nil, []string{"A=1", path}},
		"an empty PATH that was asked for":    {nil, []string{"PATH="}, []string{"PATH="}},
		"what is no entry is dropped":         {[]string{"nginx: master process", "=x", "A=1"}, nil, []string{"A=1", path}},
		"whom the executor believes is its own business": {
			[]string{"SANDBOX_CONTROLLER_ROOT=AAAA", "SANDBOX_POD_UID=1", "SANDBOX_POD_UIDS=2"}, nil, []string{"SANDBOX_POD_UIDS=2", path},
		},
		"unless it was asked for":             {nil, []string{"SANDBOX_POD_UID=1"}, []string{"SANDBOX_POD_UID=1", path}},
		"values with equals signs stay whole": {nil, []string{"A=b=c"}, []string{"A=b=c", path}},
	}
	for name, tc := range cases {
		if diff := cmp.Diff(tc.want, planEnv(tc.base, tc.overlay)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlanCandidates(t *testing.T) {
	cases := map[string]struct {
		program, path string
		want          []string
	}{
		"a path is taken as it is":           {"./a", "/bin", []string{"./a"}},
		"a name is looked for in order":      {"a", "/usr/bin:/bin", []string{"/usr/bin/a", "/bin/a"}},
		"an empty entry is the directory":    {"a", ":/bin/", []string{"./a", "/bin/a"}},
		"an empty PATH is the directory too": {"a", "", []string{"./a"}},
	}
	for name, tc := range cases {
		if diff := cmp.Diff(tc.want, planCandidates(tc.program, tc.path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadReport(t *testing.T) {
	cases := map[string]string{"R": "", "": ErrDied.Error(), "Rnot found": "not found", "refused": "refused",
		"Lno root": ErrSandboxEnded.Error() + ": no root"}
	for report, want := range cases {
		got := ""
		if err := ReadReport(strings.NewReader(report)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("report %q: %q, want %q", report, got, want)
		}
	}
}
