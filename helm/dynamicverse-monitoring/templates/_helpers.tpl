{{- define "monitoring.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "monitoring.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "monitoring.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "monitoring.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "monitoring.selectorLabels" -}}
app.kubernetes.io/name: {{ include "monitoring.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: exporter
{{- end }}

{{- define "monitoring.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "monitoring.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: dynamicverse
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "monitoring.operatorLabels" -}}
{{ include "monitoring.labels" . }}
{{- with .Values.operator.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "monitoring.image" -}}
{{- $image := .Values.exporter.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "monitoring.namespaces" -}}
{{- default (list .Release.Namespace) .Values.stagePods.namespaces | join "|" }}
{{- end }}

{{/* files/rules.yaml with the values' figures, without the alerts that are disabled. */}}
{{- define "monitoring.rules" -}}
{{- $text := .Files.Get "files/rules.yaml" -}}
{{- $tokens := merge (dict "namespaces" (include "monitoring.namespaces" .) "dcgmPod" .Values.dcgm.podLabel "dcgmNamespace" .Values.dcgm.namespaceLabel) .Values.rules.thresholds -}}
{{- range $name, $value := $tokens -}}
{{- $text = replace (printf "@%s@" $name) (toString $value) $text -}}
{{- end -}}
{{- $rules := fromYaml $text -}}
{{- $names := list -}}
{{- range $group := $rules.groups -}}
{{- $kept := list -}}
{{- range $rule := $group.rules -}}
{{- if $rule.alert -}}
{{- $names = append $names $rule.alert -}}
{{- $_ := set $rule "labels" (merge $rule.labels $.Values.rules.labels) -}}
{{- end -}}
{{- if not (and $rule.alert (has $rule.alert $.Values.rules.disabled)) -}}
{{- $kept = append $kept $rule -}}
{{- end -}}
{{- end -}}
{{- $_ := set $group "rules" $kept -}}
{{- end -}}
{{- range .Values.rules.disabled -}}
{{- if not (has . $names) -}}
{{- fail (printf "rules.disabled has %s; the alerts are %s" . (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end }}
