// SPDX-License-Identifier: Apache-2.0

// Command crd-no-cel copies custom resource definitions without their CEL rules, for API servers before 1.25 and
// their clients, which refuse the keyword x-kubernetes-validations.
//
//	go run ./hack/tools/crd-no-cel FROM_DIR TO_DIR
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

// rulesKeyword is the schema member that holds CEL rules.
const rulesKeyword = "x-kubernetes-validations"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crd-no-cel:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: crd-no-cel FROM_DIR TO_DIR")
	}
	from, to := args[0], args[1]
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil {
		return fmt.Errorf("list %s: %w", from, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("no definitions in %s: run `make manifests`", from)
	}
	if err := removeStale(to, files); err != nil {
		return err
	}
	for _, file := range files {
		if err := convert(file, filepath.Join(to, filepath.Base(file))); err != nil {
			return err
		}
	}
	return nil
}

// removeStale deletes the copies in dir whose original is gone.
func removeStale(dir string, originals []string) error {
	copies, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, file := range copies {
		sameName := func(original string) bool { return filepath.Base(original) == filepath.Base(file) }
		if slices.ContainsFunc(originals, sameName) {
			continue
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove stale copy: %w", err)
		}
	}
	return nil
}

func convert(from, to string) error {
	in, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read definition: %w", err)
	}
	out, err := withoutRules(in)
	if err != nil {
		return fmt.Errorf("convert %s: %w", from, err)
	}
	if err := os.WriteFile(to, out, 0o644); err != nil {
		return fmt.Errorf("write definition: %w", err)
	}
	return nil
}

// withoutRules returns the YAML document without any schema's CEL rules.
func withoutRules(document []byte) ([]byte, error) {
	var root any
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("parse YAML: %w", err)
	}
	body, err := yaml.Marshal(dropRules(root, false))
	if err != nil {
		return nil, fmt.Errorf("render YAML: %w", err)
	}
	return append([]byte("---\n"), body...), nil
}

// dropRules removes the keyword from every schema below node. Inside `properties` the keys are names of fields, which the
// keyword must not be mistaken for.
func dropRules(node any, keysAreFields bool) any {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			if key == rulesKeyword && !keysAreFields {
				delete(n, key)
				continue
			}
			n[key] = dropRules(value, key == "properties" && !keysAreFields)
		}
	case []any:
		for i := range n {
			n[i] = dropRules(n[i], false)
		}
	}
	return node
}
