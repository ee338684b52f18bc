// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
)

// account is the name of the controller's ServiceAccount, in a place where it is not the name of something else.
const account = token + "account"

// parts are the templates that have a manifest under config/.
func parts() []part {
	const everywhere, chosen = "if not $.Values.watchNamespaces", "range $namespace := $.Values.watchNamespaces"
	return []part{
		{file: "crds.yaml", from: "config/crd", when: "if $.Values.crds.install", edit: definition},
		{file: "service-account.yaml", from: "config/default", kinds: []string{"ServiceAccount"}, when: "if $.Values.serviceAccount.create", edit: serviceAccount},
		{file: "cluster-roles.yaml", from: "config/rbac", kinds: []string{"ClusterRole", "ClusterRoleBinding"}, when: everywhere, edit: binding},
		{file: "roles.yaml", from: "config/rbac", kinds: []string{"Role", "RoleBinding"}, edit: binding},
		{file: "roles-of-watched-namespaces.yaml", from: "config/namespaced/namespace", each: chosen, edit: watched},
		{file: "deployment.yaml", from: "config/default", kinds: []string{"Deployment"}, edit: deployment},
		{
			file: "pod-disruption-budget.yaml", from: "config/default", kinds: []string{"PodDisruptionBudget"},
			when: "if $.Values.podDisruptionBudget.enabled", edit: disruptionBudget,
		},
		{file: "network-policy.yaml", from: "config/network-policy", when: "if $.Values.networkPolicies.controller.enabled"},
		{
			file: "network-policies-of-sandboxes.yaml", from: "config/network-policy-sandboxes",
			each: "range $namespace := $.Values.networkPolicies.sandboxes.namespaces", edit: inNamespace,
		},
		{
			file: "service-monitor.yaml", from: "config/prometheus", kinds: []string{"Service", "ServiceMonitor"},
			when: "if $.Values.metrics.serviceMonitor.enabled", edit: serviceMonitor,
		},
		{
			file: "prometheus-rule.yaml", from: "config/prometheus", kinds: []string{"PrometheusRule"},
			when: "if $.Values.metrics.prometheusRule.enabled", edit: prometheusRule,
		},
	}
}

// expressions stand in a line.
func expressions() map[string]string {
	return map[string]string{
		"namespace":      `{{ $.Release.Namespace }}`,
		"eachNamespace":  `{{ $namespace }}`,
		"account":        `{{ include "opensandbox-controller.serviceAccountName" $ }}`,
		"image":          `{{ include "opensandbox-controller.image" $ }}`,
		"pullPolicy":     `{{ $.Values.image.pullPolicy }}`,
		"replicas":       `{{ int $.Values.replicas }}`,
		"metricsAddress": `{{ if $.Values.watchNamespaces }}127.0.0.1:8080{{ else }}:8443{{ end }}`,
		"maxUnavailable": `{{ $.Values.podDisruptionBudget.maxUnavailable }}`,
		"metricsScheme":  `{{ if $.Values.metrics.secure }}https{{ else }}http{{ end }}`,
		"braces":         `{{ "{{" }}`,
	}
}

// blocks are lines of their own.
func blocks() map[string]string {
	return map[string]string{
		"labels": `{{- include "opensandbox-controller.labels" $ | nindent INDENT }}`,
		"keep": `
{{- if include "opensandbox-controller.keepDefinitions" $ }}
helm.sh/resource-policy: keep
{{- end }}`,
		"accountAnnotations": `
{{- with $.Values.serviceAccount.annotations }}
{{- toYaml . | nindent INDENT }}
{{- end }}`,
		"podAnnotations": `
{{- with $.Values.podAnnotations }}
{{- toYaml . | nindent INDENT }}
{{- end }}`,
		"podLabels": `
{{- with $.Values.podLabels }}
{{- toYaml . | nindent INDENT }}
{{- end }}`,
		"monitorLabels": `
{{- with $.Values.metrics.serviceMonitor.labels }}
{{- toYaml . | nindent INDENT }}
{{- end }}`,
		"ruleLabels": `
{{- with $.Values.metrics.prometheusRule.labels }}
{{- toYaml . | nindent INDENT }}
{{- end }}`,
		"podSpec":   `{{- include "opensandbox-controller.podSpec" $ | nindent INDENT }}`,
		"arguments": `{{- include "opensandbox-controller.arguments" $ | nindent INDENT }}`,
		"container": `{{- include "opensandbox-controller.container" $ | nindent INDENT }}`,
		"metricsPort": `
{{- if not $.Values.watchNamespaces }}
- containerPort: 8443
  name: metrics
{{- end }}`,
	}
}

func definition(o object) error { return o.add("keep", "metadata", "annotations") }

func serviceAccount(o object) error {
	return errors.Join(o.replace(account, "metadata", "name"), o.add("accountAnnotations", "metadata", "annotations"))
}

// binding gives the rights of the controller's account to that of the release.
func binding(o object) error {
	if k := o.kind(); k != "RoleBinding" && k != "ClusterRoleBinding" {
		return nil
	}
	return o.replace(account, "subjects", "0", "name")
}

func inNamespace(o object) error {
	metadata, err := o.at("metadata")
	if err != nil {
		return err
	}
	metadata["namespace"] = token + "eachNamespace"
	return nil
}

func watched(o object) error { return errors.Join(inNamespace(o), binding(o)) }

func disruptionBudget(o object) error {
	return o.replace(token+"maxUnavailable", "spec", "maxUnavailable")
}

func serviceMonitor(o object) error {
	if o.kind() == "Service" {
		return nil
	}
	return errors.Join(
		o.add("monitorLabels", "metadata", "labels"),
		o.replace(token+"metricsScheme", "spec", "endpoints", "0", "scheme"))
}

func prometheusRule(o object) error { return o.add("ruleLabels", "metadata", "labels") }

// deployment puts everything that values change into the Deployment.
func deployment(o object) error {
	pod := func(path ...string) []string { return append([]string{"spec", "template"}, path...) }
	container := func(path ...string) []string { return append(pod("spec", "containers", "0"), path...) }
	err := errors.Join(
		o.replace(token+"replicas", "spec", "replicas"),
		o.add("podAnnotations", pod("metadata", "annotations")...),
		o.add("podLabels", pod("metadata", "labels")...),
		o.replace(account, pod("spec", "serviceAccountName")...),
		o.drop(pod("spec", "affinity")...),
		o.add("podSpec", pod("spec")...),
		o.replace(token+"image", container("image")...),
		o.replace(token+"pullPolicy", container("imagePullPolicy")...),
		o.drop(container("resources")...))
	if err != nil {
		return err
	}
	c, err := o.at(container()...)
	if err != nil {
		return err
	}
	c[token+"container"] = ""
	return errors.Join(
		replaceArgument(c, "--metrics-bind-address=:8443", "--metrics-bind-address="+token+"metricsAddress", token+"arguments"),
		replacePort(c))
}

// replaceArgument replaces one argument of a container, and puts a block of further ones after all of them.
func replaceArgument(container map[string]any, argument, with, further string) error {
	arguments, _ := container["args"].([]any)
	i := slices.Index(arguments, any(argument))
	if i < 0 {
		return fmt.Errorf("args has no %s any more", argument)
	}
	arguments[i] = with
	container["args"] = append(arguments, further)
	return nil
}

// replacePort leaves the port of metrics to a block, for on loopback there is none.
func replacePort(container map[string]any) error {
	ports, _ := container["ports"].([]any)
	for i := range ports {
		if port, ok := ports[i].(map[string]any); ok && port["name"] == "metrics" {
			ports[i] = token + "metricsPort"
			return nil
		}
	}
	return errors.New("there is no port named metrics any more")
}
