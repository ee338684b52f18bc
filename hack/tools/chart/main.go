// SPDX-License-Identifier: Apache-2.0

// Command chart writes the templates of the Helm chart from the kustomizations under config/, and the table of values in the
// chart's README from its values.yaml. What a template has beside the manifest is in parts.go, and nothing else differs.
//
//	go run ./hack/tools/chart KUSTOMIZE CHART
//
// KUSTOMIZE is the path of that tool; CHART has values.yaml and README.md, and gets templates.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	// systemNamespace is the controller's in config/; in the chart it is the release's.
	systemNamespace = "opensandbox-system"
	// token starts a word that a manifest has in the place of what a template computes. As the key of a block it comes after all other
	// keys but few, and never first in an entry of a list.
	token = "tpl_"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: chart KUSTOMIZE CHART")
	}
	kustomize, chart := args[0], args[1]
	for _, p := range parts() {
		manifests, err := build(kustomize, p.from)
		if err != nil {
			return err
		}
		text, err := p.template(manifests)
		if err != nil {
			return fmt.Errorf("make templates/%s from %s: %w", p.file, p.from, err)
		}
		if err := os.WriteFile(filepath.Join(chart, "templates", p.file), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write template: %w", err)
		}
	}
	return writeTable(filepath.Join(chart, "README.md"), filepath.Join(chart, "values.yaml"))
}

// build returns the objects of a kustomization.
func build(kustomize, dir string) ([]object, error) {
	cmd := exec.Command(kustomize, "build", dir)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w: %s", dir, err, &problems)
	}
	var objects []object
	for document := range strings.SplitSeq(string(out), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("parse what kustomize built of %s: %w", dir, err)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// object is a manifest.
type object map[string]any

func (o object) kind() string { return fmt.Sprint(o["kind"]) }

// part is one template.
type part struct {
	file string // its name
	from string // the kustomization it is made of

	// kinds are what it takes of the kustomization; none means all.
	kinds []string

	// when is the condition under which it renders anything, "" for always; each is the list of values it is rendered for, "" for none.
	when, each string

	// edit puts tokens into an object.
	edit func(object) error
}

// template returns the text of a template.
func (p part) template(manifests []object) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "{{- /* Made from %s by `make chart`: change it there, or what differs in hack/tools/chart. */ -}}\n", p.from)
	ends := ""
	for _, open := range []string{p.when, p.each} {
		if open != "" {
			fmt.Fprintf(&b, "{{- %s }}\n", open)
			ends += "{{- end }}\n"
		}
	}
	found := false
	for _, o := range manifests {
		if len(p.kinds) > 0 && !slices.Contains(p.kinds, o.kind()) {
			continue
		}
		found = true
		text, err := p.manifest(o)
		if err != nil {
			return "", fmt.Errorf("%s: %w", o.kind(), err)
		}
		b.WriteString("---\n" + text)
	}
	if !found {
		return "", fmt.Errorf("it has none of the kinds %v", p.kinds)
	}
	b.WriteString(ends)
	return b.String(), nil
}

// manifest returns the text of one object of a template.
func (p part) manifest(o object) (string, error) {
	if err := addLabels(o); err != nil {
		return "", err
	}
	if p.edit != nil {
		if err := p.edit(o); err != nil {
			return "", err
		}
	}
	text, err := yaml.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("render YAML: %w", err)
	}
	// Templates of others, as those of an alert, are text for Helm.
	return fill(strings.NewReplacer(systemNamespace, token+"namespace", "{{", token+"braces").Replace(string(text)))
}

// addLabels puts the chart's labels in the place of those that tell of kustomize.
func addLabels(o object) error {
	metadata, ok := o["metadata"].(map[string]any)
	if !ok {
		return errors.New("it has no metadata")
	}
	labels, ok := metadata["labels"].(map[string]any)
	if !ok {
		labels = map[string]any{}
		metadata["labels"] = labels
	}
	maps.DeleteFunc(labels, func(key string, _ any) bool { return strings.HasPrefix(key, "app.kubernetes.io/") })
	labels[token+"labels"] = ""
	return nil
}

// replace puts a value, as a token, in the place of what is at a path; it is an error if there is nothing, for then the manifest has changed.
func (o object) replace(with any, path ...string) error {
	parent, err := o.at(path[:len(path)-1]...)
	if err != nil {
		return err
	}
	last := path[len(path)-1]
	if _, ok := parent[last]; !ok {
		return fmt.Errorf("there is no %s any more", strings.Join(path, "."))
	}
	parent[last] = with
	return nil
}

// drop deletes what is at a path, as replace does; a block brings it back.
func (o object) drop(path ...string) error {
	if err := o.replace(nil, path...); err != nil {
		return err
	}
	parent, err := o.at(path[:len(path)-1]...)
	if err != nil {
		return err
	}
	delete(parent, path[len(path)-1])
	return nil
}

// add puts a block into the map at a path, which is made where it is missing.
func (o object) add(block string, path ...string) error {
	parent, err := o.at(path[:len(path)-1]...)
	if err != nil {
		return err
	}
	last := path[len(path)-1]
	if _, ok := parent[last]; !ok {
		parent[last] = map[string]any{}
	}
	target, ok := parent[last].(map[string]any)
	if !ok {
		return fmt.Errorf("%s is no map", strings.Join(path, "."))
	}
	target[token+block] = ""
	return nil
}

// at returns the map at a path; "0" is the first of a list.
func (o object) at(path ...string) (map[string]any, error) {
	var value any = map[string]any(o)
	for i, name := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[name]
		case []any:
			if name == "0" && len(v) > 0 {
				value = v[0]
			}
		}
		if value == nil {
			return nil, fmt.Errorf("there is no %s any more", strings.Join(path[:i+1], "."))
		}
	}
	found, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is no map", strings.Join(path, "."))
	}
	return found, nil
}

var (
	// blockLine is a line with nothing but a token: the key of a map, or an entry of a list.
	blockLine = regexp.MustCompile(`(?m)^( *)(?:- )?` + token + `(\w+)(?:: "")?$`)
	anyToken  = regexp.MustCompile(token + `[A-Za-z]+`)
)

// fill replaces the tokens of a text.
func fill(text string) (string, error) {
	text = blockLine.ReplaceAllStringFunc(text, func(line string) string {
		match := blockLine.FindStringSubmatch(line)
		block, ok := blocks()[match[2]]
		if !ok {
			return line
		}
		return indented(block, len(match[1]))
	})
	for name, expression := range expressions() {
		text = strings.ReplaceAll(text, token+name, expression)
	}
	if left := anyToken.FindString(text); left != "" {
		return "", fmt.Errorf("%s stands for nothing: see blocks and expressions in parts.go", left)
	}
	return text, nil
}

// indented puts a block at an indentation, for which it has INDENT where it needs the number.
func indented(block string, indent int) string {
	block = strings.ReplaceAll(strings.TrimSpace(block), "INDENT", fmt.Sprint(indent))
	lines := strings.Split(block, "\n")
	for i, line := range lines {
		lines[i] = strings.Repeat(" ", indent) + line
	}
	return strings.Join(lines, "\n")
}
