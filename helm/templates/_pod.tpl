{{/* The pod of a service: one container with gRPC probes; it meets the restricted pod security standard. */}}

{{- define "light-tts.resources" -}}
{{- if or (dig "resources" "requests" dict .) (dig "resources" "limits" dict .) (dig "resources" "claims" list .) }}
resources:
  {{- toYaml .resources | nindent 2 }}
{{- else }}
{{- $requests := dict }}
{{- $limits := dict }}
{{- with .cpu }}{{ $_ := set $requests "cpu" . }}{{ end }}
{{- with .memory }}{{ $_ := set $requests "memory" . }}{{ $_ := set $limits "memory" . }}{{ end }}
{{- if gt (int (dig "gpu" "count" 0 .)) 0 }}
{{- $_ := set $limits (default "nvidia.com/gpu" .gpu.resource) (int .gpu.count) }}
{{- end }}
resources:
  requests:
    {{- toYaml $requests | nindent 4 }}
  limits:
    {{- toYaml $limits | nindent 4 }}
{{- end }}
{{- end }}

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

{{/* Which nodes a pod may use. */}}
{{- define "light-tts.placement" -}}
{{- $values := index .root.Values .name }}
{{- range $key := list "runtimeClassName" "priorityClassName" }}
{{- with index $values $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.scheduling" -}}
{{- $values := index .root.Values .name }}
{{- include "light-tts.placement" . }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "light-tts.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "light-tts.volumes" -}}
{{- $root := .root }}
{{- $values := index .root.Values .name -}}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if $root.Values.tls.enabled }}
  - name: tls
    secret:
      secretName: {{ include "light-tts.tlsSecret" $root }}
      defaultMode: 0440
  {{- end }}
  {{- with dig "apiKeys" "existingSecret" "" $values }}
  - name: keys
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- if dig "voices" "enabled" false $values }}
  - name: voices
    persistentVolumeClaim:
      claimName: {{ include "light-tts.voicesClaim" $root }}
  {{- end }}
  {{- with include "light-tts.publicTls" . }}
  - name: public-tls
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- if .model }}
  {{- include "light-tts.modelVolumes" . | nindent 2 }}
  {{- end }}
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "light-tts.volumeMounts" -}}
{{- $values := index .root.Values .name -}}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if .root.Values.tls.enabled }}
  - name: tls
    mountPath: /tls
    readOnly: true
  {{- end }}
  {{- if dig "apiKeys" "existingSecret" "" $values }}
  - name: keys
    mountPath: /keys
    readOnly: true
  {{- end }}
  {{- if dig "voices" "enabled" false $values }}
  - name: voices
    mountPath: /voices
  {{- end }}
  {{- if include "light-tts.publicTls" . }}
  - name: public-tls
    mountPath: /public-tls
    readOnly: true
  {{- end }}
  {{- if .model }}
  {{- include "light-tts.modelMounts" . | nindent 2 }}
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
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
      {{- include "light-tts.modelEnv" . | trim | nindent 6 }}
      {{- with $values.extraEnvVars }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
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
