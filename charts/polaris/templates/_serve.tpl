{{/* A served model: its container, and the Deployment that the orchestrator takes from the ConfigMap. */}}

{{- define "polaris.serveLabels" -}}
{{ include "polaris.selector" (dict "component" "serve") }}
polaris/model: {{ . | quote }}
{{- end }}

{{/* The server's container, as JSON: dict root, model, settings, name, host, port, drain (seconds for answers in flight). */}}
{{- define "polaris.serveContainer" -}}
{{- $url := printf "http://127.0.0.1:%d/v1" (int .port) -}}
{{- $args := list "serve" .model "/etc/polaris/run.yaml" "--host" .host "--port" (toString .port) -}}
{{- /* As long as the run itself waits for a model, and half an hour at least. A probe that waits for a slow first token is no failed one: it may take five minutes. */ -}}
{{- $run := include "polaris.run" .root | fromYaml -}}
{{- $failures := max 180 (ceil (divf ($run.execute.service_timeout_s | default 0) 10)) -}}
{{- $probe := dict "exec" (dict "command" (list "polaris" "probe" $url .model)) "periodSeconds" 10 "timeoutSeconds" 300 "failureThreshold" $failures -}}
{{- $more := dict "startupProbe" $probe -}}
{{ dict "name" .name "image" "serve" "args" $args "gpus" (.settings.gpus | default 0) "resources" .settings.resources "variables" (.settings.env | default dict) "env" (list (dict "name" "POLARIS_DRAIN_S" "value" (toString .drain))) "more" $more | toJson }}
{{- end }}

{{- define "polaris.serveDeployment" -}}
{{- $root := .root -}}
{{- $model := .model -}}
{{- $settings := include "polaris.servingSettings" . | fromYaml -}}
{{- $labels := dict "root" $root "component" "serve" "by" "polaris" "extra" (dict "polaris/model" $model) -}}
{{- /* Five of the seconds go to preStop, ten are the server's own to end in. */ -}}
{{- $drain := max 0 (sub (int64 $settings.terminationGracePeriodSeconds) 15) -}}
{{- $container := include "polaris.serveContainer" (dict "root" $root "model" $model "settings" $settings "name" "serve" "host" "0.0.0.0" "port" 8000 "drain" $drain) | fromJson -}}
{{- $more := $container.more -}}
{{- $_ := set $more "ports" (list (dict "name" "http" "containerPort" 8000)) -}}
{{- $_ := set $more "readinessProbe" (dict "httpGet" (dict "path" "/v1/models" "port" "http") "periodSeconds" 5 "timeoutSeconds" 10 "failureThreshold" 6) -}}
{{- $_ := set $more "livenessProbe" (dict "httpGet" (dict "path" "/health" "port" "http") "periodSeconds" 30 "timeoutSeconds" 30 "failureThreshold" 10) -}}
{{- /* The Service forgets the pod while it sleeps; only then is the server asked to stop. */ -}}
{{- $_ := set $more "lifecycle" (dict "preStop" (dict "exec" (dict "command" (list "sleep" "5")))) -}}
{{- $pod := dict "root" $root "settings" $settings "account" "polaris-serve" "containers" (list $container) "config" true "extras" true -}}
{{- if $settings.cache.enabled }}{{ $_ := set $pod "claim" (printf "polaris-cache-%s" $model) }}{{ end -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: polaris-serve-{{ $model }}
  labels: {{- include "polaris.labels" $labels | nindent 4 }}
spec:
  replicas: 1
  revisionHistoryLimit: 0
  strategy: {type: Recreate}
  selector:
    matchLabels: {{- include "polaris.serveLabels" $model | nindent 6 }}
  template:
    metadata:
      labels: {{- include "polaris.labels" $labels | nindent 8 }}
    spec: {{- include "polaris.podSpec" $pod | nindent 6 }}
{{- end }}
