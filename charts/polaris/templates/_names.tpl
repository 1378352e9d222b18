{{/* Names, labels and images that every other template uses. */}}

{{- define "polaris.selector" -}}
app.kubernetes.io/name: polaris
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object or a pod: dict root, component; by (who manages it), extra (mapping). */}}
{{- define "polaris.labels" -}}
{{ include "polaris.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .by | default .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image's reference: dict root, image (tools, train, serve, store). */}}
{{- define "polaris.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- $name := $image.repository -}}
{{- with ternary "" .root.Values.images.registry (eq .image "store") }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $name $image.digest }}
{{- else -}}
{{ printf "%s:%s" $name ($image.tag | default .root.Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- define "polaris.secret" -}}
{{- with .Values.credentials -}}
{{- if and .existingSecret .values }}{{ fail (printf "credentials.values: not used with credentials.existingSecret; put %s into the Secret '%s' and list them in credentials.keys" (keys .values | sortAlpha | join ", ") .existingSecret) }}{{ end -}}
{{ .existingSecret | default "polaris-credentials" }}
{{- end -}}
{{- end }}

{{/* The environment variables that the Secret holds, as a JSON list. */}}
{{- define "polaris.credentialKeys" -}}
{{- $keys := concat (keys .Values.credentials.values) .Values.credentials.keys -}}
{{- if .Values.store.inCluster.enabled }}{{ $keys = concat $keys (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY") }}{{ end -}}
{{ $keys | uniq | sortAlpha | toJson }}
{{- end }}

{{/*
Those of them that a container gets, as a JSON list: dict root, uses (what it does with them: store; models, those that others
serve; hub; other, what only the user knows).
*/}}
{{- define "polaris.keysFor" -}}
{{- $run := include "polaris.run" .root | fromYaml -}}
{{- $models := list -}}
{{- range $run.models }}{{ if eq .kind "endpoint" }}{{ $models = append $models (.api_key_env | default "OPENAI_API_KEY") }}{{ end }}{{ end -}}
{{- $uses := .uses -}}
{{- $kept := list -}}
{{- range $key := include "polaris.credentialKeys" .root | fromJsonArray -}}
{{- $is := list -}}
{{- if has $key $models }}{{ $is = append $is "models" }}{{ end -}}
{{- if eq $key "HF_TOKEN" }}{{ $is = append $is "hub" }}{{ end -}}
{{- if not $is }}{{ $is = list (ternary "store" "other" (hasPrefix "AWS_" $key)) }}{{ end -}}
{{- $wanted := false -}}
{{- range $is }}{{ if has . $uses }}{{ $wanted = true }}{{ end }}{{ end -}}
{{- if $wanted }}{{ $kept = append $kept $key }}{{ end -}}
{{- end -}}
{{ $kept | toJson }}
{{- end }}

{{/* What a stage of a kind does with keys, as a JSON list. */}}
{{- define "polaris.usesOf" -}}
{{ ternary (list "store" "other" "models") (list "store" "other") (has . (list "train" "generate" "judge")) | toJson }}
{{- end }}

{{/* A memory quantity in MiB. */}}
{{- define "polaris.mib" -}}
{{- $unit := regexFind "[a-zA-Z]+$" (toString .) -}}
{{- $bytes := dict "" 1 "k" 1e3 "Ki" 1024 "M" 1e6 "Mi" 1048576 "G" 1e9 "Gi" 1073741824 "T" 1e12 "Ti" 1099511627776 -}}
{{ divf (mulf (toString . | trimSuffix $unit | float64) (get $bytes $unit | default 1)) 1048576 }}
{{- end }}

{{/* Settings of a kind's pods: the defaults with the kind's own over them. */}}
{{- define "polaris.stageSettings" -}}
{{ mergeOverwrite (deepCopy .root.Values.stages.defaults) (deepCopy (index .root.Values.stages .kind | default dict)) | toYaml }}
{{- end }}

{{/* Settings of a served model's pod: dict root, model. */}}
{{- define "polaris.servingSettings" -}}
{{- $serving := .root.Values.serving -}}
{{ mergeOverwrite (omit (deepCopy $serving) "models" "podMonitor") (deepCopy (index $serving.models .model | default dict)) | toYaml }}
{{- end }}
