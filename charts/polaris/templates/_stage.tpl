{{/* The Job of a stage kind, as the orchestrator takes it from the ConfigMap: dict root, kind. */}}

{{- define "polaris.stageJob" -}}
{{- $root := .root -}}
{{- $kind := .kind -}}
{{- $settings := include "polaris.stageSettings" . | fromYaml -}}
{{- $train := eq $kind "train" -}}
{{- $nodes := ternary (include "polaris.nodes" $root | int) 1 $train -}}
{{- $env := list -}}
{{- if gt $nodes 1 -}}
{{- $index := dict "fieldRef" (dict "fieldPath" "metadata.annotations['batch.kubernetes.io/job-completion-index']") -}}
{{- $env = list (dict "name" "POLARIS_NODES" "value" (toString $nodes)) (dict "name" "POLARIS_NODE" "valueFrom" $index) -}}
{{- end -}}
{{- $labels := dict "root" $root "component" "stage" "by" "polaris" "extra" (dict "polaris/kind" $kind) -}}
{{- $container := dict "name" "stage" "image" (ternary "train" "tools" $train) "env" $env -}}
{{- $_ := set $container "args" (list "stage" "INSTANCE" "/etc/polaris/run.yaml") -}}
{{- $_ := set $container "gpus" (ternary $root.Values.training.gpus 0 $train) -}}
{{- $_ := set $container "uses" (include "polaris.usesOf" $kind | fromJsonArray) -}}
{{- $pod := dict "root" $root "settings" $settings "account" "polaris-stage" "restart" "Never" "containers" (list $container) "config" true "extras" true -}}
{{- if gt $nodes 1 }}{{ $_ := set $pod "subdomain" "polaris-train" }}{{ end -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: stage-{{ $kind }}
  labels:
    {{- include "polaris.labels" $labels | nindent 4 }}
    {{- with $root.Values.kueue.queue }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
spec:
  {{- if gt $nodes 1 }}
  completionMode: Indexed
  completions: {{ $nodes }}
  parallelism: {{ $nodes }}
  {{- end }}
  {{- /* Where nodes work together one incident ends all of their pods. */}}
  {{- $_ := set $settings "backoffLimit" (mul (int64 $settings.backoffLimit) $nodes) }}
  {{- include "polaris.jobLimits" $settings | nindent 2 }}
  podFailurePolicy: {{- include "polaris.podFailurePolicy" (list "stage") | nindent 4 }}
  template:
    metadata:
      labels: {{- include "polaris.labels" $labels | nindent 8 }}
    spec: {{- include "polaris.podSpec" $pod | nindent 6 }}
{{- end }}

{{- define "polaris.jobLimits" -}}
backoffLimit: {{ int64 .backoffLimit }}
activeDeadlineSeconds: {{ int64 .activeDeadlineSeconds }}
ttlSecondsAfterFinished: {{ int64 .ttlSecondsAfterFinished }}
podReplacementPolicy: Failed
{{- end }}
