// SPDX-License-Identifier: Apache-2.0

// Command docs checks what the documents of the checkout say about it: paths named in docs and comments exist, every
// YAML block of the READMEs is a file under config/samples, and both READMEs show the same blocks.
//
//	go run ./hack/verify/docs
package main

import (
	"bytes"
	"fmt"
	"io/fs"
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
	return append(problems, blocks...), err
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
	samples, err := readSamples(root)
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
		for _, b := range blocks[i] {
			if _, known := samples[b.body]; b.isYAML() && !known {
				problems = append(problems, fmt.Sprintf("%s:%d: this YAML block is no file under %s. fix: make them equal, or add the file",
					name, b.line, samplesDir))
			}
		}
	}
	return append(problems, compareBlocks(blocks[0], blocks[1])...), nil
}

// readSamples returns the samples' names by their normalised content.
func readSamples(root fs.FS) (map[string]string, error) {
	names, err := fs.Glob(root, samplesDir+"/*.yaml")
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
