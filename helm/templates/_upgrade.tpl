{{/*
Refuse upgrades that the API server would refuse half-way: claims and selectors cannot change. `helm template` without a
cluster does not check, because `lookup` finds nothing there.
*/}}

{{- define "light-tts.validateUpgrade" -}}
{{- $model := .Values.model }}
{{- if and (eq $model.mode "pvc") (not $model.pvc.existingClaim) }}
{{- include "light-tts.validateClaim" (dict "root" . "path" "model.pvc" "name" "model" "claim" $model.pvc) }}
{{- end }}
{{- if and .Values.engineCache.pvc.enabled (not .Values.engineCache.pvc.existingClaim) }}
{{- include "light-tts.validateClaim" (dict "root" . "path" "engineCache.pvc" "name" "engines" "claim" .Values.engineCache.pvc) }}
{{- end }}
{{- $voices := .Values.gateway.voices }}
{{- if and (not .Values.single.enabled) $voices.enabled (not $voices.existingClaim) }}
{{- include "light-tts.validateClaim" (dict "root" . "path" "gateway.voices" "name" "voices" "claim" $voices) }}
{{- end }}
{{- range $name := ternary (list "single") (list "encode" "llm" "decode" "gateway") .Values.single.enabled }}
{{- include "light-tts.validateSelector" (dict "root" $ "name" $name) }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "path" "model.pvc" "name" "model" "claim" values) */}}
{{- define "light-tts.validateClaim" -}}
{{- $path := .path }}
{{- $name := include "light-tts.component" . }}
{{- $live := lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace $name }}
{{- if $live }}
{{- $way := printf "name another claim in %s.existingClaim, or delete %s (its content is lost) and install again" $path $name }}
{{- $modes := sortAlpha (default (list "ReadWriteMany") .claim.accessModes) }}
{{- $liveModes := sortAlpha $live.spec.accessModes }}
{{- if ne (toJson $modes) (toJson $liveModes) }}
{{- fail (printf "%s.accessModes is %s, but the claim %s has %s, and a claim cannot change: set it back, %s." $path (join ", " $modes) $name (join ", " $liveModes) $way) }}
{{- end }}
{{- $class := default "" $live.spec.storageClassName }}
{{- if and .claim.storageClass (ne .claim.storageClass $class) }}
{{- fail (printf "%s.storageClass is %s, but the claim %s has %s, and a claim cannot change: set it back, %s." $path .claim.storageClass $name (default "none" $class) $way) }}
{{- end }}
{{- $size := float64 (include "light-tts.bytes" .claim.size) }}
{{- $asked := toString $live.spec.resources.requests.storage }}
{{- $liveSize := float64 (include "light-tts.bytes" $asked) }}
{{- if lt $size $liveSize }}
{{- fail (printf "%s.size is %v, but the claim %s has %s, and a claim cannot shrink: set it back, %s." $path .claim.size $name $asked $way) }}
{{- end }}
{{- if and (gt $size $liveSize) (eq (dig "status" "phase" "" $live) "Pending") }}
{{- fail (printf "%s.size is %v, but the claim %s asks for %s and has no volume yet, and only a bound claim can grow: set it back, or delete the claim." $path .claim.size $name $asked) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A quantity of Kubernetes as a number: 20Gi, 1.5T, 1e9, 1048576. */}}
{{- define "light-tts.bytes" -}}
{{- $text := toString . }}
{{- $number := regexFind "^[0-9.]+([eE][+-]?[0-9]+)?" $text }}
{{- $factors := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 }}
{{- mulf (float64 $number) (get $factors (trimPrefix $number $text) | default 1.0) }}
{{- end }}

{{- define "light-tts.validateSelector" -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (include "light-tts.component" .) }}
{{- if $live }}
{{- $selector := include "light-tts.selector" . | fromYaml }}
{{- $label := "app.kubernetes.io/name" }}
{{- $had := dig "spec" "selector" "matchLabels" $label (get $selector $label) $live }}
{{- if ne $had (get $selector $label) }}
{{- fail (printf "nameOverride makes the label %s %s, but the release has %s, and the selector of a Deployment cannot change: set nameOverride to %s, or uninstall the release and install it again." $label (get $selector $label) $had $had) }}
{{- end }}
{{- end }}
{{- end }}
