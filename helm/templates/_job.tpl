{{/*
A Job that runs once for each content of its pod: (dict "root" $ "name" "fetch" "backoffLimit" 6 "pod" YAML "settings" YAML).

A Job is immutable, so its name has a hash of its whole template: an upgrade either leaves the Job as it is, or creates
another one. The template has no label that changes with the chart's version alone. "settings": what the pod reads from a
ConfigMap, if it does; a change of it is a change of the pod.
*/}}
{{- define "light-tts.job" -}}
{{- $template := include "light-tts.jobTemplate" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "light-tts.component" . | trunc 54 | trimSuffix "-" }}-{{ sha256sum $template | trunc 8 }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "light-tts.labels" . | nindent 4 }}
  {{- with .root.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  backoffLimit: {{ .backoffLimit }}
  template:
    {{- $template | nindent 4 }}
{{- end }}

{{- define "light-tts.jobTemplate" -}}
metadata:
  labels:
    {{- include "light-tts.selector" . | nindent 4 }}
    {{- with .root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .settings }}
  annotations:
    checksum/config: {{ sha256sum . }}
  {{- end }}
spec:
  {{- .pod | nindent 2 }}
{{- end }}

{{/* The pod that builds the engines of decode pods ahead, with their image, settings, device and volumes. */}}
{{- define "light-tts.preparePod" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name -}}
restartPolicy: OnFailure
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "light-tts.pullSecrets" $root }}
{{ include "light-tts.podSecurity" $root }}
{{- include "light-tts.placement" . }}
{{- if include "light-tts.hasFetchContainer" $root }}
initContainers:
  {{- include "light-tts.fetchContainer" (dict "root" $root "wait" (eq $root.Values.model.mode "pvc")) | nindent 2 }}
{{- end }}
containers:
  - name: prepare
    image: {{ include "light-tts.image" (dict "root" $root "image" $values.image) }}
    imagePullPolicy: {{ default "IfNotPresent" $values.image.pullPolicy }}
    command: [python, -P, -m, services.decode.prepare]
    envFrom:
      - configMapRef:
          name: {{ include "light-tts.component" . }}
      {{- with $values.extraEnvVarsSecret }}
      - secretRef:
          name: {{ . }}
      {{- end }}
    env:
      {{- include "light-tts.mergedEnv" (dict "derived" (include "light-tts.modelEnv" .) "extra" $values.extraEnvVars) | trim | nindent 6 }}
    {{- include "light-tts.resources" $values | trim | nindent 4 }}
    {{- include "light-tts.containerSecurity" $root | nindent 4 }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- include "light-tts.modelMounts" . | nindent 6 }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- include "light-tts.modelVolumes" . | nindent 2 }}
{{- end }}
