// SPDX-License-Identifier: Apache-2.0

// Command reference writes the reference of the API as Markdown: every field of the definitions with its type, default, bounds
// and meaning, and every condition, reason, annotation, label and finalizer of the Go package.
//
//	go run ./hack/tools/reference CRD_DIR API_DIR > docs/reference.md
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const preamble = `# Reference of the API

Generated from the definitions and the types; ` + "`make manifests`" + ` writes it anew. ` + "`kubectl explain batchsandbox.spec`" + ` and so on tell the same
in a terminal. Unknown fields are refused, or dropped with a warning, by the API server; names are case-sensitive.

`

// constantFiles are those of the Go package whose constants users meet, with the heading of each.
var constantFiles = []struct{ name, heading string }{
	{"conditions.go", "Conditions and reasons"},
	{"well_known.go", "Annotations, labels and other names"},
}

func main() {
	text, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

func run(args []string) (string, error) {
	if len(args) != 2 {
		return "", errors.New("usage: reference CRD_DIR API_DIR")
	}
	files, err := filepath.Glob(filepath.Join(args[0], "*.yaml"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no definitions in %s: run `make manifests` (%w)", args[0], err)
	}
	var out strings.Builder
	out.WriteString(preamble)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read definition: %w", err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(data, crd); err != nil {
			return "", fmt.Errorf("read %s: %w", file, err)
		}
		writeKind(&out, crd)
	}
	for _, file := range constantFiles {
		source, err := os.ReadFile(filepath.Join(args[1], file.name))
		if err != nil {
			return "", fmt.Errorf("read constants: %w", err)
		}
		if err := writeConstants(&out, file.heading, source); err != nil {
			return "", fmt.Errorf("read %s: %w", file.name, err)
		}
	}
	return out.String(), nil
}
