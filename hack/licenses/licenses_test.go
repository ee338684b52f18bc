// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	isc = `ISC License
Copyright (c) 2012 A Person
Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that
the above copyright notice and this permission notice appear in all copies.
THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES
OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR
ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS
ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`
	gpl = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as
published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.
This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more details.
You should have received a copy of the GNU General Public License along with this program. If not, see <https://www.gnu.org/licenses/>.
`
	mozilla = `This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. If a copy of the MPL was not
distributed with this file, You can obtain one at https://mozilla.org/MPL/2.0/.
`
	own = "You may look at this software on weekdays, and tell nobody what you saw there.\n"
)

// checkout makes a module with a binary that imports example.com/dep, and returns its folder. files are those of that module,
// by name; its package is in the folder "sub".
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOWORK", "off")
	dir := t.TempDir()
	all := map[string]string{
		"go.mod":         "module example.com/main\n\ngo 1.26.0\n\nrequire example.com/dep v1.0.0\n\nreplace example.com/dep => ./dep\n",
		"cmd/x/main.go":  "package main\n\nimport _ \"example.com/dep/sub\"\n\nfunc main() {}\n",
		"dep/go.mod":     "module example.com/dep\n\ngo 1.26.0\n",
		"dep/sub/sub.go": "package sub\n",
	}
	for name, text := range files {
		all["dep/"+name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEveryLinkedModuleIsUnderAnAllowedLicence(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  string // in the error; none if it is empty
	}{
		"an allowed licence":                       {files: map[string]string{"LICENSE": isc}},
		"spelt another way":                        {files: map[string]string{"licence.txt": isc}},
		"a notice beside it, in its own words":     {files: map[string]string{"LICENSE": isc, "NOTICE": own}},
		"a foreign one where nothing is linked":    {files: map[string]string{"LICENSE": isc, "other/LICENSE": gpl}},
		"source code that is about licences":       {files: map[string]string{"LICENSE": isc, "sub/license.go": "package sub\n"}},
		"no licence":                               {want: "example.com/dep has no licence"},
		"a notice and no licence":                  {files: map[string]string{"NOTICE": isc}, want: "example.com/dep has no licence"},
		"a foreign licence":                        {files: map[string]string{"LICENSE": gpl}, want: "example.com/dep: LICENSE is GPL-3.0-or-later, which isn't allowed"},
		"a foreign licence behind an allowed one":  {files: map[string]string{"LICENSE": isc + gpl}, want: "GPL-3.0-or-later, which isn't allowed"},
		"a foreign licence of the package alone":   {files: map[string]string{"LICENSE": isc, "sub/COPYING": gpl}, want: "example.com/dep: sub/COPYING is GPL-3.0-or-later"},
		"a foreign licence in a notice":            {files: map[string]string{"LICENSE": isc, "NOTICE": gpl}, want: "example.com/dep: NOTICE is GPL-3.0-or-later"},
		"a licence that needs the module's name":   {files: map[string]string{"LICENSE": mozilla}, want: "is MPL-2.0, which isn't allowed"},
		"a licence of its own":                     {files: map[string]string{"LICENSE": own}, want: "example.com/dep: LICENSE is no known licence"},
		"a licence of its own behind a short part": {files: map[string]string{"LICENSE": isc + strings.Repeat(own, 9)}, want: "is no known licence"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), options{checkout: checkout(t, tc.files)})
			if got := errorText(err); (tc.want == "") != (err == nil) || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
		})
	}
}

func TestWhatIsEmbeddedOfOthersNeedsAnAllowedLicenceToo(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"an allowed licence": {files: map[string]string{"LICENSE": isc}},
		"no licence":         {want: "lib has no licence"},
		"a foreign licence":  {files: map[string]string{"LICENSE": gpl}, want: "lib: LICENSE is GPL-3.0-or-later, which isn't allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := checkout(t, map[string]string{"LICENSE": isc})
			lib := filepath.Join(dir, "cmd/x/third_party/lib")
			if err := os.MkdirAll(lib, 0o755); err != nil {
				t.Fatal(err)
			}
			tc.files = maps.Clone(tc.files)
			if tc.files == nil {
				tc.files = map[string]string{}
			}
			tc.files["lib.js"] = "// script"
			tc.files["../../embed.go"] = "package main\n\nimport _ \"embed\"\n\n//go:embed third_party/lib/lib.js\nvar lib string\n"
			for name, text := range tc.files {
				if err := os.WriteFile(filepath.Join(lib, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := run(t.Context(), options{checkout: dir})
			if got := errorText(err); (tc.want == "") != (err == nil) || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestANamedModuleMayHaveItsLicenceAndNoOther(t *testing.T) {
	p := policy{everywhere: []string{"ISC"}, named: map[string]string{"a": "MPL-2.0"}}
	for name, tc := range map[string]struct {
		module, text string
		wantProblems int
	}{
		"the licence it is named with": {"a", mozilla, 0},
		"one of everybody's":           {"a", isc, 0},
		"another one":                  {"a", gpl, 1},
		"another module":               {"b", mozilla, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := p.judge(linked{modules: []string{tc.module}, files: []file{{module: tc.module, path: "LICENSE", text: []byte(tc.text)}}})
			if len(problems) != tc.wantProblems {
				t.Errorf("problems %q, want %d", problems, tc.wantProblems)
			}
		})
	}
}

func TestNoticesHaveEveryTextOnceAndTheCheckFindsWhatIsMissing(t *testing.T) {
	dir := checkout(t, map[string]string{"LICENSE": isc, "sub/LICENSE": strings.ReplaceAll(isc, "\n", " \r\n"), "NOTICE": own})
	if err := run(t.Context(), options{checkout: dir, check: true}); !strings.Contains(errorText(err), "make licenses") {
		t.Errorf("without %s: %v", noticesFile, err)
	}
	if err := run(t.Context(), options{checkout: dir}); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), options{checkout: dir, check: true}); err != nil {
		t.Errorf("right after it was written: %v", err)
	}
	content, err := os.ReadFile(filepath.Join(dir, noticesFile))
	if err != nil {
		t.Fatal(err)
	}
	wantTimes := map[string]int{
		"Copyright (c) 2012 A Person":                                       1,
		"example.com/dep: LICENSE\nexample.com/dep: sub/LICENSE\n(ISC)\n--": 1,
		own:                              1,
		"example.com/dep: NOTICE\n--":    1,
		standardLibrary + ": LICENSE\n":  1,
		"Copyright 2009 The Go Authors.": 1,
	}
	for _, text := range slices.Sorted(maps.Keys(wantTimes)) {
		if got := strings.Count(string(content), text); got != wantTimes[text] {
			t.Errorf("%q is there %d times, want %d", text, got, wantTimes[text])
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "dep/LICENSE"), []byte(strings.Replace(isc, "A Person", "Another", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), options{checkout: dir, check: true}); !strings.Contains(errorText(err), "make licenses") {
		t.Errorf("after a licence changed: %v", err)
	}
}
