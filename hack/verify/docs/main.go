// SPDX-License-Identifier: Apache-2.0

// Command docs checks what the documents of the checkout say about it: paths named in docs and comments exist, every
// YAML block of the READMEs is a file under config/samples, one of docs/security.md a file of the network policies, both
// READMEs show the same blocks, and docs/security.md gives a reason for every right that a role under config/rbac grants.
//
//	go run ./hack/verify/docs
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// readmes are the two languages of the same document.
var readmes = [2]string{"README.md", "README-ZH.md"}

// samplesDir holds the tested files that the READMEs show.
const samplesDir = "config/samples"

// shown are the other documents whose YAML blocks are tested files, and where those are.
var shown = map[string]string{"docs/security.md": "config/network-policy-sandboxes"}

func main() {
	problems, err := check(os.DirFS("."))
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
	}
	if err != nil || len(problems) > 0 {
		os.Exit(1)
	}
}

func check(root fs.FS) ([]string, error) {
	files, err := listFiles()
	if err != nil {
		return nil, err
	}
	problems, err := checkPaths(root, files)
	if err != nil {
		return nil, err
	}
	blocks, err := checkReadmes(root)
	if err != nil {
		return nil, err
	}
	problems = append(problems, blocks...)
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		found, err := checkShown(root, name, shown[name])
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	rights, err := checkRights(root)
	return append(problems, rights...), err
}

// checkShown returns a problem for each YAML block of a document that is no file in dir, and for a document without one.
func checkShown(root fs.FS, name, dir string) ([]string, error) {
	content, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	blocks := fencedBlocks(string(content))
	if !slices.ContainsFunc(blocks, block.isYAML) {
		return []string{fmt.Sprintf("%s shows no file of %s. fix: show one, or check it no more", name, dir)}, nil
	}
	samples, err := readSamples(root, dir)
	if err != nil {
		return nil, err
	}
	return notAmong(samples, name, dir, blocks), nil
}

// notAmong returns a problem for each YAML block of a document that is none of the samples in dir.
func notAmong(samples map[string]string, name, dir string, blocks []block) []string {
	var problems []string
	for _, b := range blocks {
		if _, known := samples[b.body]; b.isYAML() && !known {
			problems = append(problems, fmt.Sprintf("%s:%d: this YAML block is no file under %s. fix: make them equal, or add the file",
				name, b.line, dir))
		}
	}
	return problems
}

// listFiles returns the files Git knows or would know, sorted.
func listFiles() ([]string, error) {
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return nil, fmt.Errorf("list files with git ls-files (run from the checkout): %w", err)
	}
	files := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	slices.Sort(files)
	return slices.Compact(files), nil
}

// checkPaths returns a problem for each named path that doesn't exist.
func checkPaths(root fs.FS, files []string) ([]string, error) {
	var problems []string
	for _, file := range files {
		read := proseOf(file)
		if read == nil {
			continue
		}
		content, err := fs.ReadFile(root, file)
		if os.IsNotExist(err) {
			continue // deleted, but not yet committed
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		for _, named := range namedPaths(read(content)) {
			if !exists(root, path.Dir(file), named.path) {
				problems = append(problems, fmt.Sprintf("%s:%d: names %s, which doesn't exist. fix: name what is there", file, named.line, named.path))
			}
		}
	}
	return problems, nil
}

// checkReadmes compares the READMEs' blocks with the samples and with each other.
func checkReadmes(root fs.FS) ([]string, error) {
	samples, err := readSamples(root, samplesDir)
	if err != nil {
		return nil, err
	}
	var problems []string
	var blocks [2][]block
	for i, name := range readmes {
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return nil, fmt.Errorf("read document: %w", err)
		}
		blocks[i] = fencedBlocks(string(content))
		problems = append(problems, notAmong(samples, name, samplesDir, blocks[i])...)
	}
	return append(problems, compareBlocks(blocks[0], blocks[1])...), nil
}

// readSamples returns the names of the files in dir by their normalised content.
func readSamples(root fs.FS, dir string) (map[string]string, error) {
	names, err := fs.Glob(root, dir+"/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list samples: %w", err)
	}
	samples := make(map[string]string, len(names))
	for _, name := range names {
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return nil, fmt.Errorf("read sample: %w", err)
		}
		samples[normalise(string(bytes.TrimSpace(content)))] = name
	}
	return samples, nil
}
