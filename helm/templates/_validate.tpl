{{/* Refuse combinations that cannot work. The schema refuses unknown names. */}}

{{- define "light-tts.validate" -}}
{{- include "light-tts.validateModel" . }}
{{- include "light-tts.validateEngines" . }}
{{- include "light-tts.validateTls" . }}
{{- include "light-tts.validateSecrets" . }}
{{- include "light-tts.validateUpgrade" . }}
{{- include "light-tts.validateLexicon" . }}
{{- if .Values.single.enabled }}
{{- include "light-tts.validateSingle" . }}
{{- include "light-tts.validateWorkload" (dict "root" . "name" "single" "values" .Values.single) }}
{{- else }}
{{- include "light-tts.validateAccounts" . }}
{{- range $name := list "encode" "llm" "decode" "gateway" }}
{{- include "light-tts.validateWorkload" (dict "root" $ "name" $name "values" (index $.Values $name)) }}
{{- end }}
{{- end }}
{{- include "light-tts.validateRoutes" . }}
{{- $gateway := .Values.gateway }}
{{- if and $gateway.tls.existingSecret (not $gateway.tls.serverName) }}
{{- fail "gateway.tls has a certificate without a name: set gateway.tls.serverName to a name in the certificate." }}
{{- end }}
{{- if and (dig "ingress" "enabled" false $gateway) (not (dig "ingress" "hostname" "" $gateway)) }}
{{- fail "gateway.ingress is enabled without a host: set gateway.ingress.hostname." }}
{{- end }}
{{- range $route := list "httpRoute" "grpcRoute" }}
{{- if and (dig $route "enabled" false $gateway) (not (dig $route "parentRefs" list $gateway)) }}
{{- fail (printf "gateway.%s is enabled without a Gateway: set gateway.%s.parentRefs." $route $route) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A server that ignored these would accept every client, in plaintext, or lose its voices. */}}
{{- define "light-tts.validateSingle" -}}
{{- $gateway := .Values.gateway }}
{{- $given := dict "apiKeys.existingSecret" $gateway.apiKeys.existingSecret "tls.existingSecret" $gateway.tls.existingSecret }}
{{- range $name := list "voices" "ingress" "httpRoute" "grpcRoute" }}
{{- $_ := set $given (printf "%s.enabled" $name) (dig $name "enabled" false $gateway) }}
{{- end }}
{{- range $name, $value := $given }}
{{- if $value }}
{{- fail (printf "gateway.%s is set, but single runs no gateway pod, so it has no effect: remove it, or set single.enabled to false." $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.validateAccounts" -}}
{{- $owners := dict }}
{{- range $name := list "encode" "llm" "decode" "gateway" }}
{{- $account := include "light-tts.serviceAccount" (dict "root" $ "name" $name) }}
{{- if ne (toString (dig "serviceAccount" "create" true (index $.Values $name))) "false" }}
{{- with get $owners $account }}
{{- fail (printf "%s.serviceAccount and %s.serviceAccount both create %s: set create to false for one of them." . $name $account) }}
{{- end }}
{{- $_ := set $owners $account $name }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.validateRoutes" -}}
{{- $gateway := .Values.gateway }}
{{- if and $gateway.envoyGateway.enabled (not (or $gateway.httpRoute.enabled $gateway.grpcRoute.enabled)) }}
{{- fail "gateway.envoyGateway is enabled without a route: set gateway.httpRoute.enabled or gateway.grpcRoute.enabled." }}
{{- end }}
{{- end }}

{{- define "light-tts.validateWorkload" -}}
{{- $name := .name }}
{{- $gpus := int (dig "gpu" "count" 0 .values) }}
{{- $hpa := default dict (dig "autoscaling" "hpa" dict .values) }}
{{- $keda := default dict (dig "autoscaling" "keda" dict .values) }}
{{- $scaled := include "light-tts.autoscaled" (dict "values" .values) }}
{{- if and (not $scaled) (lt (int (dig "replicaCount" 1 .values)) 1) }}
{{- fail (printf "%s.replicaCount is 0, but light-tts needs %s: use 1 or more." $name $name) }}
{{- end }}
{{- if and (eq .root.Values.profile "cpu") (gt $gpus 0) }}
{{- fail (printf "%s.gpu.count is %d, but profile is cpu: set %s.gpu.count to 0, or profile to gpu." $name $gpus $name) }}
{{- end }}
{{- $image := .values.image }}
{{- if and (gt $gpus 0) (eq (default "" $image.variant) "cpu") (not $image.tag) (not $image.digest) }}
{{- fail (printf "%s.gpu.count is %d, but the image of %s.image.variant cpu cannot use GPUs: set %s.image.variant to cuda, or %s.gpu.count to 0." $name $gpus $name $name $name) }}
{{- end }}
{{- if and (dig "gpu" "deviceClass" "" .values) (semverCompare "<1.34-0" .root.Capabilities.KubeVersion.Version) }}
{{- fail (printf "%s.gpu.deviceClass claims GPUs by dynamic resource allocation, which needs Kubernetes 1.34: use %s.gpu.resource." $name $name) }}
{{- end }}
{{- if and $hpa.enabled $keda.enabled }}
{{- fail (printf "%s.autoscaling has both hpa and keda enabled: they would work against each other; enable one." $name) }}
{{- end }}
{{- if and $keda.enabled (eq (int (dig "minReplicas" 1 $keda)) 0) (not (has $name (list "llm" "decode"))) }}
{{- fail (printf "%s.autoscaling.keda.minReplicas is 0, but only llm and decode can scale to zero: use 1 or more." $name) }}
{{- end }}
{{- range $kind, $scaler := dict "hpa" $hpa "keda" $keda }}
{{- if and $scaler.enabled (gt (int (dig "minReplicas" 1 $scaler)) (int (default 4 $scaler.maxReplicas))) }}
{{- fail (printf "%s.autoscaling.%s: minReplicas is above maxReplicas; swap or change them." $name $kind) }}
{{- end }}
{{- end }}
{{- $targets := default dict (dig "autoscaling" "targets" dict .values) }}
{{- if and $scaled (not $targets.cpuPercent) (not $targets.metrics) }}
{{- fail (printf "%s.autoscaling has no target: set %s.autoscaling.targets.cpuPercent or .metrics." $name $name) }}
{{- end }}
{{- if and $keda.enabled $targets.metrics (not $keda.serverAddress) }}
{{- fail (printf "%s.autoscaling.keda has no address of Prometheus: set %s.autoscaling.keda.serverAddress." $name $name) }}
{{- end }}
{{- end }}

{{- define "light-tts.validateModel" -}}
{{- $model := .Values.model }}
{{- if and (eq $model.mode "hostPath") (not $model.hostPath.path) }}
{{- fail "model.mode is hostPath without a path: set model.hostPath.path to a directory on the nodes." }}
{{- end }}
{{- if and (eq $model.mode "image") (not $model.image.repository) }}
{{- fail "model.mode is image without an image: set model.image.repository." }}
{{- end }}
{{- if and (eq $model.mode "emptyDir") (not $model.fetch.enabled) }}
{{- fail "model.mode is emptyDir, but nothing downloads the model into it: set model.fetch.enabled to true." }}
{{- end }}
{{- if and (include "light-tts.hasFetchContainer" .) (not (has $model.name (list "cosyvoice2" "cosyvoice3"))) }}
{{- fail (printf "model.name is %s, which cannot be fetched: use cosyvoice2 or cosyvoice3, or set model.fetch.enabled to false and put the model into the volume." $model.name) }}
{{- end }}
{{- end }}

{{- define "light-tts.validateEngines" -}}
{{- $settings := default dict (index .Values (ternary "single" "decode" .Values.single.enabled)).settings }}
{{- $builds := has (default "auto" $settings.decode_backend) (list "onnx" "tensorrt") }}
{{- with .Values.engineCache }}
{{- if and .prepare.enabled (not .pvc.enabled) }}
{{- fail "engineCache.prepare is enabled without a volume for the engines: set engineCache.pvc.enabled to true." }}
{{- end }}
{{- if and .prepare.enabled (not $builds) }}
{{- fail "engineCache.prepare has nothing to build: set decode.settings.decode_backend to onnx or tensorrt." }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.validateTls" -}}
{{- with .Values.tls }}
{{- if .enabled }}
{{- if $.Values.single.enabled }}
{{- fail "tls is between pods, but single has only one pod: set tls.enabled to false." }}
{{- end }}
{{- if and (not .existingSecret) (not .certManager.enabled) }}
{{- fail "tls is enabled without certificates: name a Secret in tls.existingSecret, or enable tls.certManager." }}
{{- end }}
{{- if and .certManager.enabled .existingSecret }}
{{- fail "tls has both existingSecret and certManager, which would overwrite the Secret: choose one." }}
{{- end }}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) }}
{{- fail "tls.certManager is enabled without an issuer: set tls.certManager.issuerRef.name." }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
