{{/* What a pod asks of a node, and which nodes it may use. */}}

{{- define "light-tts.resources" -}}
{{- if or (dig "resources" "requests" dict .) (dig "resources" "limits" dict .) (dig "resources" "claims" list .) }}
resources:
  {{- toYaml .resources | nindent 2 }}
{{- else }}
{{- $requests := dict }}
{{- $limits := dict }}
{{- with .cpu }}{{ $_ := set $requests "cpu" . }}{{ end }}
{{- with .memory }}{{ $_ := set $requests "memory" . }}{{ $_ := set $limits "memory" . }}{{ end }}
{{- $claimed := dig "gpu" "deviceClass" "" . }}
{{- if and (gt (int (dig "gpu" "count" 0 .)) 0) (not $claimed) }}
{{- $_ := set $limits (default "nvidia.com/gpu" .gpu.resource) (int .gpu.count) }}
{{- end }}
resources:
  requests:
    {{- toYaml $requests | nindent 4 }}
  limits:
    {{- toYaml $limits | nindent 4 }}
  {{- if and $claimed (gt (int .gpu.count) 0) }}
  claims:
    - name: gpu
  {{- end }}
{{- end }}
{{- end }}

{{/* Whether the GPUs of a service are claimed (dynamic resource allocation) instead of counted: (dict "values" values). */}}
{{- define "light-tts.claimsGpu" -}}
{{- $own := default dict .values.resources }}
{{- if and (dig "gpu" "deviceClass" "" .values) (gt (int (dig "gpu" "count" 0 .values)) 0) (not (or $own.requests $own.limits $own.claims)) }}true{{ end }}
{{- end }}

{{- define "light-tts.gpuClaimSpec" -}}
{{- $gpu := (index .root.Values .name).gpu -}}
spec:
  devices:
    requests:
      - name: gpu
        exactly:
          deviceClassName: {{ $gpu.deviceClass }}
          allocationMode: ExactCount
          count: {{ int $gpu.count }}
          {{- with $gpu.selectors }}
          selectors:
            {{- range . }}
            - cel:
                expression: {{ . | quote }}
            {{- end }}
          {{- end }}
{{- end }}

{{/* The name has a hash of the template's specification, which cannot change. */}}
{{- define "light-tts.gpuClaimName" -}}
{{ include "light-tts.component" . | trunc 50 | trimSuffix "-" }}-gpu-{{ sha256sum (include "light-tts.gpuClaimSpec" .) | trunc 8 }}
{{- end }}

{{/* A claim per pod: Kubernetes makes it from this template, and deletes it with the pod. */}}
{{- define "light-tts.gpuClaimTemplate" -}}
{{- if include "light-tts.claimsGpu" (dict "values" (index .root.Values .name)) }}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: {{ include "light-tts.gpuClaimName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "light-tts.labels" . | nindent 4 }}
spec:
  {{- include "light-tts.gpuClaimSpec" . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "light-tts.podClaims" -}}
{{- if include "light-tts.claimsGpu" (dict "values" (index .root.Values .name)) }}
resourceClaims:
  - name: gpu
    resourceClaimTemplateName: {{ include "light-tts.gpuClaimName" . }}
{{- end }}
{{- end }}

{{/* Which nodes a pod may use, and the devices that it claims. */}}
{{- define "light-tts.placement" -}}
{{- $values := index .root.Values .name }}
{{- include "light-tts.podClaims" . }}
{{- range $key := list "runtimeClassName" "priorityClassName" }}
{{- with index $values $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.scheduling" -}}
{{- $values := index .root.Values .name }}
{{- include "light-tts.placement" . }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "light-tts.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}
