{{- define "cachenode.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cachenode.pods" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cachenode.common" -}}
app.kubernetes.io/part-of: cachenode
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "cachenode.labels" -}}
{{ include "cachenode.pods" . }}
{{ include "cachenode.common" . }}
{{- end -}}

{{- define "cachenode.valkeyPods" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}-valkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cachenode.valkeyLabels" -}}
{{ include "cachenode.valkeyPods" . }}
{{ include "cachenode.common" . }}
{{- end -}}

{{- define "cachenode.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* L2's URL when the chart makes the Secret; nothing when there is one already. */}}
{{- define "cachenode.l2url" -}}
{{- if .Values.l2.url -}}
{{ .Values.l2.url }}
{{- else if .Values.valkey.enabled -}}
redis://{{ include "cachenode.fullname" . }}-valkey:6379/0
{{- end -}}
{{- end -}}

{{/* What the schema cannot say: fields that belong together. */}}
{{- define "cachenode.check" -}}
{{- if not (or .Values.tls.enabled .Values.insecure) -}}
{{- fail "Nodes are reached by other machines: set tls.enabled=true (with a Secret tls.secretName), or insecure=true in a network that can be trusted." -}}
{{- end -}}
{{- if and .Values.tls.enabled .Values.insecure -}}
{{- fail "tls.enabled and insecure exclude each other." -}}
{{- end -}}
{{- $ways := 0 -}}
{{- range (list .Values.l2.existingSecret .Values.l2.url .Values.valkey.enabled) -}}
{{- if . -}}{{- $ways = add $ways 1 -}}{{- end -}}
{{- end -}}
{{- if ne (int $ways) 1 -}}
{{- fail "Say where L2 is in one way: l2.existingSecret=NAME, l2.url=rediss://… or valkey.enabled=true." -}}
{{- end -}}
{{- end -}}
