// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/internal/uninstall"
)

func TestParseUninstall(t *testing.T) {
	cases := map[string]struct {
		args []string
		want uninstallOptions
		err  string
	}{
		"nothing refuses, before, in all namespaces": {nil, uninstallOptions{Policy: uninstall.Refuse, Timeout: 4 * time.Minute}, ""},
		"every flag is taken": {
			[]string{"--kubeconfig=/k", "--after", "--policy=Delete", "--watch-namespaces=a,b,a", "--namespace=own", "--timeout=9s"},
			uninstallOptions{
				Options: Options{Kubeconfig: "/k", WatchNamespaces: []string{"a", "b"}, Namespace: "own"},
				After:   true, Policy: uninstall.Delete, Timeout: 9 * time.Second,
			}, "",
		},
		"another policy":                   {[]string{"--policy=delete"}, uninstallOptions{}, "--policy must be Refuse or Delete"},
		"no time":                          {[]string{"--timeout=0s"}, uninstallOptions{}, "--timeout must exceed 0"},
		"what is no name of a namespace":   {[]string{"--watch-namespaces=A"}, uninstallOptions{}, `"A" is no name of a namespace`},
		"an argument that nobody asks for": {[]string{"now"}, uninstallOptions{}, `unknown argument "now"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseUninstall(c.args, io.Discard)
			switch {
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v, want %q", err, c.err)
				}
			case err != nil:
				t.Fatal(err)
			default:
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}
