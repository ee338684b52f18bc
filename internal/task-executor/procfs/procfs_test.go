// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	const rest = " 4 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 1000 200\n"
	cases := map[string]struct {
		data    string
		want    Stat
		wantErr bool
	}{
		"a plain command": {data: "42 (sh) S" + rest,
			want: Stat{ID: ID{42, 98765}, Comm: "sh", State: 'S', Parent: 4, Group: 5, Session: 6, Threads: 3}},
		"a command that plays tricks": {data: "42 (a) Z 1 (b) R" + rest,
			want: Stat{ID: ID{42, 98765}, Comm: "a) Z 1 (b", State: 'R', Parent: 4, Group: 5, Session: 6, Threads: 3}},
		"no command":           {data: "42 S" + rest, wantErr: true},
		"cut off":              {data: "42 (sh) S 4 5", wantErr: true},
		"letters for a number": {data: "42 (sh) S x" + rest[2:], wantErr: true},
		"empty":                {data: "", wantErr: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.data))
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAlive(t *testing.T) {
	cases := map[string]struct {
		stat Stat
		want bool
	}{
		"sleeping":                       {Stat{State: 'S', Threads: 1}, true},
		"stopped":                        {Stat{State: 'T', Threads: 1}, true},
		"zombie":                         {Stat{State: 'Z', Threads: 1}, false},
		"zombie whose other threads run": {Stat{State: 'Z', Threads: 2}, true},
		"dead":                           {Stat{State: 'X'}, false},
	}
	for name, tc := range cases {
		if got := tc.stat.Alive(); got != tc.want {
			t.Errorf("%s: alive %v, want %v", name, got, tc.want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const whole = "Name:\tnginx\nUmask:\t0027\nUid:\t0\t101\t101\t101\nGid:\t0\t102\t102\t102\nGroups:\t5 6 \n" +
		"CapInh:\t0000000000000001\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fa\nCapBnd:\t00000000a80425ff\n" +
		"CapAmb:\t0000000000000002\nNoNewPrivs:\t1\n"
	want := Status{UID: 101, GID: 102, Groups: []int{5, 6}, Umask: 0o27, Inheritable: 1, Permitted: 0xa80425fb,
		Effective: 0xa80425fa, Bounding: 0xa80425ff, Ambient: 2, NoNewPrivs: true}
	got, err := parseStatus(whole)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, field := range []string{"Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"} {
		if _, err := parseStatus(strings.Replace(whole, field+":", "Other:", 1)); !errors.Is(err, ErrMalformed) {
			t.Errorf("without %s: error %v, want ErrMalformed", field, err)
		}
		if _, err := parseStatus(strings.Replace(whole, field+":\t", field+":\tzz", 1)); !errors.Is(err, ErrMalformed) {
			t.Errorf("with rubbish in %s: error %v, want ErrMalformed", field, err)
		}
	}
}

// TestRealProc reads this very process from the machine's /proc.
func TestRealProc(t *testing.T) {
	f := New("/proc")
	self, err := f.Stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if self.PID != os.Getpid() || self.Parent != os.Getppid() || self.Start == 0 || !self.Alive() {
		t.Errorf("own stat %+v", self)
	}
	status, err := f.Status(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if status.UID != os.Geteuid() || status.GID != os.Getegid() {
		t.Errorf("own status %+v", status)
	}
	all, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range all {
		found = found || s.ID == self.ID
	}
	if !found {
		t.Error("the list has not this process")
	}
	env, err := f.Environ(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if value, ok := Lookup(env, "PATH"); !ok || value == "" {
		t.Error("no PATH in the own environment")
	}
	if _, err := f.Stat(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v for a process that is not, want ErrNotExist", err)
	}
}
