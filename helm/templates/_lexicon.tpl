{{/* The lexicon's ConfigMap, for the pods that encode text: (dict "root" $ "name" "encode"); empty for the others. */}}
{{- define "light-tts.lexiconMap" -}}
{{- if has .name (list "encode" "single") }}
{{- with .root.Values.lexicon }}
{{- if .existingConfigMap }}{{ .existingConfigMap }}
{{- else if .entries }}{{ include "light-tts.component" (dict "root" $.root "name" "lexicon") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.validateLexicon" -}}
{{- $name := ternary "single" "encode" .Values.single.enabled }}
{{- with .Values.lexicon }}
{{- if and .entries .existingConfigMap }}
{{- fail "lexicon has both entries and existingConfigMap: remove one of them." }}
{{- end }}
{{- if and (or .entries .existingConfigMap) (hasKey (default dict (index $.Values $name).settings) "lexicon") }}
{{- fail (printf "lexicon and %s.settings.lexicon both name a file: remove one of them." $name) }}
{{- end }}
{{- end }}
{{- end }}
