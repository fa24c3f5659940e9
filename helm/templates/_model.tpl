{{/* Where the model lies. Pods mount it read-only; a Job (claim) or an init container (emptyDir) has fetched it. */}}

{{- define "light-tts.modelPath" -}}
{{- if eq .Values.model.mode "image" -}}
{{ .Values.model.mountPath }}
{{- else -}}
{{ .Values.model.mountPath }}/{{ .Values.model.name }}
{{- end }}
{{- end }}

{{- define "light-tts.modelEnv" -}}
{{- if ne .Values.model.mode "embedded" }}
- name: LIGHTTTS_MODEL_DIR
  value: {{ include "light-tts.modelPath" . | quote }}
{{- end }}
{{- end }}

{{- define "light-tts.modelClaim" -}}
{{- default (printf "%s-model" (include "light-tts.fullname" .)) .Values.model.pvc.existingClaim }}
{{- end }}

{{- define "light-tts.modelVolume" -}}
{{- $model := .Values.model -}}
- name: model
  {{- if eq $model.mode "pvc" }}
  persistentVolumeClaim:
    claimName: {{ include "light-tts.modelClaim" . }}
  {{- else if eq $model.mode "hostPath" }}
  hostPath:
    path: {{ $model.hostPath.path }}
    type: Directory
  {{- else if eq $model.mode "emptyDir" }}
  emptyDir:
    sizeLimit: {{ $model.emptyDir.sizeLimit }}
  {{- else }}
  image:
    reference: {{ include "light-tts.image" (dict "root" . "image" $model.image) }}
    pullPolicy: {{ $model.image.pullPolicy }}
  {{- end }}
{{- end }}

{{/* The container that fetches: (dict "root" $ "wait" bool). With "wait" it only waits for what the Job fetches. */}}
{{- define "light-tts.fetchContainer" -}}
{{- $root := .root }}
{{- $fetch := .root.Values.model.fetch -}}
- name: fetch-model
  image: {{ include "light-tts.image" (dict "root" $root "image" $root.Values.gateway.image) }}
  imagePullPolicy: {{ default "IfNotPresent" $root.Values.gateway.image.pullPolicy }}
  command: [light-tts, fetch, {{ $root.Values.model.name | quote }}, {{ include "light-tts.modelPath" $root | quote }}
    {{- if .wait }}, --wait, "3600"{{ end }}]
  env:
    - name: HOME
      value: /tmp
    {{- if $fetch.tokenSecret.name }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ $fetch.tokenSecret.name }}
          key: {{ $fetch.tokenSecret.key }}
    {{- end }}
    {{- with $fetch.extraEnvVars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- include "light-tts.containerSecurity" $root | nindent 2 }}
  {{- with $fetch.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: model
      mountPath: {{ $root.Values.model.mountPath }}
      {{- if .wait }}
      readOnly: true
      {{- end }}
    - name: tmp
      mountPath: /tmp
{{- end }}

{{/* Whether pods have an init container for the model. */}}
{{- define "light-tts.hasFetchContainer" -}}
{{- if and (has .Values.model.mode (list "pvc" "emptyDir")) .Values.model.fetch.enabled }}true{{ end }}
{{- end }}
