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
