{{/* The run's configuration and what follows from it. */}}

{{- define "polaris.storeUrl" -}}
{{- $store := .Values.store -}}
{{- if $store.inCluster.enabled -}}
{{- range $key := list "url" "endpoint" -}}
{{- with get $store $key }}{{ fail (printf "store.%s: value '%s' is of a store outside; set store.inCluster.enabled=false beside it" $key .) }}{{ end -}}
{{- end -}}
s3://polaris
{{- else if $store.url -}}
{{ $store.url }}
{{- else -}}
{{ fail "store.url: value ''; expected s3://bucket/prefix, for store.inCluster.enabled is false" }}
{{- end -}}
{{- end }}

{{- define "polaris.storeEndpoint" -}}
{{ ternary "http://polaris-store:8333" .Values.store.endpoint .Values.store.inCluster.enabled }}
{{- end }}

{{/* The configuration as the user gave it: mapping, text, or the try-out run. */}}
{{- define "polaris.userConfig" -}}
{{- $text := .Files.Get "files/tryout.yaml" -}}
{{- if kindIs "string" .Values.config -}}
{{- if .Values.config }}{{ $text = .Values.config }}{{ end -}}
{{- else if .Values.config -}}
{{- $text = toYaml .Values.config -}}
{{- end -}}
{{- $config := fromYaml $text -}}
{{- if hasKey $config "Error" }}{{ fail (printf "config: not valid YAML: %s" $config.Error) }}{{ end -}}
{{- range $key := list "run" "models" "data" "judges" -}}
{{- if not (hasKey $config $key) }}{{ fail (printf "config.%s: required key is missing; see `polaris config schema`" $key) }}{{ end -}}
{{- end -}}
{{- range $name, $model := $config.models -}}
{{- if hasSuffix "@REVISION" ($model.repo | default "") }}{{ fail (printf "config.models.%s.repo: value '%s'; put the commit of the repository in the place of REVISION" $name $model.repo) }}{{ end -}}
{{- end -}}
{{ toYaml $config }}
{{- end }}

{{/* Machines of one training: `train.nodes` of the configuration, else the value `training.nodes`. */}}
{{- define "polaris.nodes" -}}
{{- $value := int .Values.training.nodes -}}
{{- $train := (include "polaris.userConfig" . | fromYaml).train | default dict -}}
{{- $nodes := int ($train.nodes | default $value) -}}
{{- if and (gt $value 1) (ne $value $nodes) }}{{ fail (printf "training.nodes: value %d; config.train.nodes says %d: give one of them, or the same twice" $value $nodes) }}{{ end -}}
{{ $nodes }}
{{- end }}

{{/* run.yaml: the configuration with the store and the folders that the pods have. */}}
{{- define "polaris.run" -}}
{{- $config := include "polaris.userConfig" . | fromYaml -}}
{{- $store := dict "url" (include "polaris.storeUrl" .) "checksum" .Values.store.checksum -}}
{{- $inside := .Values.store.inCluster.enabled -}}
{{- $_ := set $store "path_style" (or $inside .Values.store.pathStyle) -}}
{{- with include "polaris.storeEndpoint" . }}{{ $_ := set $store "endpoint" . }}{{ end -}}
{{- with .Values.store.region | default (ternary "us-east-1" "" $inside) }}{{ $_ := set $store "region" . }}{{ end -}}
{{- $given := pick ($config.store | default dict) "part_mib" "parallel" "retries" -}}
{{- $_ := set $config "store" (merge $store $given) -}}
{{- $nodes := include "polaris.nodes" . | int -}}
{{- if $config.train }}{{ $_ := set $config.train "nodes" $nodes }}{{ end -}}
{{- /* An arm has the machines of `train`; what it repeats of them would contradict a standalone Job, which has one. */ -}}
{{- range $config.arms }}{{ if eq (int ((. | default dict).nodes)) $nodes }}{{ $_ := unset . "nodes" }}{{ end }}{{ end -}}
{{- $folders := dict "work_dir" "/scratch/run" "report_file" "/scratch/report.html" -}}
{{- $_ := set $config "execute" (merge $folders ($config.execute | default dict)) -}}
{{ toYaml $config }}
{{- end }}

{{/* Names of the models that judge this run's trainings, as a JSON list. */}}
{{- define "polaris.trainingJudges" -}}
{{- $run := include "polaris.run" . | fromYaml -}}
{{- $models := list -}}
{{- range $training := prepend (values ($run.arms | default dict)) $run.train -}}
{{- $judge := ($training | default dict).judge | default ($run.train | default dict).judge -}}
{{- with get $run.judges ($judge | default "") }}{{ $models = append $models .model }}{{ end -}}
{{- end -}}
{{ $models | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Names of the models that this run serves, as a JSON list. */}}
{{- define "polaris.served" -}}
{{- $run := include "polaris.run" . | fromYaml -}}
{{- $served := list -}}
{{- range $name, $model := $run.models -}}
{{- if eq (($model.serve).engine | default "vllm") "transformers" }}{{ fail (printf "config.models.%s.serve.engine: value 'transformers'; expected vllm, which the images have" $name) }}{{ end -}}
{{- if has $model.kind (list "checkpoint" "trained") }}{{ $served = append $served $name }}{{ end -}}
{{- end -}}
{{- range $name, $_ := .Values.serving.models -}}
{{- if not (has $name $served) }}{{ fail (printf "serving.models.%s: no model of the configuration that the run serves; expected one of: %s" $name (join ", " $served)) }}{{ end -}}
{{- end -}}
{{ $served | sortAlpha | toJson }}
{{- end }}

{{/* URLs of the models that somebody else serves, as a JSON list. */}}
{{- define "polaris.endpoints" -}}
{{- $run := include "polaris.run" . | fromYaml -}}
{{- $urls := list -}}
{{- range $run.models }}{{ if eq .kind "endpoint" }}{{ $urls = append $urls .url }}{{ end }}{{ end -}}
{{ $urls | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Models that the orchestrator's first containers bring into the store, as a JSON list of name (optional) and source. */}}
{{- define "polaris.modelImports" -}}
{{- $imports := .Values.imports.models -}}
{{- if .Values.imports.repositories -}}
{{- $run := include "polaris.run" . | fromYaml -}}
{{- range $run.models }}{{ if .repo }}{{ $imports = append $imports (dict "source" .repo) }}{{ end }}{{ end -}}
{{- end -}}
{{ uniq $imports | toJson }}
{{- end }}

{{/* Everything in the ConfigMap, as a YAML mapping from key to text. */}}
{{- define "polaris.configData" -}}
run.yaml: |
  {{- include "polaris.run" . | nindent 2 }}
{{- $root := . }}
{{- range $kind := list "data" "train" "generate" "judge" "evaluate" "report" }}
stage-{{ $kind }}.yaml: |
  {{- include "polaris.stageJob" (dict "root" $root "kind" $kind) | nindent 2 }}
{{- end }}
{{- range $model := include "polaris.served" . | fromJsonArray }}
serve-{{ $model }}.yaml: |
  {{- include "polaris.serveDeployment" (dict "root" $root "model" $model) | nindent 2 }}
{{- end }}
{{- end }}
