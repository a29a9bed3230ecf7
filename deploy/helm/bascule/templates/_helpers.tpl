{{- define "bascule.labels" -}}
app.kubernetes.io/name: bascule
app.kubernetes.io/component: node
{{- end }}

{{- define "bascule.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}
