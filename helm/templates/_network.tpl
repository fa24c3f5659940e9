{{/* A NetworkPolicy per service: its callers and its targets. The kubelet's probes are always admitted. */}}

{{- define "light-tts.dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- define "light-tts.networkPolicy" -}}
{{- $root := .root }}
{{- $policy := .root.Values.networkPolicy }}
{{- $values := index .root.Values .name }}
{{- $ports := $values.containerPorts }}
{{- if $policy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "light-tts.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        {{- range $port, $number := $ports }}
        {{- if $number }}
        - port: {{ $port }}
        {{- end }}
        {{- end }}
      {{- if .callers }}
      from:
        {{- range .callers }}
        - podSelector:
            matchLabels:
              {{- include "light-tts.selector" (dict "root" $root "name" .) | nindent 14 }}
        {{- end }}
      {{- else if $policy.gatewayFrom }}
      from:
        {{- toYaml $policy.gatewayFrom | nindent 8 }}
        {{- range list "test" "load" }}
        - podSelector:
            matchLabels:
              {{- include "light-tts.selector" (dict "root" $root "name" .) | nindent 14 }}
        {{- end }}
      {{- end }}
    {{- $single := eq .name "single" }}
    {{- /* The single pod has its metrics on the HTTP port, which is open to all without gatewayFrom. */}}
    {{- if and $root.Values.metrics.enabled (or (not $single) (and $policy.gatewayFrom $policy.metricsFrom)) }}
    - ports:
        - port: {{ ternary "http" "metrics" $single }}
      from:
        {{- if $policy.metricsFrom }}
        {{- toYaml $policy.metricsFrom | nindent 8 }}
        {{- else }}
        - namespaceSelector: {}
        {{- end }}
    {{- end }}
  egress:
    {{- include "light-tts.dnsEgress" . | nindent 4 }}
    {{- range .targets }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "light-tts.selector" (dict "root" $root "name" .) | nindent 14 }}
      ports:
        - port: grpc
    {{- end }}
    {{- if and .targets (eq $root.Values.discovery "kubernetes") }}
    # The API server; a policy cannot name its address.
    - ports:
        {{- range $policy.apiServerPorts }}
        - port: {{ . }}
        {{- end }}
    {{- end }}
    {{- if and .model (include "light-tts.hasFetchContainer" $root) (eq $root.Values.model.mode "emptyDir") }}
    # The source of the model.
    - ports:
        - port: 443
    {{- end }}
    {{- range $setting, $usual := dict "redis_url" "6379" "otel_endpoint" "4317" }}
    {{- $address := dig "settings" $setting "" $values }}
    {{- range $values.extraEnvVars }}
    {{- if eq .name (printf "LIGHTTTS_%s" (upper $setting)) }}
    {{- /* An address from a Secret is not known here: its port is the usual one. */}}
    {{- $address = default $usual .value }}
    {{- end }}
    {{- end }}
    {{- with $address }}
    # {{ $setting }}
    - ports:
        - port: {{ regexReplaceAll "^[A-Za-z0-9+.-]+://|[/?#].*$" . "" | regexFind ":[0-9]+$" | trimPrefix ":" | default $usual }}
    {{- end }}
    {{- end }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
