{{/* The one pod of this chart: every Job, Deployment and test renders its pod through "polaris.podSpec". */}}

{{/*
A pod's spec. dict:
  root, settings (resources, nodeSelector, tolerations, affinity, runtimeClassName, priorityClassName,
  terminationGracePeriodSeconds, scratch, tmp, shm, env), account, token (bool), restart,
  init and containers (lists for "polaris.container"), claim (a claim to use as /scratch), scratches (sizes of further
  scratch volumes by name),
  subdomain, config (bool: mount the ConfigMap), extras (bool: the user's extra volumes).
*/}}
{{- define "polaris.podSpec" -}}
{{- $pod := . -}}
{{- $settings := .settings -}}
{{- $gpus := 0 -}}
{{- range concat (.init | default list) .containers }}{{ $gpus = add $gpus (.gpus | default 0 | int) }}{{ end -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
{{- with .restart }}
restartPolicy: {{ . }}
{{- end }}
{{- with .subdomain }}
subdomain: {{ . }}
{{- end }}
{{- with $settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $settings.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ int64 $settings.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $settings.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $settings.tolerations | default list -}}
{{- if $gpus }}{{ $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}{{ end -}}
{{- with uniq $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .init }}
initContainers:
  {{- range . }}
  - {{ include "polaris.container" (dict "pod" $pod "container" .) | indent 4 | trim }}
  {{- end }}
{{- end }}
containers:
  {{- range .containers }}
  - {{ include "polaris.container" (dict "pod" $pod "container" .) | indent 4 | trim }}
  {{- end }}
volumes:
  - name: scratch
    {{- if .claim }}
    persistentVolumeClaim: {claimName: {{ .claim }}}
    {{- else }}
    emptyDir: {sizeLimit: {{ $settings.scratch.size }}}
    {{- end }}
  {{- range $name, $size := .scratches }}
  - name: {{ $name }}
    emptyDir: {sizeLimit: {{ $size }}}
  {{- end }}
  - name: tmp
    emptyDir: {sizeLimit: {{ $settings.tmp.size }}}
  {{- with ($settings.shm).size }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ . }}}
  {{- end }}
  {{- if .config }}
  - name: config
    configMap: {name: polaris-config}
  {{- end }}
  {{- if .extras }}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end }}

{{/*
One container of a pod. dict pod, container: name, image (tools, train, serve, store), args; optional command, env (list), variables (mapping), gpus,
resources (else the pod's), more (mapping that goes in as it is: ports, probes, lifecycle, restartPolicy), volume and scratch
(name and mount path of its scratch space), uses (of keys, for "polaris.keysFor"; else the store's alone).
*/}}
{{- define "polaris.container" -}}
{{- $pod := .pod -}}
{{- $root := .pod.root -}}
{{- with .container -}}
name: {{ .name }}
image: {{ include "polaris.image" (dict "root" $root "image" .image) }}
imagePullPolicy: {{ $root.Values.images.pullPolicy }}
{{- with .command }}
command: {{ toJson . }}
{{- end }}
args: {{ toJson .args }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
env: {{- include "polaris.env" (dict "pod" $pod "container" .) | nindent 2 }}
{{- $resources := deepCopy (.resources | default $pod.settings.resources) }}
{{- $gpus := .gpus | default 0 | int }}
{{- if $gpus }}
{{- $_ := set $resources "requests" (merge (dict "nvidia.com/gpu" (toString $gpus)) ($resources.requests | default dict)) }}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" (toString $gpus)) ($resources.limits | default dict)) }}
{{- end }}
resources: {{- toYaml $resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: {{ .volume | default "scratch" }}, mountPath: {{ .scratch | default "/scratch" }}}
  - {name: tmp, mountPath: /tmp}
  {{- if ($pod.settings.shm).size }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- if $pod.config }}
  - {name: config, mountPath: /etc/polaris, readOnly: true}
  {{- end }}
  {{- if $pod.extras }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A container's environment: of two entries of one name the later one stands, for an object may name a variable once. */}}
{{- define "polaris.env" -}}
{{- $root := .pod.root -}}
{{- $all := list -}}
{{- if .pod.config -}}
{{- $all = concat $all (include "polaris.commonEnv" $root | fromYamlArray) -}}
{{- end -}}
{{- range $key := include "polaris.keysFor" (dict "root" $root "uses" (.container.uses | default (list "store"))) | fromJsonArray -}}
{{- $all = append $all (dict "name" $key "valueFrom" (dict "secretKeyRef" (dict "name" (include "polaris.secret" $root) "key" $key))) -}}
{{- end -}}
{{- range $name, $value := merge (dict) (.container.variables | default dict) (.pod.settings.env | default dict) -}}
{{- $all = append $all (dict "name" $name "value" (toString $value)) -}}
{{- end -}}
{{- $all = concat $all (.container.env | default list) -}}
{{- if .pod.extras }}{{ $all = concat $all $root.Values.extraEnv }}{{ end -}}
{{- $seen := dict -}}
{{- $kept := list -}}
{{- range reverse $all -}}
{{- if not (hasKey $seen .name) }}{{ $_ := set $seen .name true }}{{ $kept = prepend $kept . }}{{ end -}}
{{- end -}}
{{ toYaml $kept }}
{{- end }}

{{- define "polaris.commonEnv" -}}
- {name: POLARIS_LOG, value: json}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: HOME, value: /scratch/home}
- {name: XDG_CACHE_HOME, value: /scratch/cache}
- {name: HF_HOME, value: /scratch/cache/huggingface}
- {name: VLLM_CACHE_ROOT, value: /scratch/cache/vllm}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /scratch/cache/torchinductor}
- {name: TRITON_CACHE_DIR, value: /scratch/cache/triton}
- {name: TORCH_EXTENSIONS_DIR, value: /scratch/cache/torch-extensions}
- {name: MPLCONFIGDIR, value: /scratch/cache/matplotlib}
{{- end }}

{{/* Pod failure policy: a disrupted pod costs no try, a final exit code (architecture.md) none more. */}}
{{- define "polaris.podFailurePolicy" -}}
rules:
  - action: Ignore
    onPodConditions:
      - {type: DisruptionTarget, status: "True"}
  {{- range . }}
  - action: FailJob
    onExitCodes: {containerName: {{ . }}, operator: In, values: [2, 3, 4, 5]}
  {{- end }}
{{- end }}
