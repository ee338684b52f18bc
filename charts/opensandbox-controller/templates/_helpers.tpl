{{- define "opensandbox-controller.labels" -}}
app.kubernetes.io/name: opensandbox-controller
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "opensandbox-controller.serviceAccountName" -}}
{{ default "opensandbox-controller-manager" $.Values.serviceAccount.name }}
{{- end }}

{{- define "opensandbox-controller.image" -}}
{{- if $.Values.image.digest -}}
{{ printf "%s@%s" $.Values.image.repository $.Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" $.Values.image.repository (default $.Chart.AppVersion $.Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* Not empty where the definitions outlive the release. */ -}}
{{- define "opensandbox-controller.keepDefinitions" -}}
{{- if or $.Values.crds.keep $.Values.watchNamespaces (eq $.Values.uninstall.policy "Keep") }}keep{{ end }}
{{- end }}

{{- define "opensandbox-controller.arguments" -}}
{{- if $.Values.watchNamespaces }}
- --watch-namespaces={{ join "," $.Values.watchNamespaces }}
{{- end }}
{{- if and (not $.Values.metrics.secure) (not $.Values.watchNamespaces) }}
- --metrics-secure=false
{{- end }}
{{- with $.Values.logLevel }}
- --v={{ int . }}
{{- end }}
{{- with $.Values.concurrency }}
- --concurrency={{ int . }}
{{- end }}
{{- with $.Values.kubeClient.qps }}
- --kube-client-qps={{ . }}
{{- end }}
{{- with $.Values.kubeClient.burst }}
- --kube-client-burst={{ int . }}
{{- end }}
{{- with $.Values.leaderElection.leaseDuration }}
- --leader-elect-lease-duration={{ . }}
{{- end }}
{{- with $.Values.leaderElection.renewDeadline }}
- --leader-elect-renew-deadline={{ . }}
{{- end }}
{{- with $.Values.leaderElection.retryPeriod }}
- --leader-elect-retry-period={{ . }}
{{- end }}
{{- with $.Values.tracing.endpoint }}
- --tracing-endpoint={{ . }}
{{- end }}
{{- if not (kindIs "invalid" $.Values.tracing.samplingRatePerMillion) }}
- --tracing-sampling-rate-per-million={{ int $.Values.tracing.samplingRatePerMillion }}
{{- end }}
{{- with $.Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "opensandbox-controller.container" -}}
resources:
  {{- toYaml $.Values.resources | nindent 2 }}
{{- with $.Values.extraEnv }}
env:
{{ toYaml . }}
{{- end }}
{{- if $.Values.metrics.certificateSecret }}
volumeMounts:
- name: metrics-certificate
  mountPath: /tmp/k8s-metrics-server/serving-certs
  readOnly: true
{{- end }}
{{- end }}

{{- /* Where a pod with the controller's image may run, and how it gets the image. */ -}}
{{- define "opensandbox-controller.placement" -}}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- with $.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with $.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "opensandbox-controller.podSpec" -}}
{{- include "opensandbox-controller.placement" $ }}
{{- with $.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.topologySpreadConstraints }}
topologySpreadConstraints:
{{ toYaml . }}
{{- end }}
{{- with $.Values.metrics.certificateSecret }}
volumes:
- name: metrics-certificate
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{- /* Of the objects in uninstall.yaml; of a dict with root, suffix, hook and weight. */ -}}
{{- define "opensandbox-controller.uninstall.metadata" }}
name: opensandbox-uninstall{{ .suffix }}
labels:
  {{- include "opensandbox-controller.labels" .root | nindent 2 }}
annotations:
  helm.sh/hook: {{ .hook }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
  helm.sh/hook-output-log-policy: hook-failed
{{- end }}

{{- define "opensandbox-controller.uninstall.rules" }}
- apiGroups: ["sandbox.opensandbox.io"]
  resources: ["batchsandboxes", "pools"]
  verbs: [{{ if eq $.Values.uninstall.policy "Delete" }}"delete", {{ end }}"list"]
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list"]
{{- end }}

{{- define "opensandbox-controller.uninstall.subjects" }}
- kind: ServiceAccount
  name: opensandbox-uninstall
  namespace: {{ $.Release.Namespace }}
{{- end }}
