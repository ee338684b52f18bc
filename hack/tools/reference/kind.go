// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// foreign are the types of Kubernetes itself: named, with a link, instead of told field by field. The key is the end of a path.
var foreign = map[string]string{
	".env":        "[EnvVar](https://pkg.go.dev/k8s.io/api/core/v1#EnvVar)",
	".conditions": "[Condition](https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#Condition)",
}

// section is an object with fields, and the path that leads to it, such as "BatchSandbox.spec.taskTemplate".
type section struct {
	path   string
	schema apiextensionsv1.JSONSchemaProps
}

// writeKind writes a kind: what it is, what kubectl shows, and a table of fields for each object in it.
func writeKind(out *strings.Builder, crd *apiextensionsv1.CustomResourceDefinition) {
	names, version := crd.Spec.Names, crd.Spec.Versions[0]
	root := *version.Schema.OpenAPIV3Schema
	fmt.Fprintf(out, "## %s\n\n%s\n\n", names.Kind, prose(root.Description))
	fmt.Fprintf(out, "`apiVersion: %s/%s`, `kind: %s`. kubectl knows it as `%s`.", crd.Spec.Group, version.Name, names.Kind,
		strings.Join(append([]string{names.Plural, names.Singular}, names.ShortNames...), "`, `"))
	if version.Subresources != nil && version.Subresources.Scale != nil {
		fmt.Fprintf(out, " `kubectl scale` sets `%s`.", strings.TrimPrefix(version.Subresources.Scale.SpecReplicasPath, "."))
	}
	out.WriteString("\n\n")
	writeRules(out, root)
	out.WriteString("| column of `kubectl get` | meaning |\n|---|---|\n")
	for _, c := range version.AdditionalPrinterColumns {
		wide := ""
		if c.Priority > 0 {
			wide = " (with `-o wide`)"
		}
		meaning := c.Description
		if meaning == "" {
			meaning = "`" + strings.TrimPrefix(c.JSONPath, ".") + "`"
		}
		fmt.Fprintf(out, "| `%s`%s | %s |\n", c.Name, wide, cell(meaning))
	}
	out.WriteString("\n")
	for _, field := range []string{"spec", "status"} {
		writeSection(out, section{names.Kind + "." + field, root.Properties[field]})
	}
}

// writeSection writes the table of an object's fields, then the sections of the objects below it, in their order.
func writeSection(out *strings.Builder, s section) {
	fmt.Fprintf(out, "### %s\n\n%s\n\n", s.path, prose(s.schema.Description))
	writeRules(out, s.schema)
	out.WriteString("| field | type | default and bounds | meaning |\n|---|---|---|---|\n")
	var below []section
	for _, name := range slices.Sorted(maps.Keys(s.schema.Properties)) {
		field := s.schema.Properties[name]
		path := s.path + "." + name
		fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", name, typeOf(path, field),
			cell(strings.Join(boundsOf(field, slices.Contains(s.schema.Required, name)), "; ")), cell(without(name, field.Description)))
		if item := itemOf(field); len(item.Properties) > 0 && foreignOf(path) == "" {
			below = append(below, section{path, item})
		}
	}
	out.WriteString("\n")
	for _, b := range below {
		writeSection(out, b)
	}
}

// writeRules writes what must hold of several fields together.
func writeRules(out *strings.Builder, schema apiextensionsv1.JSONSchemaProps) {
	for _, rule := range schema.XValidations {
		fmt.Fprintf(out, "- %s\n", prose(rule.Message))
	}
	if len(schema.XValidations) > 0 {
		out.WriteString("\n")
	}
}

// itemOf is the schema of a list's items, and of anything else itself.
func itemOf(schema apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
	if schema.Items != nil && schema.Items.Schema != nil {
		return *schema.Items.Schema
	}
	return schema
}

func foreignOf(path string) string { return foreign[path[strings.LastIndexByte(path, '.'):]] }

// typeOf is the type of a field as people write it, with a link to the section that tells of its fields.
func typeOf(path string, schema apiextensionsv1.JSONSchemaProps) string {
	item := itemOf(schema)
	name := item.Type
	switch {
	case foreignOf(path) != "":
		name = foreignOf(path)
	case item.XIntOrString:
		name = "integer or string"
	case len(item.Properties) > 0:
		name = fmt.Sprintf("[object](#%s)", anchor(path))
	case item.Format == "date-time":
		name = "time (RFC 3339)"
	case item.Format != "":
		name = item.Format
	}
	if schema.Type == "array" {
		return "list of " + name
	}
	return name
}

// anchor is the name that Markdown viewers give to a heading: lower case, without dots.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_' {
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// boundsOf says what a field may be.
func boundsOf(schema apiextensionsv1.JSONSchemaProps, required bool) []string {
	var bounds []string
	if schema.Default != nil {
		bounds = append(bounds, "default `"+strings.Trim(string(schema.Default.Raw), `"`)+"`")
	} else if required {
		bounds = append(bounds, "required")
	}
	if len(schema.Enum) > 0 {
		var values []string
		for _, v := range schema.Enum {
			values = append(values, "`"+strings.Trim(string(v.Raw), `"`)+"`")
		}
		bounds = append(bounds, strings.Join(values, ", "))
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	if schema.Minimum != nil && *schema.Minimum > math.MinInt32 {
		bounds = append(bounds, "at least "+number(*schema.Minimum))
	}
	if schema.Maximum != nil && *schema.Maximum < math.MaxInt32 { // others are those of the type
		bounds = append(bounds, "at most "+number(*schema.Maximum))
	}
	if schema.MaxItems != nil {
		bounds = append(bounds, fmt.Sprintf("at most %d entries", *schema.MaxItems))
	}
	if len(schema.XListMapKeys) > 0 {
		bounds = append(bounds, "one entry for each `"+strings.Join(schema.XListMapKeys, "`, `")+"`")
	}
	if schema.Pattern != "" && schema.Format == "" {
		bounds = append(bounds, "a string matches `"+schema.Pattern+"`")
	}
	for _, rule := range schema.XValidations {
		bounds = append(bounds, rule.Message)
	}
	return bounds
}

// without is a description without the name that it begins with, which stands beside it.
func without(name, description string) string {
	rest, ok := strings.CutPrefix(description, name)
	if !ok {
		return description
	}
	for _, verb := range []string{": ", " is ", " are ", " "} {
		if after, ok := strings.CutPrefix(rest, verb); ok {
			return after
		}
	}
	return description
}

// prose is a description as one paragraph of Markdown.
func prose(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "<", "&lt;")
}

// cell is prose for a table.
func cell(text string) string { return strings.ReplaceAll(prose(text), "|", `\|`) }
