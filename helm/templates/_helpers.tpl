{{/* Names, labels and images. Templates of one service take (dict "root" $ "name" "decode" ...). */}}

{{- define "light-tts.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "light-tts.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "light-tts.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "light-tts.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "light-tts.component" -}}
{{ include "light-tts.fullname" .root }}-{{ .name }}
{{- end }}

{{- define "light-tts.selector" -}}
app.kubernetes.io/name: {{ include "light-tts.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "light-tts.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "light-tts.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata of an object; "labels" and "annotations" are added, "objectName" replaces the name. */}}
{{- define "light-tts.metadata" -}}
name: {{ default (include "light-tts.component" .) .objectName }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "light-tts.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (dict) .root.Values.commonAnnotations (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "image" map): registry/repository:tag, or @digest. */}}
{{- define "light-tts.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry }}
{{- $version := .root.Chart.AppVersion }}
{{- $tag := default (ternary (printf "%s-%s" $version .image.variant) $version (ne (default "" .image.variant) "")) .image.tag }}
{{- $reference := ternary (printf "@%s" .image.digest) (printf ":%s" $tag) (ne (default "" .image.digest) "") }}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}{{ $reference }}
{{- end }}

{{- define "light-tts.serviceAccount" -}}
{{- $account := default dict (index .root.Values .name).serviceAccount }}
{{- if eq (toString $account.create) "false" }}
{{- default "default" $account.name }}
{{- else }}
{{- default (include "light-tts.component" .) $account.name }}
{{- end }}
{{- end }}

{{/* Whether the gRPC port uses TLS, so that probes need a plaintext port. */}}
{{- define "light-tts.hasHealthPort" -}}
{{- if or .root.Values.tls.enabled (include "light-tts.publicTls" .) }}true{{ end }}
{{- end }}

{{/* The Secret of the certificate that applications see; empty without one. */}}
{{- define "light-tts.publicTls" -}}
{{- dig "tls" "existingSecret" "" (index .root.Values .name) }}
{{- end }}

{{- define "light-tts.tlsSecret" -}}
{{- default (printf "%s-tls" (include "light-tts.fullname" .)) .Values.tls.existingSecret }}
{{- end }}

{{/* Charts of one parent share this list: some expect names in it, others objects with a name. */}}
{{- define "light-tts.pullSecretNames" -}}
{{- $names := list }}
{{- range .Values.global.imagePullSecrets }}
{{- if kindIs "map" . }}{{ $names = append $names .name }}{{ else }}{{ $names = append $names . }}{{ end }}
{{- end }}
{{- dict "names" $names | toJson }}
{{- end }}

{{- define "light-tts.pullSecrets" -}}
{{- with (include "light-tts.pullSecretNames" . | fromJson).names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  {{- with .Values.podSecurityContext }}
  runAsUser: {{ .runAsUser }}
  runAsGroup: {{ .runAsGroup }}
  fsGroup: {{ .fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  {{- with .supplementalGroups }}
  supplementalGroups: {{ toJson . }}
  {{- end }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "light-tts.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* The discovery target of a service, for its callers: (dict "root" $ "name" "decode"). */}}
{{- define "light-tts.target" -}}
{{- $values := index .root.Values .name }}
{{- $service := include "light-tts.component" . }}
{{- if eq .root.Values.discovery "dns" -}}
dns:///{{ $service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}.:{{ $values.containerPorts.grpc }}
{{- else -}}
kubernetes:///{{ $service }}.{{ .root.Release.Namespace }}:grpc
{{- end }}
{{- end }}

{{/* Whether an autoscaler sets the number of replicas. */}}
{{- define "light-tts.autoscaled" -}}
{{- $scaling := default dict .values.autoscaling }}
{{- if or (dig "hpa" "enabled" false $scaling) (dig "keda" "enabled" false $scaling) }}true{{ end }}
{{- end }}

{{/* The minimum number of replicas. */}}
{{- define "light-tts.leastReplicas" -}}
{{- $scaling := default dict .values.autoscaling }}
{{- if dig "hpa" "enabled" false $scaling }}
{{- dig "hpa" "minReplicas" 1 $scaling }}
{{- else if dig "keda" "enabled" false $scaling }}
{{- dig "keda" "minReplicas" 1 $scaling }}
{{- else }}
{{- dig "replicaCount" 1 .values }}
{{- end }}
{{- end }}

{{/* Clients of the gateway inside the cluster: helm's test, the load generator. */}}

{{- define "light-tts.gatewayAddress" -}}
{{- $name := ternary "single" "gateway" .Values.single.enabled }}
{{- $target := dict "root" . "name" $name }}
{{- if include "light-tts.publicTls" $target }}https://{{ end }}
{{- include "light-tts.component" $target }}.{{ .Release.Namespace }}.svc:{{ (index .Values $name).service.ports.grpc }}
{{- end }}

{{/* The one container of a client's pod: (dict "root" $ "name" "speaks" "command" list "apiKey" values). */}}
{{- define "light-tts.client" -}}
{{- $root := .root }}
{{- $image := $root.Values.gateway.image }}
{{- $tls := "" }}
{{- if not $root.Values.single.enabled }}{{ $tls = include "light-tts.publicTls" (dict "root" $root "name" "gateway") }}{{ end -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "light-tts.pullSecrets" $root }}
{{ include "light-tts.podSecurity" $root }}
containers:
  - name: {{ .name }}
    image: {{ include "light-tts.image" (dict "root" $root "image" $image) }}
    imagePullPolicy: {{ default "IfNotPresent" $image.pullPolicy }}
    command: {{ toRawJson .command }}
    env:
      - name: HOME
        value: /tmp
      {{- if $tls }}
      # The client trusts the gateway's certificate itself, whichever authority signed it.
      - name: LIGHTTTS_SERVER_CA
        value: /gateway/tls.crt
      - name: LIGHTTTS_SERVER_NAME
        value: {{ $root.Values.gateway.tls.serverName | quote }}
      {{- end }}
      {{- if .apiKey.existingSecret }}
      - name: LIGHTTTS_API_KEY
        valueFrom:
          secretKeyRef:
            name: {{ .apiKey.existingSecret }}
            key: {{ .apiKey.key }}
      {{- end }}
    {{- include "light-tts.containerSecurity" $root | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 512Mi}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if $tls }}
      - name: gateway
        mountPath: /gateway
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if $tls }}
  - name: gateway
    secret:
      secretName: {{ $tls }}
      defaultMode: 0440
      items: [{key: tls.crt, path: tls.crt}]
  {{- end }}
{{- end }}
