{{/* One standalone Job: `polaris run` on a few instances, with the models that they need beside it. */}}

{{/*
dict root, name, kind (whose settings the pod takes), about (what it does), patterns (of instances), models (that it needs).
Only models that the run serves get a sidecar.
*/}}
{{- define "polaris.standaloneJob" -}}
{{- $root := .root -}}
{{- $served := include "polaris.served" $root | fromJsonArray -}}
{{- $settings := include "polaris.stageSettings" . | fromYaml -}}
{{- $train := eq .kind "train" -}}
{{- $only := list "run" "/etc/polaris/run.yaml" -}}
{{- range .patterns }}{{ $only = concat $only (list "--only" .) }}{{ end -}}
{{- $sidecars := list -}}
{{- $endpoints := dict -}}
{{- $scratches := dict -}}
{{- $port := 8000 -}}
{{- range $model := uniq .models -}}
{{- if has $model $served -}}
{{- $serving := include "polaris.servingSettings" (dict "root" $root "model" $model) | fromYaml -}}
{{- if not (or $train $scratches) -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "runtimeClassName" }}{{ $_ := set $settings $key (get $serving $key) }}{{ end -}}
{{- end -}}
{{- if not ($settings.shm).size }}{{ $_ := set $settings "shm" $serving.shm }}{{ end -}}
{{- $sidecar := include "polaris.serveContainer" (dict "root" $root "model" $model "settings" $serving "name" (printf "serve-%s" $model) "host" "127.0.0.1" "port" $port "drain" 0) | fromJson -}}
{{- $_ := set $sidecar.more "restartPolicy" "Always" -}}
{{- $_ := set $sidecar "volume" (printf "scratch-%s" $model) -}}
{{- $_ := set $scratches $sidecar.volume $serving.scratch.size -}}
{{- $_ := set $endpoints $model (printf "http://127.0.0.1:%d/v1" (int $port)) -}}
{{- $sidecars = append $sidecars $sidecar -}}
{{- $port = add1 $port -}}
{{- end -}}
{{- end -}}
{{- $env := list (dict "name" "POLARIS_ENDPOINTS" "value" (toJson $endpoints)) -}}
{{- if and $train (gt (include "polaris.nodes" $root | int) 1) -}}
{{- /* One pod is one machine; how many there are decides nothing about the artifact's digest. */ -}}
{{- $env = append $env (dict "name" "POLARIS__TRAIN__NODES" "value" "1") -}}
{{- end -}}
{{- if and $train (include "polaris.run" $root | fromYaml).arms -}}
{{- /* The pod's GPUs and memory are those of one training. */ -}}
{{- $env = append $env (dict "name" "POLARIS__EXECUTE__PARALLEL" "value" "1") -}}
{{- end -}}
{{- $uses := include "polaris.usesOf" .kind | fromJsonArray -}}
{{- $container := dict "name" "stage" "image" (ternary "train" "tools" $train) "args" (append $only "--no-needs") "env" $env "gpus" (ternary $root.Values.training.gpus 0 $train) "uses" $uses -}}
{{- $check := dict "name" "check-needs" "image" "tools" "args" (append $only "--check-needs") "env" list -}}
{{- $init := prepend $sidecars $check -}}
{{- if $sidecars -}}
{{- /* The first container makes this file when nothing is to do; then no model is loaded. */ -}}
{{- $idle := dict "name" "POLARIS_IDLE_FILE" "value" "/tmp/polaris-nothing-to-do" -}}
{{- range append $init $container }}{{ $_ := set . "env" (append .env $idle) }}{{ end -}}
{{- if not $train }}{{ $_ := set $settings "activeDeadlineSeconds" $root.Values.standalone.activeDeadlineSeconds }}{{ end -}}
{{- end -}}
{{- $labels := dict "root" $root "component" "stage" "by" "kubectl" "extra" (dict "polaris/kind" .kind) -}}
# {{ .about }}
#
#   kubectl apply -n NAMESPACE -f jobs/{{ .name }}.yaml
#   kubectl logs -n NAMESPACE -f job/polaris-{{ .name }}
#
# It makes these instances, and goes on where it stopped:
{{- range .patterns }}
#   {{ . }}
{{- end }}
# What they need must be complete in the store: the first container says what is missing. The namespace has the release's
# ConfigMap polaris-config, its Secret {{ include "polaris.secret" $root }} and its ServiceAccount polaris-stage.
# A Job runs once; `kubectl delete -n NAMESPACE job polaris-{{ .name }}` first, and it can be applied again. What is complete
# is not made again.
{{- if $sidecars }}
# The model servers stand beside it, and are restarted for as long as it waits for them. So the Job ends after
# {{ int64 $settings.activeDeadlineSeconds }} seconds, whatever it waits for ({{ ternary "stages.train.activeDeadlineSeconds" "standalone.activeDeadlineSeconds" $train }}); applied again it goes on.
{{- end }}
# Rendered from charts/polaris by `make jobs`, with these images and settings. For another registry or profile render it with
# the values of your release: `make jobs VALUES=my-values.yaml OUT=my-jobs`.
apiVersion: batch/v1
kind: Job
metadata:
  name: polaris-{{ .name }}
  labels:
    {{- include "polaris.labels" $labels | nindent 4 }}
    {{- with $root.Values.kueue.queue }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
spec:
  {{- include "polaris.jobLimits" $settings | nindent 2 }}
  podFailurePolicy: {{- include "polaris.podFailurePolicy" (list "stage" "check-needs") | nindent 4 }}
  template:
    metadata:
      labels: {{- include "polaris.labels" $labels | nindent 8 }}
    spec: {{- include "polaris.podSpec" (dict "root" $root "settings" $settings "account" "polaris-stage" "restart" "Never" "init" $init "containers" (list $container) "config" true "extras" true "scratches" $scratches) | nindent 6 }}
{{- end }}
