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
{{- if gt (int (dig "gpu" "count" 0 .)) 0 }}
{{- $_ := set $limits (default "nvidia.com/gpu" .gpu.resource) (int .gpu.count) }}
{{- end }}
resources:
  requests:
    {{- toYaml $requests | nindent 4 }}
  limits:
    {{- toYaml $limits | nindent 4 }}
{{- end }}
{{- end }}

{{/* Which nodes a pod may use. */}}
{{- define "light-tts.placement" -}}
{{- $values := index .root.Values .name }}
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
