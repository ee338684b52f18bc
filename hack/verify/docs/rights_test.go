// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const (
	testRole = `---
kind: ClusterRole
metadata: {name: manager}
rules:
- apiGroups: ["", "events.k8s.io"]
  resources: [events]
  verbs: [create]
- apiGroups: [x.io]
  resources: [pools/status, pools]
  verbs: [get, patch]
--- # another
kind: Role
metadata: {name: election}
rules:
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [root]
  verbs: [get]
- nonResourceURLs: [/metrics]
  verbs: [get]
`
	testBinding = "kind: RoleBinding\nmetadata: {name: manager}\n"
	testTable   = rightsHeader + "\n|---|---|---|---|\n" +
		"| `manager` | `events` | create | tells |\n" +
		"| `manager` | `events.events.k8s.io` | create | tells |\n" +
		"| `manager` | `pools.x.io` | get | reads |\n" +
		"| `manager` | `pools.x.io` | patch | writes |\n" +
		"| `manager` | `pools.x.io/status` | get, patch | reports |\n" +
		"| `election` | `secrets root` | get | signs |\n" +
		"| `election` | `/metrics` | get | measures |\n"
)

// edited replaces what must be there once.
func edited(t *testing.T, text, old, replacement string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q is there %d times, want once", old, strings.Count(text, old))
	}
	return strings.Replace(text, old, replacement, 1)
}

func TestCheckRights(t *testing.T) {
	const otherTable = "\n| a | b |\n|---|---|\n| `manager` | `pods` |\n"
	tests := map[string]struct {
		document string
		want     []string
	}{
		"all are listed":             {document: "# Rights\n\n" + testTable + otherTable},
		"in two tables with a title": {document: testTable[:len(testTable)-len("| `election` | `/metrics` | get | measures |\n")] + "\n" + rightsHeader + "\n| `election` | `/metrics` | get | measures |\n"},
		"a verb isn't listed": {
			document: edited(t, testTable, "get, patch | reports", "patch | reports"),
			want:     []string{"config/rbac/role.yaml: grants manager: get pools.x.io/status, which docs/security.md doesn't list. fix: write its reason there, or don't grant it"},
		},
		"a verb isn't granted": {
			document: edited(t, testTable, "get | reads", "get, watch | reads"),
			want:     []string{"docs/security.md:5: lists manager: watch pools.x.io, which nothing in config/rbac grants. fix: drop it there"},
		},
		"without the name it is another right": {
			document: edited(t, testTable, "`secrets root`", "`secrets`"),
			want: []string{
				"docs/security.md:8: lists election: get secrets, which nothing in config/rbac grants. fix: drop it there",
				"config/rbac/role.yaml: grants election: get secrets root, which docs/security.md doesn't list. fix: write its reason there, or don't grant it",
			},
		},
		"a line gives no reason": {
			document: edited(t, testTable, "| reads |", "|  |"),
			want:     []string{"docs/security.md:5: gives no reason. fix: say what the right is for"},
		},
		"a line has too few cells": {
			document: testTable + "| `manager` | `pods` |\n",
			want:     []string{"docs/security.md:10: has 2 cells. fix: role, resource, verbs and reason"},
		},
		"a right is listed twice": {
			document: edited(t, testTable, "patch | writes", "get, patch | writes"),
			want:     []string{"docs/security.md:6: lists manager: get pools.x.io, as line 5 does. fix: keep one of them"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := checkRights(fstest.MapFS{
				"docs/security.md":         {Data: []byte(tc.document)},
				"config/rbac/role.yaml":    {Data: []byte(testRole)},
				"config/rbac/binding.yaml": {Data: []byte(testBinding)},
			})
			if err != nil {
				t.Fatalf("checkRights: %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckRightsWithoutTableListsNothing(t *testing.T) {
	got, err := checkRights(fstest.MapFS{"docs/security.md": {Data: []byte("# Rights\n")}, "config/rbac/role.yaml": {Data: []byte(testRole)}})
	if err != nil || len(got) != 1+8 { // no table, and 8 rights
		t.Errorf("got %d problems and %v, want 9: %q", len(got), err, got)
	}
	if _, err := checkRights(fstest.MapFS{"docs/security.md": {Data: []byte(testTable)}}); err == nil {
		t.Error("no role at all was accepted")
	}
}
