{{/* The autoscaler of one service: a HorizontalPodAutoscaler or KEDA's ScaledObject, both with the same targets. */}}

{{- define "light-tts.autoscaler" -}}
{{- $values := index .root.Values .name }}
{{- $scaling := default dict $values.autoscaling }}
{{- if dig "hpa" "enabled" false $scaling }}
---
{{ include "light-tts.hpa" . }}
{{- else if dig "keda" "enabled" false $scaling }}
---
{{ include "light-tts.scaledObject" . }}
{{- end }}
{{- end }}

{{/*
The number of replicas in the Deployment. With an autoscaler it is the autoscaler's own number, from the cluster: Kubernetes
sets a number that is left out to 1, and another number to this one, until the autoscaler corrects it some seconds later.
*/}}
{{- define "light-tts.replicas" -}}
{{- $values := index .root.Values .name }}
{{- $fixed := toString (dig "autoscaling" "replicas" "" $values) }}
{{- if not (include "light-tts.autoscaled" (dict "values" $values)) }}
{{- int (default 1 $values.replicaCount) }}
{{- else if $fixed }}
{{- $fixed }}
{{- else }}
{{- $least := int (include "light-tts.leastReplicas" (dict "values" $values)) }}
{{- $live := int (dig "spec" "replicas" $least (lookup "apps/v1" "Deployment" .root.Release.Namespace (include "light-tts.component" .))) }}
{{- /* 0 pauses a HorizontalPodAutoscaler, so it stays. */}}
{{- ternary 0 (max $live $least) (eq $live 0) }}
{{- end }}
{{- end }}

{{/* Scale up fast; scale down late and one pod at a time, because each removed pod hands its streams over. */}}
{{- define "light-tts.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - type: Pods
      value: 4
      periodSeconds: 30
scaleDown:
  stabilizationWindowSeconds: {{ dig "scaleDownStabilizationSeconds" 600 . }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: 120
{{- end }}

{{- define "light-tts.hpa" -}}
{{- $scaling := (index .root.Values .name).autoscaling }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "light-tts.component" . }}
  minReplicas: {{ dig "hpa" "minReplicas" 1 $scaling }}
  maxReplicas: {{ dig "hpa" "maxReplicas" 4 $scaling }}
  behavior:
    {{- include "light-tts.scalingBehavior" $scaling | nindent 4 }}
  metrics:
    {{- with dig "targets" "cpuPercent" 0 $scaling }}
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ . }}
    {{- end }}
    {{- range $metric, $mean := dig "targets" "metrics" dict $scaling }}
    - type: Pods
      pods:
        metric:
          name: {{ $metric }}
        target:
          type: AverageValue
          averageValue: {{ toString $mean | quote }}
    {{- end }}
{{- end }}

{{/* KEDA's query: the sum of a metric over the pods. files/prometheus-adapter.yaml has the same queries per pod. */}}
{{- define "light-tts.scalingQuery" -}}
{{- if eq .metric "lighttts_decode_streams_ratio" -}}
sum(avg_over_time(lighttts_decode_streams{ {{- .pods -}} }[1m]) / lighttts_decode_streams_limit{ {{- .pods -}} })
{{- else if eq .metric "lighttts_decode_low_lead_ratio" -}}
sum(rate(lighttts_decode_playback_lead_seconds_bucket{le="0.25",{{ .pods }}}[2m]) / on (namespace, pod) clamp_min(rate(lighttts_decode_playback_lead_seconds_count{ {{- .pods -}} }[2m]), 1e-9))
{{- else -}}
sum(avg_over_time({{ .metric }}{ {{- .pods -}} }[1m]))
{{- end }}
{{- end }}

{{- define "light-tts.scaledObject" -}}
{{- $root := .root }}
{{- $component := include "light-tts.component" . }}
{{- $scaling := (index .root.Values .name).autoscaling }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    name: {{ $component }}
  minReplicaCount: {{ dig "keda" "minReplicas" 1 $scaling }}
  maxReplicaCount: {{ dig "keda" "maxReplicas" 4 $scaling }}
  {{- $zero := eq (int (dig "keda" "minReplicas" 1 $scaling)) 0 }}
  {{- if $zero }}
  cooldownPeriod: {{ dig "scaleDownStabilizationSeconds" 600 $scaling }}
  {{- end }}
  {{- if dig "targets" "metrics" dict $scaling }}
  # Without answers from Prometheus, keep the pods that run.
  fallback:
    failureThreshold: 3
    replicas: {{ default (int (dig "keda" "minReplicas" 1 $scaling)) (int (dig "keda" "fallbackReplicas" 0 $scaling)) }}
    behavior: currentReplicasIfHigher
  {{- end }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "light-tts.scalingBehavior" $scaling | nindent 8 }}
  triggers:
    {{- with dig "targets" "cpuPercent" 0 $scaling }}
    - type: cpu
      metricType: Utilization
      metadata:
        value: {{ . | quote }}
    {{- end }}
    {{- range $metric, $mean := dig "targets" "metrics" dict $scaling }}
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $scaling.keda.serverAddress }}
        {{- $query := include "light-tts.scalingQuery" (dict "metric" $metric "pods" (printf "namespace=%q,pod=~\"%s-.*\"" $root.Release.Namespace $component)) }}
        query: {{ ternary (printf "%s or vector(0)" $query) $query $zero }}
        threshold: {{ toString $mean | quote }}
        # No series means that metrics are lost, not that there is no load.
        ignoreNullValues: "false"
    {{- end }}
    {{- if $zero }}
    # Who finds no pod: calls that gateways refuse for lack of an llm pod, and llm pods for lack of a decode pod.
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $scaling.keda.serverAddress }}
        query: sum(rate(lighttts_pool_refusals_total{namespace={{ $root.Release.Namespace | quote }},pool=~"llm|decode"}[2m])) or vector(0)
        threshold: "1"
        ignoreNullValues: "false"
    {{- end }}
{{- end }}
