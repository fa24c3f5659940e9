{{/*
All objects of one service. Parameters:
  root: the chart's context
  name: the service, also its key in the values
  command: its command line
  targets: the services it calls
  callers: the services that call it; empty admits all callers
  model: whether it reads the model
  headless: whether its callers balance over its pods
*/}}
{{- define "light-tts.workload" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name }}
{{ include "light-tts.configMap" . }}
{{- if ne (toString (dig "serviceAccount" "create" true $values)) "false" }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "light-tts.metadata" (merge (dict "annotations" (dig "serviceAccount" "annotations" dict $values) "objectName" (include "light-tts.serviceAccount" .)) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
---
{{ include "light-tts.service" . }}
{{- include "light-tts.gpuClaimTemplate" . }}
---
{{ include "light-tts.deployment" . }}
{{- /* An autoscaled service may have many pods although its minimum is one; the budget lets a single pod go. */}}
{{- $several := or (include "light-tts.autoscaled" (dict "values" $values)) (gt (int (include "light-tts.leastReplicas" (dict "values" $values))) 1) }}
{{- if and (ne (toString (dig "pdb" "create" true $values)) "false") $several }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ dig "pdb" "maxUnavailable" 1 $values }}
  selector:
    matchLabels:
      {{- include "light-tts.selector" . | nindent 6 }}
{{- end }}
{{- include "light-tts.autoscaler" . }}
{{- include "light-tts.networkPolicy" . }}
{{- end }}

{{- define "light-tts.service" -}}
{{- $values := index .root.Values .name }}
{{- $service := default dict $values.service -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "light-tts.metadata" (merge (dict "annotations" (default dict $service.annotations)) .) | nindent 2 }}
spec:
  {{- if .headless }}
  # The callers' pools balance over the pods; a cluster address would pin each connection to one pod.
  clusterIP: None
  publishNotReadyAddresses: false
  {{- else }}
  type: {{ default "ClusterIP" $service.type }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{ toJson . }}
  {{- end }}
  {{- end }}
  selector:
    {{- include "light-tts.selector" . | nindent 4 }}
  ports:
    {{- range $port, $number := $values.containerPorts }}
    {{- if $number }}
    - name: {{ $port }}
      port: {{ dig "ports" $port $number $service }}
      targetPort: {{ $port }}
      {{- /* CosyVoice's port serves HTTP and gRPC, so it has no appProtocol. */}}
      {{- if ne $port "cosyvoice" }}
      {{- $plain := ternary "kubernetes.io/h2c" "http" (eq $port "grpc") }}
      appProtocol: {{ ternary "https" $plain (ne (include "light-tts.publicTls" $) "") }}
      {{- end }}
    {{- end }}
    {{- end }}
{{- end }}

{{- define "light-tts.deployment" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
spec:
  {{- $replicas := include "light-tts.replicas" . }}
  {{- if ne $replicas "omit" }}
  replicas: {{ $replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  # The first start may download and load a model of several gigabytes.
  progressDeadlineSeconds: 3600
  strategy:
    {{- if $values.updateStrategy }}
    {{- toYaml $values.updateStrategy | nindent 4 }}
    {{- else }}
    type: RollingUpdate
    rollingUpdate:
      {{- if gt (int (dig "gpu" "count" 0 $values)) 0 }}
      # There is no spare GPU for an additional pod; running streams are handed over.
      maxSurge: 0
      maxUnavailable: 1
      {{- else }}
      maxSurge: 1
      maxUnavailable: 0
      {{- end }}
    {{- end }}
  selector:
    matchLabels:
      {{- include "light-tts.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- /* No version labels: pods are replaced when they change, not when the chart's version does. */}}
        {{- include "light-tts.selector" . | nindent 8 }}
        {{- with mergeOverwrite (dict) $root.Values.commonLabels (default dict $values.podLabels) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .name }}
        checksum/config: {{ include "light-tts.settings" . | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "light-tts.podSpec" . | nindent 6 }}
{{- end }}
