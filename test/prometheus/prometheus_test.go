// SPDX-License-Identifier: Apache-2.0

// Package prometheus tests what is shipped for Prometheus and Grafana: the rules fire when they should and only then, every alert has a
// runbook, and rules and dashboard ask for nothing that a controller doesn't tell. What needs promtool is run by `make test-rules`.
package prometheus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/test/internal/metricsdoc"
)

const (
	rulesFile    = "../../config/prometheus/rules.yaml"
	boardFile    = "../../config/grafana/opensandbox.json"
	runbooksFile = "../../docs/runbooks.md"
	metricsFile  = "../../docs/metrics.md"
)

// rule is one of a group: a recording rule or an alert.
type rule struct {
	Record      string            `json:"record,omitempty"`
	Alert       string            `json:"alert,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type group struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

// groups is a file of rules, as Prometheus itself reads it.
type groups struct {
	Groups []group `json:"groups"`
}

func (g groups) rules() []rule {
	var rules []rule
	for _, group := range g.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// shippedRules are the spec of the PrometheusRule, which has the form of a file of rules.
func shippedRules(t *testing.T) groups {
	t.Helper()
	content, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec groups `json:"spec"`
	}
	if err := yaml.Unmarshal(content, &object); err != nil {
		t.Fatal(err)
	}
	if len(object.Spec.rules()) == 0 {
		t.Fatalf("%s has no rules", rulesFile)
	}
	return object.Spec
}

// query is an expression of the dashboard, and where it stands.
type query struct{ where, expr string }

// panel is what matters here of a panel of Grafana.
type panel struct {
	Title   string `json:"title"`
	Type    string `json:"type"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
	Panels []panel `json:"panels"`
}

// boardQueries are the queries of all panels and variables of the dashboard.
func boardQueries(t *testing.T) []query {
	t.Helper()
	content, err := os.ReadFile(boardFile)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels     []panel `json:"panels"`
		Templating struct {
			List []struct {
				Name  string `json:"name"`
				Type  string `json:"type"`
				Query any    `json:"query"`
			} `json:"list"`
		} `json:"templating"`
	}
	if err := json.Unmarshal(content, &board); err != nil {
		t.Fatal(err)
	}
	var queries []query
	var add func(panels []panel)
	add = func(panels []panel) {
		for _, p := range panels {
			if p.Type != "row" && p.Type != "text" && len(p.Targets) == 0 {
				t.Errorf("panel %q asks nothing", p.Title)
			}
			for _, target := range p.Targets {
				queries = append(queries, query{"panel " + p.Title, target.Expr})
			}
			add(p.Panels)
		}
	}
	add(board.Panels)
	for _, v := range board.Templating.List {
		if v.Type != "query" {
			continue
		}
		inner := labelValues.FindStringSubmatch(fmt.Sprint(v.Query))
		if inner == nil {
			t.Errorf("variable %s asks %v, want label_values(series, label)", v.Name, v.Query)
			continue
		}
		queries = append(queries, query{"variable " + v.Name, inner[1]})
	}
	return queries
}

var labelValues = regexp.MustCompile(`label_values\((.+), *[a-z_]+\)`)

// variables are what Grafana puts into a query.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$namespace", "team", "$pool", "p")

// promtool runs promtool, and returns what it says.
func promtool(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	path := os.Getenv("PROMTOOL")
	if path == "" {
		t.Skip("PROMTOOL is not set: make test-rules finds one")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// writeRules writes a file of rules into a folder of its own, which is returned.
func writeRules(t *testing.T, g groups) string {
	t.Helper()
	content, err := yaml.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTheRulesAreValid(t *testing.T) {
	if out, err := promtool(t, writeRules(t, shippedRules(t)), "check", "rules", "rules.yaml"); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	dir := writeRules(t, shippedRules(t))
	cases, err := os.ReadFile("rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rules_test.yaml"), cases, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, dir, "test", "rules", "rules_test.yaml"); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}

// Each alert is seen to fire in one case at least, and not to fire where all is well.
func TestEveryAlertHasACase(t *testing.T) {
	content, err := os.ReadFile("rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Name   string `json:"name"`
			Alerts []struct {
				Name string            `json:"alertname"`
				Want []json.RawMessage `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, c := range file.Tests {
		for _, a := range c.Alerts {
			fires[a.Name] = fires[a.Name] || len(a.Want) > 0
			quiet[a.Name] = quiet[a.Name] || c.Name == "all is well"
		}
	}
	for _, r := range shippedRules(t).rules() {
		if r.Alert != "" && (!fires[r.Alert] || !quiet[r.Alert]) {
			t.Errorf("rules_test.yaml has no case in which %s fires (%t), or is not looked for where all is well (%t)", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
	}
}

func TestEveryAlertSaysWhatItMeansAndHasARunbook(t *testing.T) {
	runbooks, err := os.ReadFile(runbooksFile)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for section := range strings.SplitSeq(string(runbooks), "\n## ") {
		name, body, _ := strings.Cut(section, "\n")
		sections[name] = body
	}
	alerts := 0
	for _, r := range shippedRules(t).rules() {
		if r.Alert == "" {
			continue
		}
		alerts++
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s has severity %q", r.Alert, s)
		}
		for _, annotation := range []string{"summary", "description"} {
			if text := r.Annotations[annotation]; !strings.HasSuffix(text, ".") {
				t.Errorf("%s has %s %q, want sentences", r.Alert, annotation, text)
			}
		}
		if !regexp.MustCompile(`\d|\$value`).MatchString(r.Annotations["description"]) {
			t.Errorf("the description of %s has no numbers", r.Alert)
		}
		if want := "docs/runbooks.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s has runbook_url %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		for _, part := range []string{"**Means.**", "**Look.**", "**Do.**"} {
			if !strings.Contains(sections[r.Alert], part) {
				t.Errorf("the section %s of %s has no %s", r.Alert, runbooksFile, part)
			}
		}
	}
	if n := len(sections) - 1; n != alerts { // less the head of the document
		t.Errorf("%s has %d sections for %d alerts", runbooksFile, n, alerts)
	}
}

func TestEveryQueryOfTheDashboardParses(t *testing.T) {
	var g group
	g.Name = "board"
	for i, q := range boardQueries(t) {
		g.Rules = append(g.Rules, rule{Record: fmt.Sprintf("query_%d", i), Expr: variables.Replace(q.expr)})
	}
	if out, err := promtool(t, writeRules(t, groups{Groups: []group{g}}), "check", "rules", "rules.yaml"); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

func TestRulesAndDashboardAskOnlyForWhatThereIs(t *testing.T) {
	documented, err := metricsdoc.Read(metricsFile)
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(metricsFile)
	if err != nil {
		t.Fatal(err)
	}
	rules := shippedRules(t).rules()
	var queries []query
	var recorded []string
	for _, r := range rules {
		queries = append(queries, query{"rule " + r.Record + r.Alert, r.Expr})
		if r.Record == "" {
			continue
		}
		recorded = append(recorded, r.Record)
		if !bytes.Contains(document, []byte("`"+r.Record+"`")) {
			t.Errorf("%s doesn't tell of %s", metricsFile, r.Record)
		}
	}
	for _, q := range append(queries, boardQueries(t)...) {
		names := metricsIn(variables.Replace(q.expr))
		if len(names) == 0 {
			t.Errorf("%s asks for no metric: %s", q.where, q.expr)
		}
		for _, name := range names {
			if !slices.Contains(recorded, name) && !isSeriesOf(documented, name) {
				t.Errorf("%s asks for %s, which is neither recorded nor in %s", q.where, name, metricsFile)
			}
		}
	}
}

// isSeriesOf says whether a metric, or a histogram of it, is documented.
func isSeriesOf(documented []metricsdoc.Metric, name string) bool {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if whole, ok := strings.CutSuffix(name, suffix); ok {
			if m := metricsdoc.Find(documented, whole); m != nil && m.Type == "histogram" {
				return true
			}
		}
	}
	m := metricsdoc.Find(documented, name)
	return m != nil && m.Type != "histogram"
}

var (
	stringsIn  = regexp.MustCompile(`"(\\.|[^"\\])*"|'[^']*'`)
	matchersIn = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]`)
	groupingIn = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	numbersIn  = regexp.MustCompile(`(?i)(^|[^\w:])[0-9][\w.]*`)
	namesIn    = regexp.MustCompile(`[A-Za-z_:][\w:]*(\s*\()?`)
	keywords   = []string{"and", "or", "unless", "bool", "offset", "inf", "nan", "sum", "max", "min", "count", "avg", "topk"}
)

// metricsIn are the names of metrics in an expression that is known to parse: what is left of it without strings, matchers, labels that it
// groups by, numbers, keywords and functions.
func metricsIn(expr string) []string {
	for _, part := range []*regexp.Regexp{stringsIn, matchersIn, groupingIn} {
		expr = part.ReplaceAllString(expr, " ")
	}
	expr = numbersIn.ReplaceAllString(expr, "$1 ")
	var names []string
	for _, name := range namesIn.FindAllString(expr, -1) {
		if !strings.HasSuffix(name, "(") && !slices.Contains(keywords, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestMetricsOfAnExpression(t *testing.T) {
	for expr, want := range map[string]string{
		`sum by (le) (rate(a_bucket{x="y{z}"}[5m])) / b:c:d > 0.1`:      "a_bucket b:c:d",
		`histogram_quantile(0.99, a) and on (n, p) max by (n) (b) == 1`: "a b",
		`a unless a offset 1h > 0 or absent(c == 1)`:                    "a a c",
		`:a:b > 1e3`: ":a:b",
	} {
		if got := strings.Join(metricsIn(expr), " "); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
