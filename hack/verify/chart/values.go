// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// setting is a value, as --set takes it, and what the chart must have because of it.
type setting struct{ set, want string }

// settings are values that don't exclude each other.
func settings() []setting {
	return []setting{
		{"image.repository=r", "image: r@sha256:"},
		{"image.digest=sha256:" + strings.Repeat("0", 64), "image: r@sha256:" + strings.Repeat("0", 64) + "\n"},
		{"image.pullPolicy=Always", "imagePullPolicy: Always"},
		{"imagePullSecrets[0].name=s", "imagePullSecrets:\n      - name: s"},
		{"replicas=3", "replicas: 3"},
		{"resources.limits.memory=2Gi", "limits:\n            memory: 2Gi"},
		{"nodeSelector.zone=z", "nodeSelector:\n        zone: z"},
		{"tolerations[0].key=k", "tolerations:\n      - key: k"},
		{"affinity.nodeAffinity.x=z", "nodeAffinity:\n          x: z"},
		{"topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints:\n      - maxSkew: 1"},
		{"priorityClassName=first", "priorityClassName: first"},
		{"podAnnotations.a=b", "        a: b\n"},
		{"podLabels.c=d", "        c: d\n"},
		{"logLevel=1", "- --v=1\n"},
		{"concurrency=32", "- --concurrency=32\n"},
		{"kubeClient.qps=50", "- --kube-client-qps=50\n"},
		{"kubeClient.burst=1000000", "- --kube-client-burst=1000000\n"},
		{"leaderElection.leaseDuration=30s", "- --leader-elect-lease-duration=30s\n"},
		{"leaderElection.renewDeadline=20s", "- --leader-elect-renew-deadline=20s\n"},
		{"leaderElection.retryPeriod=5s", "- --leader-elect-retry-period=5s\n"},
		{"metrics.secure=false", "- --metrics-secure=false\n"},
		{"metrics.certificateSecret=certs", "secretName: certs"},
		{"metrics.serviceMonitor.enabled=true", "scheme: http\n"},
		{"metrics.serviceMonitor.labels.release=p", "    release: p\n"},
		{"metrics.prometheusRule.enabled=true", "kind: PrometheusRule"},
		{"metrics.prometheusRule.labels.rules=q", "    rules: q\n"},
		{"tracing.endpoint=http://collector:4318", "- --tracing-endpoint=http://collector:4318\n"},
		{"tracing.samplingRatePerMillion=0", "- --tracing-sampling-rate-per-million=0\n"},
		{"podDisruptionBudget.maxUnavailable=50%", "maxUnavailable: 50%"},
		{"serviceAccount.name=me", "serviceAccountName: me"},
		{"serviceAccount.annotations.e=f", "annotations:\n    e: f"},
		{"extraArgs[0]=--namespace=x", "- --namespace=x\n"},
		{"extraEnv[0].name=GOGC,extraEnv[0].value=off", "env:\n        - name: GOGC\n          value: \"off\""},
		{"crds.keep=true", "helm.sh/resource-policy: keep"},
		{"uninstall.policy=Delete", "- --policy=Delete\n"},
		{"uninstall.timeout=9m", "- --timeout=9m\n"},
	}
}

// switches are values that leave objects out, and what is not there because of them.
func switches() []setting {
	return []setting{
		{"crds.install=false", "kind: CustomResourceDefinition"},
		{"podDisruptionBudget.enabled=false", "kind: PodDisruptionBudget"},
		{"serviceAccount.create=false", "kind: ServiceAccount\nmetadata"},
		{"uninstall.policy=Keep", "helm.sh/hook"},
		{"watchNamespaces={a}", "kind: Cluster"},
	}
}

// checkValues returns a problem for each value that does nothing.
func (t tools) checkValues() ([]string, error) {
	render := func(of []setting) (string, error) {
		var sets []string
		for _, s := range of {
			sets = append(sets, s.set)
		}
		out, complaint, err := output(t.helm, "template", "opensandbox", t.chart, "--set="+strings.Join(sets, ","))
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, complaint)
		}
		return out, nil
	}
	preset, err := render(nil)
	if err != nil {
		return nil, err
	}
	with, err := render(settings())
	if err != nil {
		return nil, err
	}
	without, err := render(switches())
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, s := range settings() {
		if strings.Contains(preset, s.want) || !strings.Contains(with, s.want) {
			problems = append(problems, fmt.Sprintf("helm template --set %s should give %q, and only then", s.set, s.want))
		}
	}
	for _, s := range switches() {
		if !strings.Contains(preset, s.want) || strings.Contains(without, s.want) {
			problems = append(problems, fmt.Sprintf("helm template --set %s should leave out %q, which is there by default", s.set, s.want))
		}
	}
	return problems, nil
}
