{{/* The pod of a service: one container with gRPC probes; it meets the restricted pod security standard. */}}

{{- define "light-tts.podSpec" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name -}}
serviceAccountName: {{ include "light-tts.serviceAccount" . }}
automountServiceAccountToken: {{ and (eq $root.Values.discovery "kubernetes") (not (empty .targets)) }}
enableServiceLinks: false
{{- include "light-tts.pullSecrets" $root }}
{{ include "light-tts.podSecurity" $root }}
terminationGracePeriodSeconds: {{ include "light-tts.grace" $values }}
{{- include "light-tts.scheduling" . }}
{{- if and .model (include "light-tts.hasFetchContainer" $root) }}
initContainers:
  {{- include "light-tts.fetchContainer" (dict "root" $root "wait" (eq $root.Values.model.mode "pvc")) | nindent 2 }}
{{- end }}
containers:
  {{- include "light-tts.container" . | nindent 2 }}
{{ include "light-tts.volumes" . }}
{{- end }}

{{- define "light-tts.container" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name -}}
- name: {{ .name }}
  image: {{ include "light-tts.image" (dict "root" $root "image" $values.image) }}
  imagePullPolicy: {{ default "IfNotPresent" $values.image.pullPolicy }}
  command: {{ toRawJson (default .command $values.command) }}
  envFrom:
    - configMapRef:
        name: {{ include "light-tts.component" . }}
    {{- with $values.extraEnvVarsSecret }}
    - secretRef:
        name: {{ . }}
    {{- end }}
  env:
    {{- include "light-tts.env" . | trim | nindent 4 }}
  ports:
    {{- range $port, $number := $values.containerPorts }}
    {{- if $number }}
    - name: {{ $port }}
      containerPort: {{ $number }}
    {{- end }}
    {{- end }}
    {{- if and $root.Values.metrics.enabled (ne .name "single") }}
    - name: metrics
      containerPort: {{ $root.Values.metrics.port }}
    {{- end }}
    {{- if include "light-tts.hasHealthPort" . }}
    - name: health
      containerPort: {{ $root.Values.tls.healthPort }}
    {{- end }}
  {{- $probed := ternary $root.Values.tls.healthPort $values.containerPorts.grpc (eq (include "light-tts.hasHealthPort" .) "true") }}
  {{- include "light-tts.probes" (dict "values" $values "port" $probed) | trim | nindent 2 }}
  {{- with $values.preStopSeconds }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ . }}
  {{- end }}
  {{- include "light-tts.resources" $values | trim | nindent 2 }}
  {{- include "light-tts.containerSecurity" $root | nindent 2 }}
  terminationMessagePolicy: FallbackToLogsOnError
  {{- include "light-tts.volumeMounts" . | nindent 2 }}
{{- end }}
