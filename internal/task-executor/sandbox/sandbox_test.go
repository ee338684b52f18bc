// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

const (
	podU = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555"
	podV = "/kubepods/burstable/pod99999999-2222-3333-4444-555555555555"
)

func id(digit string) string { return strings.Repeat(digit, 64) }

// proc is one process of a made-up machine.
type proc struct {
	pid, parent int
	start       uint64
	comm        string
	cgroup      string // path, on cgroup v2
	env         []string
	state       string // default S
}

// makeProc writes a proc file system that holds ps.
func makeProc(t *testing.T, ps []proc) procfs.FS {
	t.Helper()
	root := t.TempDir()
	for _, p := range ps {
		dir := filepath.Join(root, strconv.Itoa(p.pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if p.state == "" {
			p.state = "S"
		}
		files := map[string]string{
			"stat": fmt.Sprintf("%d (%s) %s %d %d %d 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n",
				p.pid, p.comm, p.state, p.parent, p.pid, p.pid, p.start),
			"cgroup":  "0::" + p.cgroup + "\n",
			"environ": strings.Join(append(p.env, ""), "\x00"),
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return procfs.New(root)
}

func TestFind(t *testing.T) {
	pause := proc{pid: 1, start: 10, comm: "pause", cgroup: podU + "/" + id("0")}
	main := proc{pid: 7, start: 20, comm: "nginx", cgroup: podU + "/" + id("a")}
	self := proc{pid: 20, start: 30, comm: "task-executor", cgroup: podU + "/" + id("e")}
	mesh := proc{pid: 30, start: 15, comm: "envoy", cgroup: podU + "/" + id("b")}
	mark := func(p proc, name string) proc {
		p.env = []string{"PATH=/bin", MainContainerEnv + "=" + name}
		return p
	}
	private := func(p proc, cgroup string) proc {
		p.cgroup = cgroup
		return p
	}
	own := Target{Own: true, Main: procfs.ID{PID: 20, Start: 30}}
	beside := Target{Main: procfs.ID{PID: 7, Start: 20}}

	cases := map[string]struct {
		procs   []proc
		mode    Mode
		name    string
		want    Target
		wantErr error
	}{
		"one other container is the sandbox": {procs: []proc{pause, main, self}, want: beside},
		"one other container is the sandbox, with a cgroup namespace": {procs: []proc{
			private(pause, "/../"+id("0")), private(main, "/../cri-containerd-"+id("a")+".scope"), private(self, "/")}, want: beside},
		"its main process is the oldest without a parent, not what was started in it later": {procs: []proc{
			pause, main, self,
			{pid: 8, parent: 7, start: 19, comm: "odd", cgroup: main.cgroup},
			{pid: 9, parent: 0, start: 40, comm: "exec", cgroup: main.cgroup},
			{pid: 10, parent: 7, start: 41, comm: "nested", cgroup: main.cgroup + "/docker/" + id("f")}}, want: beside},
		"a sandbox that is called pause is one": {procs: []proc{
			pause, {pid: 7, start: 20, comm: "pause", cgroup: main.cgroup}, self}, want: beside},
		"another pod's processes don't count": {procs: []proc{
			pause, main, self, {pid: 50, start: 5, comm: "other", cgroup: podV + "/" + id("c")}}, want: beside},
		"another pod's processes don't count, with a cgroup namespace": {procs: []proc{
			private(pause, "/../"+id("0")), private(main, "/../"+id("a")), private(self, "/"),
			{pid: 50, start: 5, comm: "other", cgroup: "/../../pod99999999-2222-3333-4444-555555555555/" + id("c")}}, want: beside},
		"the name picks one of several":                     {procs: []proc{pause, mark(main, "main"), mark(mesh, "mesh"), self}, name: "main", want: beside},
		"the only mark picks one of several":                {procs: []proc{pause, mark(main, "main"), mesh, self}, want: beside},
		"several and no mark are ambiguous":                 {procs: []proc{pause, main, mesh, self}, wantErr: ErrAmbiguous},
		"several marks and no name are ambiguous":           {procs: []proc{pause, mark(main, "main"), mark(mesh, "mesh"), self}, wantErr: ErrAmbiguous},
		"several and a name nobody has are ambiguous":       {procs: []proc{pause, mark(main, "main"), mesh, self}, name: "x", wantErr: ErrAmbiguous},
		"alone in its pod it is its own sandbox":            {procs: []proc{{pid: 20, start: 30, comm: "task-executor", cgroup: "/"}}, want: own},
		"on a plain machine it is its own sandbox":          {procs: []proc{{pid: 1, start: 1, comm: "init", cgroup: "/init.scope"}, private(self, "/user.slice")}, want: own},
		"started by the sandbox's script it is its own":     {procs: []proc{pause, {pid: 7, start: 20, comm: "sh", cgroup: self.cgroup}, self}, want: own},
		"a wrapper around the executor hides no sandbox":    {procs: []proc{pause, main, {pid: 19, start: 25, comm: "sh", cgroup: self.cgroup}, self}, want: beside},
		"a sandbox that is down is not its own":             {procs: []proc{pause, self}, wantErr: ErrNotVisible},
		"a sandbox that is a zombie is down":                {procs: []proc{pause, {pid: 7, start: 20, comm: "nginx", cgroup: main.cgroup, state: "Z"}, self}, wantErr: ErrNotVisible},
		"a sandbox whose runtime still starts it is down":   {procs: []proc{pause, {pid: 7, start: 20, comm: "runc:[2:INIT]", cgroup: main.cgroup}, self}, wantErr: ErrNotVisible},
		"what a sandbox has left behind is not it":          {procs: []proc{pause, {pid: 8, parent: 1, start: 21, comm: "sleep", cgroup: main.cgroup}, self}, wantErr: ErrNotVisible},
		"told to be a sidecar it is not its own":            {procs: []proc{{pid: 20, start: 30, cgroup: "/"}}, mode: Sidecar, wantErr: ErrNotVisible},
		"given a name it is not its own":                    {procs: []proc{{pid: 20, start: 30, cgroup: "/"}}, name: "main", wantErr: ErrNotVisible},
		"told to use its own it looks at nobody":            {procs: []proc{pause, main, self}, mode: Own, name: "main", want: own},
		"the name of a sandbox that is alone is not needed": {procs: []proc{pause, main, self}, name: "main", want: beside},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := Finder{FS: makeProc(t, tc.procs), Self: 20, Mode: tc.mode, MainContainer: tc.name}
			got, err := f.Find()
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("error %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
