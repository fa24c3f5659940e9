{{/* When a pod counts as started, ready and alive, and how long it may take to end. */}}

{{/* (dict "kind" "startupProbe" "service" "readiness" "values" map "period" seconds "port" "grpc") */}}
{{- define "light-tts.probe" -}}
{{- $probe := default dict (index .values .kind) }}
{{- if ne (toString $probe.enabled) "false" }}
{{ .kind }}:
  grpc:
    port: {{ .port }}
    service: {{ .service }}
  initialDelaySeconds: {{ default 0 $probe.initialDelaySeconds }}
  periodSeconds: {{ default .period $probe.periodSeconds }}
  timeoutSeconds: {{ default 2 $probe.timeoutSeconds }}
  failureThreshold: {{ default 3 $probe.failureThreshold }}
{{- end }}
{{- end }}

{{- define "light-tts.probes" -}}
{{- include "light-tts.probe" (merge (dict "kind" "startupProbe" "service" "readiness" "period" 5) .) }}
{{- include "light-tts.probe" (merge (dict "kind" "readinessProbe" "service" "readiness" "period" 2) .) }}
{{- include "light-tts.probe" (merge (dict "kind" "livenessProbe" "service" "liveness" "period" 10) .) }}
{{- end }}

{{/* terminationGracePeriodSeconds: the sleep before SIGTERM, the notice, the grace, and a margin. */}}
{{- define "light-tts.grace" -}}
{{- $settings := default dict .settings }}
{{- $derived := addf (default 0 .preStopSeconds) (default 1 $settings.drain_notice_seconds) (default 30 $settings.drain_grace_seconds) 15 }}
{{- default (int (ceil $derived)) .terminationGracePeriodSeconds }}
{{- end }}
