// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// namedPath is a path that a text names.
type namedPath struct {
	line int // counted from 1
	path string
}

// pathPattern finds what looks like a path from the top of the checkout: the name of a top-level folder at the start of a
// word, and what follows. A word like k8s.io/api/core has the folder's name in its middle and is left alone.
var pathPattern = regexp.MustCompile(
	"(?:^|[\\s`\"'(\\[=,])((?:\\./)?(?:\\.ci|api|charts|cmd|config|docs|examples|hack|internal|pkg|test)/[A-Za-z0-9_./{},*-]*)([<$%]?)")

// placeholder is a word in capitals that stands for any text, as in verify-NAME.sh.
var placeholder = regexp.MustCompile(`[A-Z]{2,}`)

// proseOf returns the function that takes the text worth reading out of a file of that name, keeping its lines: all of a
// Markdown document, the comments of code. nil: nothing is read there.
func proseOf(file string) func(content []byte) string {
	base := path.Base(file)
	switch {
	case path.Ext(file) == ".md":
		return func(content []byte) string { return string(content) }
	case path.Ext(file) == ".go" && !strings.HasPrefix(base, "zz_generated") && !strings.Contains(file, "hack/verify/docs/"):
		return goComments
	case path.Ext(file) == ".sh", path.Ext(file) == ".yaml", path.Ext(file) == ".yml", base == "Makefile",
		strings.HasPrefix(base, "Dockerfile"), file == ".ci/run":
		return hashComments
	}
	return nil
}

// goComments returns the comments of a Go file, each on the line it stands on.
func goComments(content []byte) string {
	lines := make([]string, 1+strings.Count(string(content), "\n"))
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(content))
	var s scanner.Scanner
	s.Init(file, content, nil, scanner.ScanComments)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return strings.Join(lines, "\n")
		}
		if tok != token.COMMENT {
			continue
		}
		for i, line := range strings.Split(text, "\n") {
			lines[file.Line(pos)-1+i] += " " + strings.TrimLeft(line, "/* \t")
		}
	}
}

// hashComments returns what follows a # at the start of a word.
func hashComments(content []byte) string {
	lines := strings.Split(string(content), "\n")
	for i, line := range lines {
		_, comment, found := strings.Cut(" "+strings.ReplaceAll(line, "\t", " "), " #")
		if !found {
			comment = ""
		}
		lines[i] = comment
	}
	return strings.Join(lines, "\n")
}

// namedPaths returns the paths a text names, in their order.
func namedPaths(text string) []namedPath {
	var paths []namedPath
	for i, line := range strings.Split(text, "\n") {
		for _, match := range pathPattern.FindAllStringSubmatch(line, -1) {
			name := strings.TrimPrefix(match[1], "./")
			if match[2] != "" { // goes on with a variable: only its folder is known
				name = name[:strings.LastIndex(name, "/")+1]
			}
			paths = append(paths, namedPath{line: i + 1, path: trimEnd(name)})
		}
	}
	return paths
}

// trimEnd drops what belongs to the sentence and not to the path.
func trimEnd(name string) string {
	if strings.Contains(name, ",") && !strings.Contains(name, "{") {
		name, _, _ = strings.Cut(name, ",")
	}
	return strings.TrimRight(strings.TrimSuffix(strings.TrimRight(name, ".,-"), "/..."), "/.,")
}

// exists says whether the path is there, seen from the top or from the folder of the file that names it. Braces and stars
// are patterns, words in capitals stand for any text, and pkg.Name is a name in a package.
func exists(root fs.FS, dir, name string) bool {
	for _, plain := range expandBraces(name) {
		if !existsPlain(root, plain) && !existsPlain(root, path.Join(dir, plain)) {
			return false
		}
	}
	return true
}

func existsPlain(root fs.FS, name string) bool {
	if matches, err := fs.Glob(root, name); err == nil && len(matches) > 0 {
		return true
	}
	if pattern := placeholder.ReplaceAllString(name, "*"); pattern != name {
		matches, err := fs.Glob(root, pattern)
		return err == nil && len(matches) > 0
	}
	before, symbol, found := strings.Cut(path.Base(name), ".")
	if !found || symbol == "" || symbol[0] < 'A' || symbol[0] > 'Z' {
		return false
	}
	_, err := fs.Stat(root, path.Join(path.Dir(name), before))
	return err == nil
}

// expandBraces turns a/{b,c}/d into a/b/d and a/c/d. Braces don't nest; a lone brace stands for itself.
func expandBraces(name string) []string {
	before, rest, found := strings.Cut(name, "{")
	if !found {
		return []string{name}
	}
	inside, after, found := strings.Cut(rest, "}")
	if !found {
		return []string{name}
	}
	var names []string
	for choice := range strings.SplitSeq(inside, ",") {
		names = append(names, expandBraces(before+choice+after)...)
	}
	return names
}
