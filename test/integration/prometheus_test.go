// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// scrapeConfig is what the Prometheus Operator makes of a ServiceMonitor, in the words of Prometheus.
type scrapeConfig struct {
	JobName       string          `json:"job_name"`
	Scheme        string          `json:"scheme"`
	MetricsPath   string          `json:"metrics_path"`
	HonorLabels   bool            `json:"honor_labels"`
	Authorization authorization   `json:"authorization"`
	TLSConfig     tlsConfig       `json:"tls_config"`
	StaticConfigs []staticTargets `json:"static_configs"`
}

type authorization struct {
	CredentialsFile string `json:"credentials_file"`
}

type tlsConfig struct {
	InsecureSkipVerify bool `json:"insecure_skip_verify"`
}

type staticTargets struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// shipped are the objects of config/prometheus by kind.
func (s *space) shipped() map[string]*unstructured.Unstructured {
	s.t.Helper()
	byKind := map[string]*unstructured.Unstructured{}
	for _, obj := range s.rendered("prometheus") {
		byKind[obj.GetKind()] = obj
	}
	return byKind
}

// scrapeConfigOf is the only endpoint of a ServiceMonitor for a controller at an address, with the labels that the operator adds.
func (s *space) scrapeConfigOf(objects map[string]*unstructured.Unstructured, address, tokenFile string) scrapeConfig {
	s.t.Helper()
	var monitor struct {
		Spec struct {
			Selector  metav1.LabelSelector `json:"selector"`
			Endpoints []struct {
				Port, Path, Scheme, BearerTokenFile string
				HonorLabels                         bool
				TLSConfig                           struct{ InsecureSkipVerify bool }
			} `json:"endpoints"`
		} `json:"spec"`
	}
	content, err := yaml.Marshal(objects["ServiceMonitor"].Object)
	s.must(err)
	s.must(yaml.Unmarshal(content, &monitor))
	service := objects["Service"]
	for key, value := range monitor.Spec.Selector.MatchLabels {
		if service.GetLabels()[key] != value {
			s.t.Errorf("the ServiceMonitor selects %s=%s, and the Service has labels %v", key, value, service.GetLabels())
		}
	}
	e := monitor.Spec.Endpoints[0]
	ports, _, err := unstructured.NestedSlice(service.Object, "spec", "ports")
	s.must(err)
	if port, ok := ports[0].(map[string]any); !ok || port["name"] != e.Port {
		s.t.Errorf("the ServiceMonitor scrapes port %s of a Service with %v", e.Port, ports)
	}
	if want := "/var/run/secrets/kubernetes.io/serviceaccount/token"; e.BearerTokenFile != want {
		s.t.Errorf("the ServiceMonitor has the token from %q, want %s", e.BearerTokenFile, want)
	}
	return scrapeConfig{
		JobName: service.GetName(), Scheme: e.Scheme, MetricsPath: e.Path, HonorLabels: e.HonorLabels,
		Authorization: authorization{tokenFile}, TLSConfig: tlsConfig{e.TLSConfig.InsecureSkipVerify},
		StaticConfigs: []staticTargets{{Targets: []string{address}, Labels: map[string]string{"namespace": systemNamespace, "pod": "controller"}}},
	}
}

// scraper is a running Prometheus.
type scraper struct {
	*space
	url string
}

// startPrometheus runs a Prometheus until the test ends, which is skipped where there is none. It scrapes and evaluates every second.
func (s *space) startPrometheus(scrape scrapeConfig, rules string) *scraper {
	s.t.Helper()
	var why strings.Builder
	find := exec.CommandContext(s.ctx, "../../hack/test/prometheus.sh", "prometheus")
	find.Stderr = &why
	path, err := find.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		s.t.Skip(why.String())
	}
	if err != nil {
		s.t.Fatalf("find a Prometheus: %v\n%s", err, &why)
	}
	dir := s.t.TempDir()
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{"rules.yaml"},
		"scrape_configs": []scrapeConfig{scrape},
	})
	s.must(err)
	s.must(os.WriteFile(filepath.Join(dir, "prometheus.yaml"), config, 0o600))
	s.must(os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(rules), 0o600))
	address, log := freeAddress(s.t), &logBuffer{}
	cmd := exec.Command(strings.TrimSpace(string(path)), "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("the log of Prometheus:\n%s", tail(log.String(), 20))
		}
	})
	p := &scraper{space: s, url: "http://" + address}
	s.answers(p.url+"/-/ready", "", http.StatusOK)
	return p
}

// ask reads from Prometheus' API.
func (p *scraper) ask(path string, into any) error {
	status, body, err := p.get(p.url+"/api/v1/"+path, "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body)
	}
	return json.Unmarshal([]byte(body), &struct {
		Data any `json:"data"`
	}{into})
}

// sees waits until a query has a result.
func (p *scraper) sees(query string) {
	p.t.Helper()
	eventually(p.t, "see "+query, func() error {
		var found struct {
			Result []json.RawMessage `json:"result"`
		}
		if err := p.ask("query?query="+url.QueryEscape(query), &found); err != nil {
			return err
		}
		if len(found.Result) == 0 {
			return errors.New("no series")
		}
		return nil
	})
}

// target waits until the scrape of the controller has this health, and returns what is wrong with it.
func (p *scraper) target(health string) (problem string) {
	p.t.Helper()
	eventually(p.t, "a target is "+health, func() error {
		var found struct {
			ActiveTargets []struct{ Health, LastError string }
		}
		if err := p.ask("targets", &found); err != nil {
			return err
		}
		if len(found.ActiveTargets) != 1 || found.ActiveTargets[0].Health != health {
			return fmt.Errorf("targets %+v", found.ActiveTargets)
		}
		problem = found.ActiveTargets[0].LastError
		return nil
	})
	return problem
}

// rulesAreFine reports every rule that could not be evaluated.
func (p *scraper) rulesAreFine() {
	p.t.Helper()
	var found struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.must(p.ask("rules", &found))
	n := 0
	for _, g := range found.Groups {
		for _, r := range g.Rules {
			if n++; r.Health != "ok" {
				p.t.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if n == 0 {
		p.t.Error("there are no rules")
	}
}

// fires waits until an alert of a pool fires, and returns its description.
func (p *scraper) fires(alert, pool string) (description string) {
	p.t.Helper()
	eventually(p.t, alert+" fires", func() error {
		var found struct {
			Alerts []struct {
				State               string
				Labels, Annotations map[string]string
			}
		}
		if err := p.ask("alerts", &found); err != nil {
			return err
		}
		for _, a := range found.Alerts {
			if a.State == "firing" && a.Labels["alertname"] == alert && a.Labels["namespace"] == p.name && a.Labels["pool"] == pool {
				description = a.Annotations["description"]
				return nil
			}
		}
		return fmt.Errorf("alerts %+v", found.Alerts)
	})
	return description
}

// waits are how long alerts wait before they fire.
var waits = regexp.MustCompile(`(?m)^(\s*)for: .*$`)

// What config/prometheus ships is enough for a real Prometheus, with the role of config/rbac and not without. Its alerts wait for minutes; here
// for a second.
func TestAPrometheusScrapesTheControllerEvaluatesItsRulesAndFiresAnAlert(t *testing.T) {
	s := newSpace(t)
	s.deployRights()
	_, port, err := net.SplitHostPort(freeAddress(t))
	s.must(err)
	s.startController(s.kubeconfigOf(systemAccount), "--namespace="+systemNamespace, "--metrics-bind-address=:"+port, "--leader-elect")
	token := filepath.Join(t.TempDir(), "token")
	s.must(os.WriteFile(token, []byte(s.tokenOf("prometheus")), 0o600))
	objects := s.shipped()
	rules, err := yaml.Marshal(objects["PrometheusRule"].Object["spec"])
	s.must(err)
	p := s.startPrometheus(s.scrapeConfigOf(objects, "127.0.0.1:"+port, token), waits.ReplaceAllString(string(rules), "${1}for: 1s"))
	if problem := p.target("down"); !strings.Contains(problem, "403") {
		t.Errorf("the scrape without a right fails with %q, want 403", problem)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "opensandbox-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.name, Name: "prometheus"}},
	}
	s.must(s.client.Create(s.ctx, binding))
	t.Cleanup(func() { _ = s.client.Delete(context.WithoutCancel(s.ctx), binding) })
	p.target("up")
	p.sees(`leader_election_master_status{name="2fa1c467.opensandbox.io",namespace="` + systemNamespace + `"} == 1`)

	s.create(makePool("p", 1, 2, 2, 2))
	s.idle("p", 2)
	p.sees(`opensandbox_pool_pods{namespace="` + s.name + `",pool="p",state="idle"} == 2`)
	p.sees(`absent(ALERTS{alertname="OpenSandboxPoolEmpty"})`)
	s.create(makeBatch("b", "p", 2))
	s.delivered("b", 2)
	p.sees(`opensandbox_deliveries_total{start="warm"} == 1`)
	for _, recorded := range []string{
		`start:opensandbox_deliveries:rate5m{start="warm"} > 0`,
		`start:opensandbox_delivery_seconds:p99_rate5m{start="warm"} > 0`,
		`stage:opensandbox_delivery_stage_seconds:p99_rate5m{stage="written"} > 0`,
		`:opensandbox_deliveries_warm:ratio_rate5m == 1`,
		`start:opensandbox_delivery_writes:ratio_rate5m{start="warm"} == 2`,
		`namespace_pool:opensandbox_pool_pods_held:ratio{namespace="` + s.name + `",pool="p"} == 1`,
		`namespace_pool_state:opensandbox_pool_pods:max{namespace="` + s.name + `",pool="p",state="held"} == 2`,
		`resource_verb:opensandbox_api_writes:rate5m{resource="batchsandboxes",verb="patch"} > 0`,
		`controller:controller_runtime_reconcile_errors:ratio_rate5m{controller="batchsandbox"} >= 0`,
	} {
		p.sees(recorded)
	}
	s.create(makeBatch("waits", "p", 3))
	if description := p.fires("OpenSandboxPoolEmpty", "p"); !strings.Contains(description, "It should keep 1.") {
		t.Errorf("the alert says %q", description)
	}
	p.fires("OpenSandboxBatchesWaiting", "p")
	p.sees(`absent(ALERTS{alertname="OpenSandboxNoLeader"})`)
	p.sees(`absent(ALERTS{alertname="OpenSandboxDoubleAllocation"})`)
	p.rulesAreFine()
}
