{{/* Combinations that cannot work are refused with a sentence before anything is created. */}}
{{- define "vllm-qwen.checks" -}}
{{- $v := .Values -}}
{{- include "vllm-qwen.checkParallelism" . -}}
{{- include "vllm-qwen.checkMemory" . -}}
{{- include "vllm-qwen.checkWeights" . -}}
{{- include "vllm-qwen.checkScaling" . -}}
{{- include "vllm-qwen.checkFlags" . -}}
{{- if and $v.serviceMonitor.enabled $v.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor are both enabled, and every figure would be counted twice: choose one" -}}
{{- end -}}
{{- if and $v.pdb.enabled (ne (toString $v.pdb.minAvailable) "") (ne (toString $v.pdb.maxUnavailable) "") -}}
{{- fail "pdb has both minAvailable and maxUnavailable: set one and leave the other \"\"" -}}
{{- end -}}
{{- end }}

{{- define "vllm-qwen.checkParallelism" -}}
{{- $v := .Values -}}
{{- $tensor := int $v.parallelism.tensor -}}
{{- $gpus := int (mul $tensor (int $v.parallelism.pipeline)) -}}
{{- if and $v.parallelism.expert (eq $v.model.architecture "dense") -}}
{{- fail (printf "parallelism.expert is for a mixture of experts; %s is dense, and vLLM would refuse to start: set parallelism.expert=false" $v.model.uri) -}}
{{- end -}}
{{- if and $v.parallelism.expert (lt $gpus 2) -}}
{{- fail "parallelism.expert spreads experts over GPUs and there is one GPU: raise parallelism.tensor or set parallelism.expert=false" -}}
{{- end -}}
{{- if and (gt (int $v.model.attentionHeads) 0) (ne (mod (int $v.model.attentionHeads) $tensor) 0) -}}
{{- fail (printf "parallelism.tensor=%d does not divide the %d attention heads of %s: choose a divisor" $tensor (int $v.model.attentionHeads) $v.model.uri) -}}
{{- end -}}
{{- if and (eq $v.accelerator.kind "cpu") (gt $gpus 1) -}}
{{- fail "accelerator.kind=cpu serves with one process: set parallelism.tensor and parallelism.pipeline to 1" -}}
{{- end -}}
{{- if and (hasPrefix "fp8" $v.engine.quantization) (eq $v.accelerator.kind "cpu") -}}
{{- fail "engine.quantization=fp8… needs a GPU: leave it empty with accelerator.kind=cpu" -}}
{{- end -}}
{{- if and (hasPrefix "fp8" $v.engine.quantization) (gt (float64 $v.accelerator.computeCapability) 0.0) (lt (float64 $v.accelerator.computeCapability) 8.9) -}}
{{- fail (printf "engine.quantization=%s needs compute capability 8.9 or later and accelerator.computeCapability is %v: serve bf16 or a checkpoint that is quantised already" $v.engine.quantization $v.accelerator.computeCapability) -}}
{{- end -}}
{{- end }}

{{- define "vllm-qwen.checkMemory" -}}
{{- $v := .Values -}}
{{- $gpus := int (mul (int $v.parallelism.tensor) (int $v.parallelism.pipeline)) -}}
{{- if and (eq $v.accelerator.kind "gpu") (gt (float64 $v.model.weightsGiB) 0.0) (gt (float64 $v.accelerator.memoryGiB) 0.0) -}}
{{- $share := divf $v.model.weightsGiB $gpus -}}
{{- $room := mulf $v.accelerator.memoryGiB $v.engine.gpuMemoryUtilization -}}
{{- if ge $share $room -}}
{{- fail (printf "%s has %.1f GiB of weights for each of %d GPUs, and vLLM may use %.1f GiB of each: raise parallelism.tensor" $v.model.uri $share $gpus $room) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "vllm-qwen.checkWeights" -}}
{{- $v := .Values -}}
{{- $cache := $v.cache -}}
{{- $chosen := compact (list $cache.existingClaim $cache.hostPath (ternary "pvc" "" $cache.pvc.create)) -}}
{{- if gt (len $chosen) 1 -}}
{{- fail "cache: choose one of existingClaim, hostPath and pvc.create" -}}
{{- end -}}
{{- if hasPrefix "/" $v.model.uri -}}
{{- if $v.model.revision -}}
{{- fail "model.revision is a commit on the hub and model.uri is a path: leave model.revision empty" -}}
{{- end -}}
{{- if and (empty $chosen) (empty $v.extraVolumeMounts) -}}
{{- fail (printf "model.uri=%s is a path and no volume holds it: set cache.existingClaim, cache.hostPath or extraVolumeMounts" $v.model.uri) -}}
{{- end -}}
{{- else if and $v.model.offline (empty $chosen) -}}
{{- fail "model.offline=true and no volume holds the weights: set cache.existingClaim or cache.hostPath" -}}
{{- end -}}
{{- if and $cache.readOnly $cache.pvc.create -}}
{{- fail "cache.readOnly with a new claim: nothing could ever write the weights; use cache.existingClaim" -}}
{{- end -}}
{{- end }}

{{- define "vllm-qwen.checkScaling" -}}
{{- $v := .Values -}}
{{- if and $v.keda.enabled $v.hpa.enabled -}}
{{- fail "keda and hpa are both enabled and would fight over the replicas: choose one" -}}
{{- end -}}
{{- if and $v.keda.enabled (not $v.keda.prometheusUrl) -}}
{{- fail "keda.enabled needs keda.prometheusUrl, e.g. http://prometheus-operated.monitoring.svc:9090" -}}
{{- end -}}
{{- range $name, $scaler := dict "keda" $v.keda "hpa" $v.hpa -}}
{{- if and $scaler.enabled (lt (int $scaler.maxReplicas) (int $scaler.minReplicas)) -}}
{{- fail (printf "%s.maxReplicas is less than %s.minReplicas" $name $name) -}}
{{- end -}}
{{- end -}}
{{- $most := int $v.replicas -}}
{{- if $v.keda.enabled }}{{ $most = int $v.keda.maxReplicas }}{{ end -}}
{{- if $v.hpa.enabled }}{{ $most = int $v.hpa.maxReplicas }}{{ end -}}
{{- if and (gt $most 1) $v.cache.pvc.create (not (has "ReadWriteMany" $v.cache.pvc.accessModes)) -}}
{{- fail (printf "%d replicas would share a claim of access mode %s, and pods on other nodes would wait for ever: use ReadWriteMany, hostPath or no cache" $most (join "," $v.cache.pvc.accessModes)) -}}
{{- end -}}
{{- end }}

{{/* Flags that values decide: said twice, the pod's GPUs and vLLM's could differ. */}}
{{- define "vllm-qwen.checkFlags" -}}
{{- $owned := dict
  "--model" "model.uri" "--served-model-name" "model.servedName" "--revision" "model.revision"
  "--tensor-parallel-size" "parallelism.tensor" "-tp" "parallelism.tensor"
  "--pipeline-parallel-size" "parallelism.pipeline" "-pp" "parallelism.pipeline"
  "--enable-expert-parallel" "parallelism.expert" "--mm-encoder-tp-mode" "parallelism.encoder"
  "--data-parallel-size" "replicas" "-dp" "replicas"
  "--dtype" "engine.dtype" "--quantization" "engine.quantization"
  "--max-model-len" "engine.maxModelLen" "--max-num-seqs" "engine.maxNumSeqs"
  "--gpu-memory-utilization" "engine.gpuMemoryUtilization"
  "--limit-mm-per-prompt" "engine.limitMmPerPrompt" "--enforce-eager" "engine.enforceEager"
  "--port" "service.port" "--api-key" "apiKeySecret" -}}
{{- range .Values.extraArgs -}}
{{- $flag := first (splitList "=" .) | replace "_" "-" -}}
{{- if hasKey $owned $flag -}}
{{- fail (printf "extraArgs has %s: set %s instead" $flag (get $owned $flag)) -}}
{{- end -}}
{{- end -}}
{{- end }}
