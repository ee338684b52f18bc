// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// minCovered is how much of a licence's text must be known, in percent. The rest are lists of files and of holders of rights; the
// public index of Go packages asks for the same.
const minCovered = 75

// policy says what may be linked. Licences have the names that SPDX gives them.
type policy struct {
	// everywhere are the licences under which anything may be linked.
	everywhere []string

	// named are modules and the one further licence each may be linked under, because somebody looked at what it asks for.
	named map[string]string
}

// ours is this project's policy. The last of its names is no licence but a grant that comes with one.
var ours = policy{
	everywhere: []string{"Apache-2.0", "0BSD", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "GooglePatentsFile"},
	named:      map[string]string{}, // of MPL-2.0 alone
}

// finding is a text, and the licences it is about.
type finding struct {
	file
	kinds []string
}

// judge returns the texts with their licences, and a problem for each module that may not be linked.
//
//	| text                    | what is known of it                    | may be linked                |
//	|-------------------------|----------------------------------------|------------------------------|
//	| no licence              |                                        | no                           |
//	| licence                 | less than minCovered                   | no                           |
//	| licence                 | licences of everywhere                 | yes                          |
//	| licence, notice, grant  | another licence, in any part           | if the module is named there |
//	| notice, grant           | no licence                             | yes: it goes with one        |
func (p policy) judge(l linked) ([]finding, []error) {
	var findings []finding
	var problems []error
	licensed := make(map[string]bool)
	for _, f := range l.files {
		kinds, problem := p.judgeFile(f)
		if problem != nil {
			problems = append(problems, problem)
		}
		licensed[f.module] = licensed[f.module] || f.isLicence()
		findings = append(findings, finding{file: f, kinds: kinds})
	}
	for _, module := range l.modules {
		if !licensed[module] {
			problems = append(problems, fmt.Errorf("%s has no licence. fix: don't link it", module))
		}
	}
	return findings, problems
}

func (p policy) judgeFile(f file) (kinds []string, problem error) {
	covered := licensecheck.Scan(f.text)
	for _, match := range covered.Match {
		kinds = append(kinds, match.ID)
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	for _, kind := range kinds {
		if !slices.Contains(p.everywhere, kind) && p.named[f.module] != kind {
			return kinds, fmt.Errorf("%s is %s, which isn't allowed. fix: don't link it, or name it in hack/licenses/judge.go", f, kind)
		}
	}
	if f.isLicence() && (covered.Percent < minCovered || len(kinds) == 0) {
		return kinds, fmt.Errorf("%s is no known licence: only %.0f%% of its text is. fix: don't link it", f, covered.Percent)
	}
	return kinds, nil
}

// notices are all texts, each once, with those it is from.
func notices(findings []finding) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Third-party notices\n\nThe binaries contain what is listed here, each under its own licence. Written by `make licenses`.\n")
	done := make(map[string]bool)
	for _, f := range findings {
		text := normalise(f.text)
		if done[text] {
			continue
		}
		done[text] = true
		fmt.Fprintf(&out, "\n%s\n", strings.Repeat("=", 80))
		for _, same := range findings {
			if normalise(same.text) == text {
				fmt.Fprintln(&out, same)
			}
		}
		if len(f.kinds) > 0 {
			fmt.Fprintf(&out, "(%s)\n", strings.Join(f.kinds, ", "))
		}
		fmt.Fprintf(&out, "%s\n\n%s\n", strings.Repeat("-", 80), text)
	}
	return out.Bytes()
}

// normalise drops what doesn't show.
func normalise(text []byte) string {
	lines := strings.Split(strings.ReplaceAll(string(text), "\r", ""), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
