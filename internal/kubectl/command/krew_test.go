// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// manifest is what krew reads of a plugin.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string `json:"version"`
		Homepage         string `json:"homepage"`
		ShortDescription string `json:"shortDescription"`
		Description      string `json:"description"`
		Caveats          string `json:"caveats"`
		Platforms        []struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
			URI    string `json:"uri"`
			Sha256 string `json:"sha256"`
			Bin    string `json:"bin"`
		} `json:"platforms"`
	} `json:"spec"`
}

// TestTheManifestForKrewHasTheShapeThatKrewAsksFor once it is rendered for a release, and names the archives that make builds.
func TestTheManifestForKrewHasTheShapeThatKrewAsksFor(t *testing.T) {
	const top = "../../../"
	text, err := os.ReadFile(top + ".krew.yaml")
	if err != nil {
		t.Fatal(err)
	}
	release := map[string]string{"TagName": "v1.2.3"}
	// krew-release-bot renders the address too, fetches it, and puts both lines at the place's indentation.
	addURIAndSha := func(address, tag string) string {
		address = strings.ReplaceAll(address, "{{ .TagName }}", tag)
		return fmt.Sprintf("uri: %s\n    sha256: %s", address, strings.Repeat("0", 64))
	}
	parsed, err := template.New("krew").Funcs(template.FuncMap{"addURIAndSha": addURIAndSha}).Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var rendered strings.Builder
	if err := parsed.Execute(&rendered, release); err != nil {
		t.Fatal(err)
	}
	var got manifest
	if err := yaml.UnmarshalStrict([]byte(rendered.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"krew.googlecontainertools.github.com/v1alpha2", "Plugin", "sandbox", "v1.2.3"}
	if diff := cmp.Diff(want, []string{got.APIVersion, got.Kind, got.Metadata.Name, got.Spec.Version}); diff != "" {
		t.Error(diff)
	}
	if s := got.Spec.ShortDescription; s == "" || len(s) > 50 || strings.HasSuffix(s, ".") || got.Spec.Description == "" || got.Spec.Homepage == "" {
		t.Errorf("descriptions %q (at most 50 characters, no full stop), %q, homepage %q", s, got.Spec.Description, got.Spec.Homepage)
	}
	var platforms []string
	for _, p := range got.Spec.Platforms {
		goos, arch := p.Selector.MatchLabels["os"], p.Selector.MatchLabels["arch"]
		platforms = append(platforms, goos+"/"+arch)
		if archive := fmt.Sprintf("/kubectl-sandbox_v1.2.3_%s_%s.tar.gz", goos, arch); !strings.HasSuffix(p.URI, archive) || p.Bin != "kubectl-sandbox" {
			t.Errorf("%s: %s with the program %s, want an archive %s", platforms[len(platforms)-1], p.URI, p.Bin, archive)
		}
	}
	makefile, err := os.ReadFile(top + "Makefile")
	if err != nil {
		t.Fatal(err)
	}
	built := regexp.MustCompile(`(?m)^PLUGIN_PLATFORMS \?= (.*)$`).FindStringSubmatch(string(makefile))
	if len(built) != 2 || !slices.Equal(strings.Fields(built[1]), platforms) {
		t.Errorf("the manifest has %v, and make builds %v", platforms, built)
	}
}
