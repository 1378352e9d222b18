{{/* Peers and ports of the network policies. */}}

{{/* Pods of the release by component: a list of names. */}}
{{- define "polaris.podsOf" -}}
podSelector:
  matchLabels: {app.kubernetes.io/name: polaris}
  matchExpressions:
    - {key: app.kubernetes.io/component, operator: In, values: {{ toJson . }}}
{{- end }}

{{/* Peers outside the cluster: the given CIDRs, or every public address. */}}
{{- define "polaris.outside" -}}
{{- range . }}
- ipBlock: {cidr: {{ . | quote }}}
{{- else }}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
- ipBlock:
    cidr: ::/0
    except: ["::1/128", "fc00::/7", "fe80::/10"]
{{- end }}
{{- end }}

{{/* Ports, as a NetworkPolicy's list: dict ports, protocols. */}}
{{- define "polaris.portList" -}}
{{- $protocols := .protocols -}}
{{- range $port := .ports }}
{{- range $protocols }}
- {protocol: {{ . }}, port: {{ int $port }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The ports of a list of URLs, as a NetworkPolicy's list. */}}
{{- define "polaris.portsOf" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $url := urlParse . -}}
{{- $given := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $ports = append $ports (int ($given | default (ternary 80 443 (eq $url.scheme "http")))) -}}
{{- end -}}
{{- include "polaris.portList" (dict "ports" (uniq $ports) "protocols" (list "TCP")) -}}
{{- end }}
