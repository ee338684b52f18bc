// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// constant is an exported string constant.
type constant struct{ name, value, doc string }

// identifier finds what may be the name of a constant in a comment.
var identifier = regexp.MustCompile(`\b[A-Z][A-Za-z]+\b`)

// writeConstants writes the exported string constants of a Go file: a table for each group of them, under its comment.
// Constants that stand alone come last.
func writeConstants(out *strings.Builder, heading string, source []byte) error {
	file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments)
	if err != nil {
		return err
	}
	type table struct {
		doc  string
		rows []constant
	}
	var tables []table
	alone := table{doc: "Others."}
	values := map[string]string{}
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		rows := constantsOf(group)
		for _, c := range rows {
			values[c.name] = c.value
		}
		if group.Lparen.IsValid() {
			tables = append(tables, table{group.Doc.Text(), rows})
		} else {
			alone.rows = append(alone.rows, rows...)
		}
	}
	fmt.Fprintf(out, "## %s\n\n", heading)
	for _, t := range append(tables, alone) {
		if len(t.rows) > 0 {
			fmt.Fprintf(out, "%s\n\n| name | meaning |\n|---|---|\n", prose(t.doc))
			writeRows(out, t.rows, values)
			out.WriteString("\n")
		}
	}
	return nil
}

// writeRows writes a line for each constant, or for several that share a comment. A comment calls constants by their names
// in Go; the line calls them by their values.
func writeRows(out *strings.Builder, rows []constant, values map[string]string) {
	for i := 0; i < len(rows); {
		names, doc := "`"+rows[i].value+"`", without(rows[i].name, rows[i].doc)
		for i++; i < len(rows) && rows[i].doc == ""; i++ {
			names += ", `" + rows[i].value + "`"
			doc = without("and "+rows[i].name, doc)
		}
		doc = identifier.ReplaceAllStringFunc(doc, func(name string) string {
			if value := values[name]; value != "" {
				return "`" + value + "`"
			}
			return name
		})
		fmt.Fprintf(out, "| %s | %s |\n", names, cell(doc))
	}
}

// constantsOf are the exported constants of a group that are strings.
func constantsOf(group *ast.GenDecl) []constant {
	var found []constant
	for _, spec := range group.Specs {
		spec, ok := spec.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !spec.Names[0].IsExported() {
			continue
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			continue
		}
		value, err := strconv.Unquote(literal.Value)
		if err != nil {
			continue
		}
		doc := spec.Doc
		if !group.Lparen.IsValid() {
			doc = group.Doc
		}
		found = append(found, constant{spec.Names[0].Name, value, doc.Text()})
	}
	return found
}
