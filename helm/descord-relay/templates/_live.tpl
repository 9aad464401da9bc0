{{- /*
What an upgrade would break, though all values are sound: seen only where the cluster can be asked.
*/ -}}
{{- define "descord-relay.check.live" -}}
{{- $name := include "descord-relay.fullname" . }}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- if $live }}
{{- $size := int (include "descord-relay.fleetSize" .) }}
{{- $there := int (dig "status" "replicas" 0 $live) }}
{{- if and (gt $there $size) (include "descord-relay.hasServices" .) }}
maxReplicas: there are {{ $there }} relays, and those from {{ $name }}-{{ $size }} on would lose their Services before they have drained: set maxReplicas to {{ $there }}, and lower it when they are gone
{{- end }}
{{- if semverCompare "<4-0" .Capabilities.HelmVersion.Version }}
{{- $service := lookup "v1" "Service" .Release.Namespace (printf "%s-0" $name) }}
{{- $ports := default .Values.ports.relay .Values.exposure.port | int | list }}
{{- if eq .Values.exposure.type "nodePort" }}
{{- $ports = append $ports (int .Values.exposure.firstNodePort) }}
{{- end }}
{{- range $port := dig "spec" "ports" list (default dict $service) }}
{{- if eq $port.name "quic" }}
{{- $now := list (int $port.port) }}
{{- if eq $.Values.exposure.type "nodePort" }}
{{- $now = append $now (int $port.nodePort) }}
{{- end }}
{{- if and (include "descord-relay.hasServices" $) (ne (toJson $now) (toJson $ports)) }}
exposure: Helm 3 would lose TCP or UDP if it changed a port that both have: delete the Services {{ $name }}-0 and so on first, or use Helm 4 with --server-side=true
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
