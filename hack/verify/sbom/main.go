// SPDX-License-Identifier: Apache-2.0

// Command sbom checks that a bill of materials (CycloneDX, JSON) is that of a binary: it names that file and version, and the
// modules that the linker wrote into it, those and no others.
//
//	go run ./hack/verify/sbom BINARY BILL VERSION
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
)

const (
	// hashProperty is where the bill has the SHA-256 of the binary, in hexadecimal digits.
	hashProperty = "cdx:gomod:binary:hash:SHA-256"

	// standardLibrary is its name in the bill.
	standardLibrary = "std"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: sbom BINARY BILL VERSION")
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read binary: %w", err)
	}
	info, err := buildinfo.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read what is linked: %w", err)
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return fmt.Errorf("read bill: %w", err)
	}
	var b bill
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("parse %s: %w", args[1], err)
	}
	problems := check(b, binary{version: args[2], hash: fmt.Sprintf("%x", sha256.Sum256(content)), info: info})
	if len(problems) > 0 {
		return fmt.Errorf("%s is not the bill of %s: %s. fix: make sbom", args[1], args[0], strings.Join(problems, "; "))
	}
	return nil
}

// binary is what a bill is compared with.
type binary struct {
	version string
	hash    string
	info    *debug.BuildInfo
}

// bill is what is read of a bill of materials.
type bill struct {
	Format       string     `json:"bomFormat"`
	SpecVersion  string     `json:"specVersion"`
	Metadata     metadata   `json:"metadata"`
	Components   []part     `json:"components"`
	Dependencies []relation `json:"dependencies"`
}

type metadata struct {
	Component  part       `json:"component"`
	Properties []property `json:"properties"`
}

type part struct {
	Ref     string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"purl"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type relation struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// check returns what is wrong with a bill.
func check(b bill, of binary) []string {
	var problems []string
	expect := func(what, got, want string) {
		if got != want {
			problems = append(problems, fmt.Sprintf("%s is %q, not %q", what, got, want))
		}
	}
	expect("the format", b.Format+" "+b.SpecVersion, "CycloneDX 1.6")
	main := b.Metadata.Component
	expect("the module", main.Name, of.info.Main.Path)
	expect("the version", main.Version, of.version)
	_, program, _ := strings.Cut(main.URL, "#")
	expect("the program", path.Join(main.Name, program), of.info.Path)
	hash := slices.IndexFunc(b.Metadata.Properties, func(p property) bool { return p.Name == hashProperty })
	if hash < 0 {
		problems = append(problems, "it has no "+hashProperty)
	} else {
		expect("the file's SHA-256", b.Metadata.Properties[hash].Value, of.hash)
	}

	var named, refs, related []string
	for _, c := range b.Components {
		named = append(named, c.Name+" "+c.Version)
		if c.Name != standardLibrary { // the generator relates it to nothing
			refs = append(refs, c.Ref)
		}
		if !strings.HasPrefix(c.URL, "pkg:golang/"+c.Name+"@"+c.Version) {
			problems = append(problems, fmt.Sprintf("%s has the URL %q", c.Name, c.URL))
		}
	}
	for _, r := range b.Dependencies {
		if r.Ref == main.Ref {
			related = append(related, r.DependsOn...)
		}
	}
	problems = append(problems, differences("names", named, linked(of.info))...)
	return append(problems, differences("relates", related, refs)...)
}

// linked are the modules of a binary and the standard library, as "name version".
func linked(info *debug.BuildInfo) []string {
	names := []string{standardLibrary + " " + info.GoVersion}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		names = append(names, m.Path+" "+m.Version)
	}
	return names
}

func differences(verb string, got, want []string) []string {
	var problems []string
	for _, name := range got {
		if !slices.Contains(want, name) {
			problems = append(problems, fmt.Sprintf("it %s %s, which isn't there", verb, name))
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			problems = append(problems, fmt.Sprintf("nothing %s %s", verb, name))
		}
	}
	return problems
}
