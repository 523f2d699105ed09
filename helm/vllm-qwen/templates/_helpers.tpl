{{- define "vllm-qwen.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "vllm-qwen.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "vllm-qwen.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "vllm-qwen.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "vllm-qwen.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vllm-qwen.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vllm-qwen.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "vllm-qwen.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: vlm
app.kubernetes.io/part-of: dynamicverse
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The pods of the server alone: the test's pod has the release's labels too. */}}
{{- define "vllm-qwen.podLabels" -}}
{{ include "vllm-qwen.selectorLabels" . }}
app.kubernetes.io/component: vlm
{{- end }}

{{- define "vllm-qwen.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vllm-qwen.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "vllm-qwen.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (printf "v%s" .Chart.AppVersion) $image.tag) }}
{{- end }}
{{- end }}

{{- define "vllm-qwen.servedName" -}}
{{- default .Values.model.uri .Values.model.servedName }}
{{- end }}

{{/* GPUs of one pod. */}}
{{- define "vllm-qwen.gpus" -}}
{{- if eq .Values.accelerator.kind "gpu" -}}
{{- mul .Values.parallelism.tensor .Values.parallelism.pipeline }}
{{- else -}}
0
{{- end }}
{{- end }}

{{/* Surge needs GPUs that may not be there. */}}
{{- define "vllm-qwen.strategy" -}}
{{- if .Values.strategy -}}
{{- toYaml .Values.strategy }}
{{- else if or .Values.keda.enabled .Values.hpa.enabled (gt (int .Values.replicas) 1) -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
{{- else -}}
type: Recreate
{{- end }}
{{- end }}

{{- define "vllm-qwen.url" -}}
{{- printf "http://%s.%s.svc:%v/v1" (include "vllm-qwen.fullname" .) .Release.Namespace .Values.service.port }}
{{- end }}

{{- define "vllm-qwen.hfTokenSecret" -}}
{{- with .Values.hfTokenSecret -}}
{{- if or .name .value }}{{ default (printf "%s-hf-token" (include "vllm-qwen.fullname" $)) .name }}{{ end }}
{{- end }}
{{- end }}

{{- define "vllm-qwen.apiKeySecret" -}}
{{- with .Values.apiKeySecret -}}
{{- if or .name .value }}{{ default (printf "%s-api-key" (include "vllm-qwen.fullname" $)) .name }}{{ end }}
{{- end }}
{{- end }}

{{- define "vllm-qwen.claimName" -}}
{{- default (printf "%s-weights" (include "vllm-qwen.fullname" .)) .Values.cache.existingClaim }}
{{- end }}

{{- define "vllm-qwen.apiKeyEnv" -}}
{{- with include "vllm-qwen.apiKeySecret" . }}
- name: VLLM_API_KEY
  valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.apiKeySecret.key | quote }}}}
{{- end }}
{{- end }}

{{- define "vllm-qwen.command" -}}
{{- if eq .Values.engine.entrypoint "serve" }}
- vllm
- serve
{{- else }}
- python3
- -m
- vllm.entrypoints.openai.api_server
{{- end }}
{{- end }}

{{/* The flags, of vLLM's engine and API server. The tests give them to vLLM's own parser. */}}
{{- define "vllm-qwen.args" -}}
{{- $v := .Values -}}
- {{ ternary $v.model.uri (printf "--model=%s" $v.model.uri) (eq $v.engine.entrypoint "serve") | quote }}
- {{ printf "--served-model-name=%s" (include "vllm-qwen.servedName" .) | quote }}
{{- with $v.model.revision }}
- {{ printf "--revision=%s" . | quote }}
- {{ printf "--tokenizer-revision=%s" . | quote }}
{{- end }}
{{- if $v.model.trustRemoteCode }}
- --trust-remote-code
{{- end }}
- --port=8000
- {{ printf "--dtype=%s" $v.engine.dtype | quote }}
{{- with $v.engine.quantization }}
- {{ printf "--quantization=%s" . | quote }}
{{- end }}
- --max-model-len={{ int $v.engine.maxModelLen }}
- --max-num-seqs={{ int $v.engine.maxNumSeqs }}
- {{ printf "--limit-mm-per-prompt=%s" (toJson $v.engine.limitMmPerPrompt) | quote }}
{{- if eq $v.accelerator.kind "gpu" }}
- --gpu-memory-utilization={{ $v.engine.gpuMemoryUtilization }}
- --tensor-parallel-size={{ int $v.parallelism.tensor }}
{{- if gt (int $v.parallelism.pipeline) 1 }}
- --pipeline-parallel-size={{ int $v.parallelism.pipeline }}
{{- end }}
{{- if $v.parallelism.expert }}
- --enable-expert-parallel
{{- end }}
- --mm-encoder-tp-mode={{ $v.parallelism.encoder }}
{{- end }}
{{- if $v.engine.enforceEager }}
- --enforce-eager
{{- end }}
- --shutdown-timeout={{ int $v.engine.shutdownSeconds }}
- --disable-access-log-for-endpoints=/health,/metrics
{{- range $v.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* What KEDA scales by; the label of vLLM's metrics is model_name. */}}
{{- define "vllm-qwen.waitingQuery" -}}
{{- printf "sum(vllm:num_requests_waiting{namespace=%q,model_name=%q})" .Release.Namespace (include "vllm-qwen.servedName" .) }}
{{- end }}
