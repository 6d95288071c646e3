{{- define "waypost.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The labels that never change: selectors of the objects named by the second argument (agent or dns). */}}
{{- define "waypost.selector" -}}
app.kubernetes.io/name: waypost
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "waypost.labels" -}}
{{ include "waypost.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* What the agent and the DNS servers have in common in their configuration file. */}}
{{- define "waypost.commonConfig" -}}
{{- if .Values.k8sServiceHost }}
api-server: https://{{ if contains ":" .Values.k8sServiceHost }}[{{ .Values.k8sServiceHost }}]{{ else }}{{ .Values.k8sServiceHost }}{{ end }}:{{ .Values.k8sServicePort }}
{{- end }}
cluster-domain: {{ .Values.clusterDomain }}
log-format: {{ .Values.log.format }}
log-level: {{ .Values.log.level | quote }}
{{- with .Values.corefile.configMaps }}
corefile-configmap: {{ toJson . }}
{{- end }}
{{- if .Values.dnsUpstreamTLS.secretName }}
dns-forward-tls-ca: /etc/waypost-upstream/ca.crt
{{- end }}
{{- end }}

{{- define "waypost.agentConfig" -}}
{{- $config := include "waypost.commonConfig" . | fromYaml }}
{{- $_ := set $config "role" "all" }}
{{- $_ := set $config "probe-socket" "/run/waypost-probe/agent.sock" }}
{{- with .Values.agent.stateDirectory }}{{ $_ := set $config "state-dir" . }}{{ end }}
{{- with .Values.agent.handoverDirectory }}{{ $_ := set $config "handover-socket" (printf "%s/handover.sock" .) }}{{ end }}
{{- with .Values.clusterCIDRs }}{{ $_ := set $config "cluster-cidr" . }}{{ end }}
{{- with .Values.serviceCIDRs }}{{ $_ := set $config "service-cidr" . }}{{ end }}
{{- $scraped := or .Values.serviceMonitor.enabled .Values.scrapeAnnotations.enabled }}
{{- $metrics := ternary ":10249" "127.0.0.1:10249" $scraped }}
{{- if hasKey .Values.agent.config "metrics-bind-address" }}{{ $metrics = get .Values.agent.config "metrics-bind-address" }}{{ end }}
{{- $_ := set $config "metrics-bind-address" $metrics }}
{{- if .Values.agent.localDNS }}
{{- $_ := set $config "dns-address" (concat (include "waypost.dnsServiceAddresses" . | fromJsonArray) .Values.agent.dnsAddresses) }}
{{- /* On the host's network every port may be somebody's: the pages of DNS share those of the service proxy, wherever they are moved. */}}
{{- $_ := set $config "dns-health-address" "" }}
{{- $_ := set $config "dns-ready-address" "" }}
{{- $_ := set $config "dns-metrics-address" $metrics }}
{{- end }}
{{- toYaml (merge (deepCopy .Values.agent.config) $config) }}
{{- end }}

{{- define "waypost.dnsConfig" -}}
{{- $config := include "waypost.commonConfig" . | fromYaml }}
{{- $_ := set $config "role" "dns" }}
{{- $_ := set $config "state-dir" "/var/lib/waypost" }}
{{- toYaml (merge (deepCopy .Values.dns.config) $config) }}
{{- end }}

{{/* Whether this release makes the kube-dns Service: not where somebody else's exists. Empty means no. */}}
{{- define "waypost.ownsDnsService" -}}
{{- if and .Values.dns.enabled .Values.dns.service.create }}
{{- $found := lookup "v1" "Service" .Release.Namespace "kube-dns" }}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" "" $found }}
{{- if or (not $found) (eq $owner .Release.Name) }}yes{{ end }}
{{- end }}
{{- end }}

{{/* The addresses of the kube-dns Service, as a JSON list: the existing one's, in both families, else the one that it will get. */}}
{{- define "waypost.dnsServiceAddresses" -}}
{{- dig "spec" "clusterIPs" (list .Values.dns.service.clusterIP) (lookup "v1" "Service" .Release.Namespace "kube-dns") | toJson }}
{{- end }}

{{/* The port of the agents' metrics. */}}
{{- define "waypost.metricsPort" -}}
{{- include "waypost.port" (dict "config" .Values.agent.config "key" "metrics-bind-address" "default" 10249) }}
{{- end }}

{{/* The port of the DNS servers' metrics. */}}
{{- define "waypost.dnsMetricsPort" -}}
{{- include "waypost.port" (dict "config" .Values.dns.config "key" "dns-metrics-address" "default" 9153) }}
{{- end }}

{{/* The port that a setting puts a listener on: dict "config" CONFIG "key" SETTING "default" PORT. It may be moved, but probes and monitors need it. */}}
{{- define "waypost.port" -}}
{{- $address := get .config .key }}
{{- if and (hasKey .config .key) (not $address) }}
{{- fail (printf "%s is empty, but probes or Prometheus ask there: give an address such as :%v, or leave it out" .key .default) }}
{{- end }}
{{- if $address }}{{ splitList ":" $address | last }}{{ else }}{{ .default }}{{ end }}
{{- end }}
