{{/* The orchestrator's Job without its name: dict root, hash. */}}

{{- define "polaris.orchestratorSpec" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $settings := $values.orchestrator -}}
{{- $field := dict "fieldRef" (dict "fieldPath" "metadata.namespace") -}}
{{- $env := list (dict "name" "POLARIS_NAMESPACE" "valueFrom" $field) (dict "name" "POLARIS_RELEASE" "value" $root.Release.Name) (dict "name" "POLARIS_ORCHESTRATOR" "value" .hash) -}}
{{- $args := list "orchestrate" "/etc/polaris/run.yaml" "--manifests" "/etc/polaris" -}}
{{- range $model := include "polaris.served" $root | fromJsonArray -}}
{{- $serving := include "polaris.servingSettings" (dict "root" $root "model" $model) | fromYaml -}}
{{- if $serving.keep }}{{ $args = concat $args (list "--keep" $model) }}{{ end -}}
{{- end -}}
{{- $init := list -}}
{{- range $index, $import := include "polaris.modelImports" $root | fromJsonArray -}}
{{- $words := list "model" "import" $import.source "/etc/polaris/run.yaml" "--wait" "120" -}}
{{- with $import.name }}{{ $words = concat $words (list "--name" .) }}{{ end -}}
{{- $init = append $init (dict "name" (printf "import-model-%d" $index) "image" $values.imports.image "args" $words "resources" $values.imports.resources "uses" (list "store" "hub")) -}}
{{- end -}}
{{- with $values.imports.data -}}
{{- $words := concat (list "data" "import") . (list "/etc/polaris/run.yaml" "--wait" "120") -}}
{{- $init = append $init (dict "name" "import-data" "image" $values.imports.image "args" $words "resources" $values.imports.resources) -}}
{{- end -}}
{{- $container := dict "name" "orchestrator" "image" "tools" "args" $args "env" $env -}}
{{- $names := list "orchestrator" -}}
{{- range $init }}{{ $names = append $names .name }}{{ end -}}
{{- include "polaris.jobLimits" $settings }}
podFailurePolicy: {{- include "polaris.podFailurePolicy" $names | nindent 2 }}
template:
  metadata:
    labels: {{- include "polaris.labels" (dict "root" $root "component" "orchestrator") | nindent 6 }}
    annotations:
      checksum/config: {{ include "polaris.configData" $root | sha256sum | quote }}
      checksum/credentials: {{ $values.credentials | toJson | sha256sum | quote }}
  spec: {{- include "polaris.podSpec" (dict "root" $root "settings" $settings "account" "polaris-orchestrator" "token" true "restart" "Never" "init" $init "containers" (list $container) "config" true "extras" true) | nindent 4 }}
{{- end }}
