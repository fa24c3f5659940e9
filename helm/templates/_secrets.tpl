{{/* Pods wait forever for missing Secrets, so an installation checks in the cluster that they exist. */}}

{{/* The Secrets that the values name: a list of {path, secret, keys} in JSON, under "wanted". " or " separates the names
that a key may have. */}}
{{- define "light-tts.namedSecrets" -}}
{{- $values := .Values }}
{{- $wanted := list
  (dict "path" "model.fetch.tokenSecret.name" "secret" $values.model.fetch.tokenSecret.name "keys" (list $values.model.fetch.tokenSecret.key))
  (dict "path" "tests.apiKey.existingSecret" "secret" $values.tests.apiKey.existingSecret "keys" (list $values.tests.apiKey.key))
  (dict "path" "loadGenerator.apiKey.existingSecret" "secret" $values.loadGenerator.apiKey.existingSecret "keys" (list $values.loadGenerator.apiKey.key)) }}
{{- if $values.tls.enabled }}
{{- $wanted = append $wanted (dict "path" "tls.existingSecret" "secret" $values.tls.existingSecret "keys" (list "tls.crt" "tls.key" "ca.crt")) }}
{{- end }}
{{- range (include "light-tts.pullSecretNames" . | fromJson).names }}
{{- $wanted = append $wanted (dict "path" "global.imagePullSecrets" "secret" . "keys" (list ".dockerconfigjson or .dockercfg")) }}
{{- end }}
{{- $gateway := $values.gateway }}
{{- if not $values.single.enabled }}
{{- $wanted = concat $wanted (list
  (dict "path" "gateway.apiKeys.existingSecret" "secret" $gateway.apiKeys.existingSecret "keys" (list $gateway.apiKeys.key))
  (dict "path" "gateway.tls.existingSecret" "secret" $gateway.tls.existingSecret "keys" (list "tls.crt" "tls.key"))) }}
{{- end }}
{{- range $name := ternary (list "single") (list "encode" "llm" "decode" "gateway") $values.single.enabled }}
{{- $wanted = append $wanted (dict "path" (printf "%s.extraEnvVarsSecret" $name) "secret" (index $values $name).extraEnvVarsSecret "keys" list) }}
{{- end }}
{{- $named := list }}
{{- range $wanted }}{{ if .secret }}{{ $named = append $named . }}{{ end }}{{ end }}
{{- dict "wanted" $named | toJson }}
{{- end }}

{{- define "light-tts.validateSecrets" -}}
{{- $namespace := .Release.Namespace }}
{{- $wanted := (include "light-tts.namedSecrets" . | fromJson).wanted }}
{{- if and .Values.checkSecrets $wanted }}
{{- /* lookup returns nothing, not even an empty list, without a cluster: `helm template`. */}}
{{- with lookup "v1" "Secret" $namespace "" }}
{{- $there := dict }}
{{- range .items }}
{{- $_ := set $there .metadata.name (default dict .data) }}
{{- end }}
{{- range $wanted }}
{{- if not (hasKey $there .secret) }}
{{- fail (printf "%s names the Secret %s, which the namespace %s does not have: create it first, or set checkSecrets to false if it is created later." .path .secret $namespace) }}
{{- end }}
{{- $data := index $there .secret }}
{{- $path := .path }}
{{- $secret := .secret }}
{{- range .keys }}
{{- $found := false }}
{{- range splitList " or " . }}{{ if hasKey $data . }}{{ $found = true }}{{ end }}{{ end }}
{{- if not $found }}
{{- fail (printf "%s names the Secret %s, which has no key %s: it has %s." $path $secret . (keys $data | sortAlpha | join ", " | default "none")) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
