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
{{ .Values.credentials.existingSecret | default "polaris-credentials" }}
{{- end }}

{{/* The environment variables that the Secret holds, as a JSON list. */}}
{{- define "polaris.credentialKeys" -}}
{{- $keys := concat (keys .Values.credentials.values) .Values.credentials.keys -}}
{{- if .Values.store.inCluster.enabled }}{{ $keys = concat $keys (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY") }}{{ end -}}
{{ $keys | uniq | sortAlpha | toJson }}
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
