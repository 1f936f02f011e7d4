{{/* Names, in one place. */}}
{{- define "catena.name" -}}
{{- if contains "catena" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-catena" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "catena.selector" -}}
app.kubernetes.io/name: catena
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "catena.labels" -}}
{{ include "catena.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "catena.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "catena.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "catena.name" .) }}
{{- end }}

{{/* Secrets, certificates and sources of one's own. */}}
{{- define "catena.mounts" -}}
volumeMounts:
  - name: secrets
    mountPath: /etc/catena/secrets
    readOnly: true
  {{- range $side, $tls := .Values.tls }}
  {{- if $tls.existingSecret }}
  - name: tls-{{ $side }}
    mountPath: /etc/catena/tls/{{ $side }}
    readOnly: true
  {{- end }}
  {{- end }}
  {{- if .Values.sources.existingConfigMap }}
  - name: sources
    mountPath: /etc/catena/sources
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "catena.volumes" -}}
# Whole folders, not single files (subPath): only they are brought up to date while the pod runs.
volumes:
  - name: secrets
    secret:
      secretName: {{ .Values.secrets.existingSecret }}
      defaultMode: 0440
      items:
        {{- range $name, $key := .Values.secrets.files }}
        - { key: {{ $key }}, path: {{ $key }} }
        {{- end }}
  {{- range $side, $tls := .Values.tls }}
  {{- if $tls.existingSecret }}
  - name: tls-{{ $side }}
    secret:
      secretName: {{ $tls.existingSecret }}
      defaultMode: 0440
  {{- end }}
  {{- end }}
  {{- with .Values.sources.existingConfigMap }}
  - name: sources
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
