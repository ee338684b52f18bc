// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func manifest() object {
	return object{
		"kind":     "Alert",
		"metadata": map[string]any{"name": "a", "namespace": systemNamespace, "labels": map[string]any{"app.kubernetes.io/managed-by": "kustomize", "x": "y"}},
		"spec":     map[string]any{"text": "{{ $value }} pods", "replicas": 2, "list": []any{map[string]any{"a": 1}}},
	}
}

func TestTemplate(t *testing.T) {
	p := part{
		file: "a.yaml", from: "config/a", when: "if $.Values.a", each: "range $namespace := $.Values.b",
		edit: func(o object) error {
			return errors.Join(o.replace(token+"replicas", "spec", "replicas"), o.add("podLabels", "spec", "labels"), o.drop("spec", "list"))
		},
	}
	got, err := p.template([]object{manifest()})
	if err != nil {
		t.Fatal(err)
	}
	want := `{{- /* Made from config/a by ` + "`make chart`" + `: change it there, or what differs in hack/tools/chart. */ -}}
{{- if $.Values.a }}
{{- range $namespace := $.Values.b }}
---
kind: Alert
metadata:
  labels:
    {{- include "opensandbox-controller.labels" $ | nindent 4 }}
    x: "y"
  name: a
  namespace: {{ $.Release.Namespace }}
spec:
  labels:
    {{- with $.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  replicas: {{ int $.Values.replicas }}
  text: '{{ "{{" }} $value }} pods'
{{- end }}
{{- end }}
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAChangedManifestIsAnErrorAndNoSilentLoss(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(object) error
		want string
	}{
		"a field to replace is gone": {func(o object) error { return o.replace("x", "spec", "size") }, "no spec.size any more"},
		"a field to drop is gone":    {func(o object) error { return o.drop("spec", "size") }, "no spec.size any more"},
		"a parent is gone":           {func(o object) error { return o.add("x", "status", "labels") }, "no status any more"},
		"a list has become a map":    {func(o object) error { return o.replace("x", "metadata", "0", "a") }, "no metadata.0 any more"},
		"a scalar is no map":         {func(o object) error { return o.add("x", "spec", "replicas") }, "spec.replicas is no map"},
		"a token stands for nothing": {func(o object) error { return o.replace(token+"nothing", "spec", "replicas") }, "nothing stands for nothing"},
		"a block stands for nothing": {func(o object) error { return o.add("nothing", "spec") }, "nothing stands for nothing"},
		"an argument is gone":        {func(o object) error { return replaceArgument(o, "--a", "--b", "c") }, "args has no --a any more"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := part{edit: c.edit}.template([]object{manifest()})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := (part{kinds: []string{"Service"}}).template([]object{manifest()}); err == nil {
		t.Error("a part whose kinds are all gone makes an empty template")
	}
}

func TestRowsOfValues(t *testing.T) {
	got, err := rowsOf(`# About the file.

# Line one
# and two.
a: 1
b:
  # A list.
  c: []
  d:
    # Deep.
    e: "x"
f: {}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []row{{"a", "1", "Line one and two."}, {"b.c", "[]", "A list."}, {"b.d.e", `"x"`, "Deep."}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
