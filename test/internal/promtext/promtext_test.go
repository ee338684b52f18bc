// SPDX-License-Identifier: Apache-2.0

package promtext

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader(`# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 42

process_resident_memory_bytes 1.5e+07 1700000000000
apiserver_request_total{code="200",resource="pods",verb="PATCH"} 3
odd{path="a\\b \"c\" {d}, e=\"f\"",empty="",nl="x\ny",} +Inf
bucket{le="0.1"} 7 # {trace="1"} 0.05
`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if len(got[i].Labels) == 0 {
			got[i].Labels = nil
		}
	}
	inf := got[3].Value
	got[3].Value = 0
	want := Samples{
		{Name: "go_goroutines", Value: 42},
		{Name: "process_resident_memory_bytes", Value: 1.5e7},
		{Name: "apiserver_request_total", Labels: map[string]string{"code": "200", "resource": "pods", "verb": "PATCH"}, Value: 3},
		{Name: "odd", Labels: map[string]string{"path": `a\b "c" {d}, e="f"`, "empty": "", "nl": "x\ny"}},
		{Name: "bucket", Labels: map[string]string{"le": "0.1"}, Value: 7},
	}
	if diff := cmp.Diff(want, got); diff != "" || inf < 1e300 {
		t.Errorf("infinity %v, samples (-want +got):\n%s", inf, diff)
	}
}

func TestParseRefusesWhatIsNoMetric(t *testing.T) {
	for name, text := range map[string]string{
		"a name alone":               "go_goroutines",
		"labels without a value":     `a{b="c"}`,
		"labels that don't end":      `a{b="c" 1`,
		"a label that doesn't end":   `a{b="c 1`,
		"a value that is no number":  "a many",
		"a label without its quotes": "a{b=c} 1",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Parse(strings.NewReader(text)); err == nil {
				t.Errorf("got %v, want an error", got)
			}
		})
	}
}

func TestSumAddsWhatHasTheLabels(t *testing.T) {
	s := Samples{
		{Name: "a", Labels: map[string]string{"verb": "PATCH", "code": "200"}, Value: 1},
		{Name: "a", Labels: map[string]string{"verb": "PATCH", "code": "409"}, Value: 2},
		{Name: "a", Labels: map[string]string{"verb": "GET", "code": "200"}, Value: 4},
		{Name: "b", Labels: map[string]string{"verb": "PATCH"}, Value: 8},
	}
	if got := s.Sum("a", "verb", "PATCH"); got != 3 {
		t.Errorf("got %v, want 3", got)
	}
	if got := s.Sum("a", "verb", "PATCH", "code", "200"); got != 1 {
		t.Errorf("got %v, want 1", got)
	}
	if got := s.Sum("a"); got != 7 {
		t.Errorf("got %v, want 7", got)
	}
}
