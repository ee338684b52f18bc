// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	// rightsDir holds the roles whose rights rightsDocument lists, each with its reason.
	rightsDir      = "config/rbac"
	rightsDocument = "docs/security.md"

	// rightsHeader starts the tables that list them.
	rightsHeader = "| role | resource | verbs | reason |"
)

// right is one verb on one resource, granted by one role.
type right struct {
	role     string
	resource string // as `kubectl describe clusterrole` has it, then the object's name if it is limited to one
	verb     string
}

func (r right) String() string { return fmt.Sprintf("%s: %s %s", r.role, r.verb, r.resource) }

// role is what is read of a Role or ClusterRole.
type role struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Rules []rule `json:"rules"`
}

type rule struct {
	APIGroups       []string `json:"apiGroups"`
	Resources       []string `json:"resources"`
	ResourceNames   []string `json:"resourceNames"`
	NonResourceURLs []string `json:"nonResourceURLs"`
	Verbs           []string `json:"verbs"`
}

// targets are the resources and paths that a rule is about.
func (r rule) targets() []string {
	targets := slices.Clone(r.NonResourceURLs)
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			name, subresource, _ := strings.Cut(resource, "/")
			if group != "" {
				name += "." + group
			}
			target := path.Join(name, subresource)
			if len(r.ResourceNames) == 0 {
				targets = append(targets, target)
			}
			for _, object := range r.ResourceNames {
				targets = append(targets, target+" "+object)
			}
		}
	}
	return targets
}

// checkRights returns a problem for each right of rightsDir without a line in rightsDocument, and for each line that names a
// right that isn't granted, names one twice, or has no reason.
func checkRights(root fs.FS) ([]string, error) {
	granted, err := grantedRights(root)
	if err != nil {
		return nil, err
	}
	document, err := fs.ReadFile(root, rightsDocument)
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	listed, problems := listedRights(string(document))
	for _, r := range slices.SortedFunc(maps.Keys(listed), compareRights) {
		if _, ok := granted[r]; !ok {
			problems = append(problems, fmt.Sprintf("%s:%d: lists %s, which nothing in %s grants. fix: drop it there", rightsDocument, listed[r], r, rightsDir))
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(granted), compareRights) {
		if _, ok := listed[r]; !ok {
			problems = append(problems, fmt.Sprintf("%s: grants %s, which %s doesn't list. fix: write its reason there, or don't grant it", granted[r], r, rightsDocument))
		}
	}
	return problems, nil
}

func compareRights(a, b right) int { return strings.Compare(a.String(), b.String()) }

// grantedRights returns what the roles of rightsDir grant, with the file that does.
func grantedRights(root fs.FS) (map[right]string, error) {
	files, err := fs.Glob(root, rightsDir+"/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	granted := make(map[right]string)
	for _, file := range files {
		rights, err := rightsOfFile(root, file)
		if err != nil {
			return nil, err
		}
		for _, r := range rights {
			granted[r] = file
		}
	}
	if len(granted) == 0 {
		return nil, fmt.Errorf("no role in %s grants anything: run `make manifests`", rightsDir)
	}
	return granted, nil
}

// separator is the line between two documents of a YAML file; a comment may follow.
var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?$`)

// rightsOfFile returns what the roles in a file grant; what else is in it grants nothing.
func rightsOfFile(root fs.FS, file string) ([]right, error) {
	content, err := fs.ReadFile(root, file)
	if err != nil {
		return nil, fmt.Errorf("read role: %w", err)
	}
	var rights []right
	for _, document := range separator.Split(string(content), -1) {
		var r role
		if err := yaml.Unmarshal([]byte(document), &r); err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		if r.Kind == "Role" || r.Kind == "ClusterRole" {
			rights = append(rights, r.rights()...)
		}
	}
	return rights, nil
}

func (r role) rights() []right {
	var rights []right
	for _, rule := range r.Rules {
		for _, target := range rule.targets() {
			for _, verb := range rule.Verbs {
				rights = append(rights, right{role: r.Metadata.Name, resource: target, verb: verb})
			}
		}
	}
	return rights
}

// listedRights returns the rights that the tables of a document list, with their lines, and problems of the lines themselves.
func listedRights(document string) (map[right]int, []string) {
	listed := make(map[right]int)
	var problems []string
	inTable := false
	for i, line := range strings.Split(document, "\n") {
		if line == rightsHeader || !strings.HasPrefix(line, "|") {
			inTable = line == rightsHeader
			continue
		}
		if !inTable || strings.HasPrefix(line, "|--") {
			continue
		}
		rights, problem := rightsOfLine(line)
		if problem != "" {
			problems = append(problems, fmt.Sprintf("%s:%d: %s", rightsDocument, i+1, problem))
		}
		for _, r := range rights {
			if first, twice := listed[r]; twice {
				problems = append(problems, fmt.Sprintf("%s:%d: lists %s, as line %d does. fix: keep one of them", rightsDocument, i+1, r, first))
			}
			listed[r] = i + 1
		}
	}
	if len(listed) == 0 {
		problems = append(problems, fmt.Sprintf("%s lists no rights. fix: a table with the header %q", rightsDocument, rightsHeader))
	}
	return listed, problems
}

// rightsOfLine reads "| `role` | `resource` | verb, verb | reason |".
func rightsOfLine(line string) ([]right, string) {
	cells := strings.Split(strings.Trim(line, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	if len(cells) != 4 {
		return nil, fmt.Sprintf("has %d cells. fix: role, resource, verbs and reason", len(cells))
	}
	var rights []right
	for verb := range strings.SplitSeq(cells[2], ",") {
		rights = append(rights, right{role: strings.Trim(cells[0], "`"), resource: strings.Trim(cells[1], "`"), verb: strings.TrimSpace(verb)})
	}
	if cells[3] == "" {
		return rights, "gives no reason. fix: say what the right is for"
	}
	return rights, ""
}
