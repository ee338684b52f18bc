// SPDX-License-Identifier: Apache-2.0

// Command chart checks that Helm makes of the chart the objects that kustomize makes of config/, whatever part of them the values
// turn on; that every value does something; and that values which make no sense are refused in words that help.
//
//	go run ./hack/verify/chart KUSTOMIZE HELM CHART
package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const systemNamespace = "opensandbox-system"

func main() {
	problems, err := run(os.Args[1:])
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
	}
	if err != nil || len(problems) > 0 {
		os.Exit(1)
	}
}

// tools are where the programs are, and the chart.
type tools struct{ kustomize, helm, chart string }

func run(args []string) (problems []string, err error) {
	if len(args) != 3 {
		return nil, errors.New("usage: chart KUSTOMIZE HELM CHART")
	}
	t := tools{kustomize: args[0], helm: args[1], chart: args[2]}
	unknown, err := unknownValues(t.chart)
	if err != nil {
		return nil, err
	}
	silent, err := t.checkValues()
	if err != nil {
		return nil, err
	}
	problems = slices.Concat(unknown, silent)
	for _, e := range equals() {
		found, err := t.compare(e)
		if err != nil {
			return problems, fmt.Errorf("%s: %w", e.name, err)
		}
		problems = append(problems, found...)
	}
	for _, r := range refusals() {
		if _, complaint, err := t.template(systemNamespace, r.set); err == nil || !strings.Contains(complaint, r.want) {
			problems = append(problems, fmt.Sprintf("helm template --set %s should be refused with %q; it says: %q (%v)", r.set, r.want, complaint, err))
		}
	}
	elsewhere, complaint, err := t.template("elsewhere", "")
	if err != nil {
		return problems, fmt.Errorf("%w: %s", err, complaint)
	}
	if strings.Contains(elsewhere, systemNamespace) {
		problems = append(problems, "a release in another namespace names "+systemNamespace+". fix: see hack/tools/chart")
	}
	return problems, nil
}

// unknownValues returns a problem for each value of the schema that values.yaml doesn't have; Helm finds those that the schema lacks.
func unknownValues(chart string) ([]string, error) {
	var schema, values map[string]any
	for name, into := range map[string]any{"values.schema.json": &schema, "values.yaml": &values} {
		text, err := os.ReadFile(filepath.Join(chart, name))
		if err != nil {
			return nil, fmt.Errorf("read the chart: %w", err)
		}
		if err := yaml.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
	}
	return missing(schema, values, ""), nil
}

// missing returns a problem for each property below a path that has no default. Those named global are Helm's own.
func missing(schema, values map[string]any, path string) (problems []string) {
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		value, ok := values[name]
		if !ok && path+name != "global" {
			problems = append(problems, fmt.Sprintf("values.schema.json knows %s%s, and values.yaml has no default for it. fix: add it there, or drop it here", path, name))
		}
		property, _ := properties[name].(map[string]any)
		if within, ok := value.(map[string]any); ok {
			problems = append(problems, missing(property, within, path+name+".")...)
		}
	}
	return problems
}

// equal is a set of values under which the chart is what some kustomizations are together.
type equal struct {
	name string
	set  string // as --set takes it
	dirs []string

	// namespace is where those objects are that are in none.
	namespace string
}

func equals() []equal {
	return []equal{
		{name: "the default", dirs: []string{"default"}},
		{name: "chosen namespaces", set: "crds.install=false,watchNamespaces={team-a,team-b}", dirs: []string{"namespaced"}},
		{name: "a network policy", set: "networkPolicies.controller.enabled=true", dirs: []string{"default", "network-policy"}},
		{
			name: "network policies of sandboxes", set: "networkPolicies.sandboxes.namespaces={users}", namespace: "users",
			dirs: []string{"default", "network-policy-sandboxes"},
		},
		{
			name: "a ServiceMonitor and a PrometheusRule", set: "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
			dirs: []string{"default", "prometheus"},
		},
	}
}

// refusal is a set of values that must not be taken.
type refusal struct{ set, want string }

func refusals() []refusal {
	return []refusal{
		{"replica=3", "additional properties 'replica' not allowed"},
		{"image.pullpolicy=Always", "additional properties 'pullpolicy' not allowed"},
		{"uninstall.policy=delete", "value must be one of 'Refuse', 'Delete', 'Keep'"},
		{"watchNamespaces={Team}", "'Team' does not match pattern"},
		{"replicas=-1", "minimum: got -1, want 0"},
		{"podLabels.control-plane=x", "invalid propertyName 'control-plane'"},
		{"watchNamespaces={a},metrics.serviceMonitor.enabled=true", "metrics are on loopback"},
		{"tracing.samplingRatePerMillion=1000001", "maximum: got"},
		{"image.tag=v1,image.digest=sha256:" + strings.Repeat("0", 64), "leave one of the two out"},
	}
}

// compare returns a problem for each object that differs.
func (t tools) compare(e equal) ([]string, error) {
	want := map[string]object{}
	for _, dir := range e.dirs {
		out, complaint, err := output(t.kustomize, "build", "config/"+dir)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, complaint)
		}
		if err := read(out, e.namespace, want); err != nil {
			return nil, err
		}
	}
	// Helm makes no namespaces: whoever installs a release has made it, or lets --create-namespace do so.
	maps.DeleteFunc(want, func(_ string, o object) bool { return o["kind"] == "Namespace" })
	out, complaint, err := t.template(systemNamespace, e.set)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, complaint)
	}
	got := map[string]object{}
	if err := read(out, "", got); err != nil {
		return nil, err
	}
	var problems []string
	keys := slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got))))))
	for _, key := range keys {
		if diff := cmp.Diff(want[key], got[key]); diff != "" {
			problems = append(problems, fmt.Sprintf("%s: %s differs (-config/{%s} +chart with %q). fix: make chart, or hack/tools/chart\n%s",
				e.name, key, strings.Join(e.dirs, ","), e.set, diff))
		}
	}
	return problems, nil
}

// template returns what Helm makes of the chart, but hooks, and what it complains of.
func (t tools) template(namespace, set string) (out, complaint string, err error) {
	return output(t.helm, "template", "opensandbox", t.chart, "--namespace="+namespace, "--no-hooks", "--set="+set)
}

func output(name string, args ...string) (out, complaint string, err error) {
	cmd := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", stderr.String(), fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return stdout.String(), "", nil
}

// object is a manifest without the labels that tell who made it.
type object map[string]any

// read adds the objects of a text to those by kind and name.
func read(text, namespace string, into map[string]object) error {
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return fmt.Errorf("parse %q: %w", document, err)
		}
		if len(o) == 0 {
			continue
		}
		metadata, ok := o["metadata"].(map[string]any)
		if !ok {
			return fmt.Errorf("no metadata in %q", document)
		}
		strip(metadata)
		if _, ok := metadata["namespace"]; !ok && namespace != "" && o["kind"] == "NetworkPolicy" {
			metadata["namespace"] = namespace
		}
		key := fmt.Sprintf("%s %v/%v", o["kind"], metadata["namespace"], metadata["name"])
		if _, twice := into[key]; twice {
			return fmt.Errorf("there are two of %s", key)
		}
		into[key] = o
	}
	return nil
}

// strip drops what may differ, and what is empty.
func strip(metadata map[string]any) {
	if labels, ok := metadata["labels"].(map[string]any); ok {
		for _, own := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} {
			delete(labels, own)
		}
	}
	for _, key := range []string{"labels", "annotations"} {
		if values, _ := metadata[key].(map[string]any); len(values) == 0 {
			delete(metadata, key)
		}
	}
}
