// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"opensandbox.io/controller/test/internal/metricsdoc"
)

const metricsDocument = "../../docs/metrics.md"

// families are what the controller that serves its metrics at the address says of itself.
func (s *space) families(address string) map[string]*dto.MetricFamily {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	s.must(err)
	reply, err := http.DefaultClient.Do(request)
	s.must(err)
	defer reply.Body.Close() //nolint:errcheck // only read from
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(reply.Body)
	s.must(err)
	return families
}

func TestTheDocumentOfMetricsTellsOfEachThatAScrapeHasAndOfNoOther(t *testing.T) {
	documented, err := metricsdoc.Read(metricsDocument)
	if err != nil {
		t.Fatal(err)
	}
	s := newSpace(t)
	address := freeAddress(t)
	s.startExecutors()
	s.startController("", "--leader-elect", "--metrics-bind-address="+address)
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	s.create(makeTaskBatch("b", "p", "exit 0", 1))
	s.tasksEnded("b")
	families := s.families(address)
	for name, family := range families {
		row := metricsdoc.Find(documented, name)
		if row == nil {
			t.Errorf("%s has no metric %s: a %s, %s", metricsDocument, name, typeOf(family), family.GetHelp())
			continue
		}
		if strings.HasSuffix(row.Name, "*") {
			continue
		}
		if kind := typeOf(family); kind != row.Type {
			t.Errorf("%s is a %s, and %s says %s", name, kind, metricsDocument, row.Type)
		}
		checkLabels(t, row, family)
	}
	for _, row := range documented {
		found := false
		for name := range families {
			found = found || row.Covers(name)
		}
		if !found {
			t.Errorf("%s has %s, and a scrape has no such metric", metricsDocument, row.Name)
		}
	}
}

func typeOf(family *dto.MetricFamily) string { return strings.ToLower(family.GetType().String()) }

// checkLabels reports labels that a row doesn't tell of, or that it has and the metric doesn't, and values that it doesn't know.
func checkLabels(t *testing.T, row *metricsdoc.Metric, family *dto.MetricFamily) {
	t.Helper()
	for _, m := range family.GetMetric() {
		if len(m.GetLabel()) != len(row.Labels) {
			t.Errorf("%s has labels %v, and %s says %v", row.Name, m.GetLabel(), metricsDocument, row.Labels)
			return
		}
		for _, l := range m.GetLabel() {
			values, known := row.Labels[l.GetName()]
			if !known || (len(values) > 0 && !slices.Contains(values, l.GetValue())) {
				t.Errorf("%s has %s=%q, and %s says %v", row.Name, l.GetName(), l.GetValue(), metricsDocument, row.Labels)
				return
			}
		}
	}
}
