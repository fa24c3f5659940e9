{{/* The volumes of a service's pod, and where its container mounts them. */}}

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
  {{- with include "light-tts.lexiconMap" . }}
  - name: lexicon
    configMap:
      name: {{ . }}
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
  {{- if include "light-tts.lexiconMap" . }}
  - name: lexicon
    mountPath: /lexicon
    readOnly: true
  {{- end }}
  {{- if .model }}
  {{- include "light-tts.modelMounts" . | nindent 2 }}
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
