// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	const text = `---
kind: Role
metadata: {name: a, namespace: x, labels: {app.kubernetes.io/managed-by: Helm, helm.sh/chart: c}, annotations: }
---
# Source: nothing
---
kind: NetworkPolicy
metadata: {name: b, labels: {k: v}}
spec: {a: [1]}
`
	got := map[string]object{}
	if err := read(text, "users", got); err != nil {
		t.Fatal(err)
	}
	want := map[string]object{
		"Role x/a": {"kind": "Role", "metadata": map[string]any{"name": "a", "namespace": "x"}},
		"NetworkPolicy users/b": {
			"kind": "NetworkPolicy", "metadata": map[string]any{"name": "b", "namespace": "users", "labels": map[string]any{"k": "v"}},
			"spec": map[string]any{"a": []any{1.0}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := read(text, "users", got); err == nil {
		t.Error("an object that is there twice is no error")
	}
}

func TestMissing(t *testing.T) {
	property := func(of map[string]any) map[string]any { return map[string]any{"properties": of} }
	schema := property(map[string]any{
		"global": map[string]any{}, "a": map[string]any{}, "b": property(map[string]any{"c": map[string]any{}, "d": map[string]any{}}), "e": map[string]any{},
	})
	values := map[string]any{"a": nil, "b": map[string]any{"c": 1}}
	want := []string{
		"values.schema.json knows b.d, and values.yaml has no default for it. fix: add it there, or drop it here",
		"values.schema.json knows e, and values.yaml has no default for it. fix: add it there, or drop it here",
	}
	if diff := cmp.Diff(want, missing(schema, values, "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
