{{/* An autoscaler of one service: a HorizontalPodAutoscaler or KEDA's ScaledObject, both at the same targets. */}}

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

{{/* Up quickly, down one pod at a time and late: each one less hands its streams over. */}}
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
        query: sum({{ $metric }}{namespace={{ $root.Release.Namespace | quote }},pod=~"{{ $component }}-.*"})
        threshold: {{ toString $mean | quote }}
    {{- end }}
{{- end }}
