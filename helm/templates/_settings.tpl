{{/* Settings as environment variables: LIGHTTTS_<NAME>, one ConfigMap per service. */}}

{{/* A setting's text: strings as they are, everything else as JSON, so that large numbers keep their digits. */}}
{{- define "light-tts.settingText" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end }}
{{- end }}

{{/* The settings of a service: those of the values, and the device if it has GPUs. */}}
{{- define "light-tts.settings" -}}
{{- $values := index .root.Values .name }}
{{- $settings := deepCopy (default dict $values.settings) }}
{{- if gt (int (dig "gpu" "count" 0 $values)) 0 }}
{{- if has .name (list "llm" "decode" "single") }}
{{- $settings = merge $settings (dict "device" "cuda") }}
{{- end }}
{{- if has .name (list "encode") }}
{{- $settings = merge $settings (dict "onnx_providers" (list "CUDAExecutionProvider" "CPUExecutionProvider")) }}
{{- end }}
{{- end }}
{{- range $key, $value := $settings }}
LIGHTTTS_{{ upper $key }}: {{ include "light-tts.settingText" $value | quote }}
{{- end }}
{{- end }}

{{- define "light-tts.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "light-tts.metadata" . | nindent 2 }}
data:
  {{- include "light-tts.settings" . | trim | nindent 2 }}
{{- end }}

{{/*
The variables of a container: (dict "derived" YAML "extra" list). An additional one replaces a derived one, because Helm 4
applies objects on the server, which refuses a name that is there twice.
*/}}
{{- define "light-tts.mergedEnv" -}}
{{- $names := list }}
{{- range .extra }}{{ $names = append $names .name }}{{ end }}
{{- range fromYamlArray .derived }}
{{- if not (has .name $names) }}
{{ toYaml (list .) }}
{{- end }}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "light-tts.env" -}}
{{- include "light-tts.mergedEnv" (dict "derived" (include "light-tts.derivedEnv" .) "extra" (index .root.Values .name).extraEnvVars) }}
{{- end }}

{{/* Settings that the chart derives; they override the ConfigMap. */}}
{{- define "light-tts.derivedEnv" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name }}
- name: LIGHTTTS_HOST
  value: {{ $root.Values.listenAddress | quote }}
- name: LIGHTTTS_PORT
  value: {{ $values.containerPorts.grpc | quote }}
- name: LIGHTTTS_METRICS_PORT
  value: {{ ternary (int $root.Values.metrics.port) 0 (and $root.Values.metrics.enabled (ne .name "single")) | quote }}
- name: LIGHTTTS_WORKER_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- if hasKey $values.containerPorts "http" }}
- name: LIGHTTTS_HTTP_PORT
  value: {{ $values.containerPorts.http | quote }}
- name: LIGHTTTS_VOICES_DIR
  value: {{ ternary "/voices" "/tmp/voices" (dig "voices" "enabled" false $values) }}
- name: LIGHTTTS_COSYVOICE_PORT
  value: {{ default "off" $values.containerPorts.cosyvoice | quote }}
{{- end }}
{{- if include "light-tts.publicTls" . }}
- name: LIGHTTTS_PUBLIC_TLS_CERT
  value: /public-tls/tls.crt
- name: LIGHTTTS_PUBLIC_TLS_KEY
  value: /public-tls/tls.key
{{- end }}
{{- if dig "apiKeys" "existingSecret" "" $values }}
- name: LIGHTTTS_API_KEYS_FILE
  value: /keys/{{ $values.apiKeys.key }}
{{- end }}
{{- if include "light-tts.lexiconMap" . }}
- name: LIGHTTTS_LEXICON
  value: /lexicon/{{ $root.Values.lexicon.key }}
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: LIGHTTTS_TLS_CERT
  value: /tls/tls.crt
- name: LIGHTTTS_TLS_KEY
  value: /tls/tls.key
- name: LIGHTTTS_TLS_CA
  value: /tls/ca.crt
- name: LIGHTTTS_TLS_SERVER_NAME
  value: {{ $root.Values.tls.serverName | quote }}
{{- end }}
{{- if include "light-tts.hasHealthPort" . }}
- name: LIGHTTTS_HEALTH_PORT
  value: {{ $root.Values.tls.healthPort | quote }}
{{- end }}
{{- range .targets }}
- name: LIGHTTTS_{{ upper . }}_TARGET
  value: {{ include "light-tts.target" (dict "root" $root "name" .) | quote }}
{{- end }}
{{- if .model }}
{{- include "light-tts.modelEnv" . }}
{{- end }}
{{- end }}
