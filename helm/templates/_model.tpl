{{/* The location of the model. Pods mount it read-only; a Job (claim) or an init container (emptyDir) downloads it. */}}

{{- define "light-tts.modelPath" -}}
{{- if eq .Values.model.mode "image" -}}
{{ .Values.model.mountPath }}
{{- else -}}
{{ .Values.model.mountPath }}/{{ .Values.model.name }}
{{- end }}
{{- end }}

{{/* Where a container of a service finds the model, and where it may write compiled code. */}}
{{- define "light-tts.modelEnv" -}}
{{- $values := .root.Values }}
{{- if ne $values.model.mode "embedded" }}
- name: LIGHTTTS_MODEL_DIR
  value: {{ include "light-tts.modelPath" .root | quote }}
{{- end }}
- name: XDG_CACHE_HOME
  value: /cache
{{- if has .name (list "decode" "single") }}
- name: LIGHTTTS_DECODE_CACHE_DIR
  value: {{ ternary "/engines" "/cache/engines" (eq (include "light-tts.sharesEngines" .) "true") }}
{{- end }}
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/inductor
- name: TRITON_CACHE_DIR
  value: /cache/triton
- name: CUDA_CACHE_PATH
  value: /cache/cuda
{{- end }}

{{- define "light-tts.modelVolumes" -}}
{{- $values := .root.Values -}}
- name: cache
  emptyDir:
    sizeLimit: {{ $values.engineCache.sizeLimit }}
{{- if include "light-tts.sharesEngines" . }}
- name: engines
  persistentVolumeClaim:
    claimName: {{ include "light-tts.enginesClaim" .root }}
{{- end }}
{{- if ne $values.model.mode "embedded" }}
{{ include "light-tts.modelVolume" .root }}
{{- end }}
{{- end }}

{{- define "light-tts.modelMounts" -}}
- name: cache
  mountPath: /cache
{{- if include "light-tts.sharesEngines" . }}
- name: engines
  mountPath: /engines
{{- end }}
{{- if ne .root.Values.model.mode "embedded" }}
- name: model
  mountPath: {{ .root.Values.model.mountPath }}
  readOnly: true
{{- end }}
{{- end }}

{{/* Whether a service's pods keep built engines in the shared claim. */}}
{{- define "light-tts.sharesEngines" -}}
{{- if and (has .name (list "decode" "single")) .root.Values.engineCache.pvc.enabled }}true{{ end }}
{{- end }}

{{- define "light-tts.enginesClaim" -}}
{{- default (printf "%s-engines" (include "light-tts.fullname" .)) .Values.engineCache.pvc.existingClaim }}
{{- end }}

{{- define "light-tts.voicesClaim" -}}
{{- default (printf "%s-voices" (include "light-tts.fullname" .)) .Values.gateway.voices.existingClaim }}
{{- end }}

{{/* A claim: (dict "root" $ "name" "model" "claim" values). It outlives the release. */}}
{{- define "light-tts.claim" -}}
{{- $claim := .claim -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "light-tts.metadata" (merge (dict "annotations" (merge (dict "helm.sh/resource-policy" "keep") $claim.annotations)) .) | nindent 2 }}
spec:
  accessModes: {{ toJson (default (list "ReadWriteMany") $claim.accessModes) }}
  {{- /* A claim keeps its class: it cannot change, and the value may have been removed. */}}
  {{- with default $claim.storageClass (dig "spec" "storageClassName" "" (lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace (include "light-tts.component" .))) }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ $claim.size }}
{{- end }}

{{/* The claims that the chart makes, in JSON under "names". Helm keeps them when the release is uninstalled. */}}
{{- define "light-tts.keptClaims" -}}
{{- $names := list }}
{{- if and (eq .Values.model.mode "pvc") (not .Values.model.pvc.existingClaim) }}
{{- $names = append $names (include "light-tts.modelClaim" .) }}
{{- end }}
{{- if and .Values.engineCache.pvc.enabled (not .Values.engineCache.pvc.existingClaim) }}
{{- $names = append $names (include "light-tts.enginesClaim" .) }}
{{- end }}
{{- if and (not .Values.single.enabled) .Values.gateway.voices.enabled (not .Values.gateway.voices.existingClaim) }}
{{- $names = append $names (include "light-tts.voicesClaim" .) }}
{{- end }}
{{- dict "names" $names | toJson }}
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

{{/* The container that downloads: (dict "root" $ "wait" bool). With "wait" it only waits for the Job's download. */}}
{{- define "light-tts.fetchContainer" -}}
{{- $root := .root }}
{{- $fetch := .root.Values.model.fetch -}}
{{- $settings := default dict (index $root.Values (ternary "single" "llm" $root.Values.single.enabled)).settings -}}
- name: fetch-model
  image: {{ include "light-tts.image" (dict "root" $root "image" $root.Values.gateway.image) }}
  imagePullPolicy: {{ default "IfNotPresent" $root.Values.gateway.image.pullPolicy }}
  command: [light-tts, fetch, {{ $root.Values.model.name | quote }}, {{ include "light-tts.modelPath" $root | quote }}
    {{- with $settings.llm_weights }}, --llm, {{ . | quote }}{{ end }}
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

{{/* The pod of the Job that downloads the model into the claim. */}}
{{- define "light-tts.fetchPod" -}}
restartPolicy: OnFailure
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "light-tts.pullSecrets" . }}
{{ include "light-tts.podSecurity" . }}
containers:
  {{- include "light-tts.fetchContainer" (dict "root" . "wait" false) | nindent 2 }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- include "light-tts.modelVolume" . | nindent 2 }}
{{- end }}
