{{- /*
Changes that an upgrade would break although all values are valid. Needs access to the cluster.

Ports are the most of it. Helm 3 merges lists of ports by their numbers, and TCP and UDP have the same
one: of a number that changes, one protocol is left, and of a node port or host port that changes, one
protocol keeps the old one. With hostNetwork, Kubernetes itself adds host ports, and no merge takes
them away.
*/ -}}
{{- define "descord-relay.check.live" -}}
{{- $name := include "descord-relay.fullname" . }}
{{- $exposure := .Values.exposure }}
{{- $outside := int (default .Values.ports.relay $exposure.port) }}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace $name | default dict }}

{{- $size := int (include "descord-relay.fleetSize" .) }}
{{- $there := int (dig "status" "replicas" 0 $live) }}
{{- if and (gt $there $size) (include "descord-relay.hasServices" .) }}
maxReplicas: {{ $there }} relays are running, and those from {{ $name }}-{{ $size }} on would lose their Services before they have drained: set maxReplicas to {{ $there }}, and lower it when their pods are gone
{{- end }}

{{- $hostPort := dict "hostPort" $outside "hostNetwork" (int .Values.ports.relay) }}
{{- $wanted := list (int .Values.ports.relay) (get $hostPort $exposure.type | int) }}
{{- range $container := dig "spec" "template" "spec" "containers" list $live }}
{{- range $port := $container.ports }}
{{- if and (eq (get $port "name") "quic") (ne (toJson $wanted) (toJson (list (int $port.containerPort) (int $port.hostPort)))) }}
ports: they differ from those of the existing StatefulSet, and merging them would lose one: run kubectl -n {{ $.Release.Namespace }} delete statefulset {{ $name }} --cascade=orphan, which does not stop the relays, and upgrade again
{{- end }}
{{- end }}
{{- end }}

{{- if semverCompare "<4-0" .Capabilities.HelmVersion.Version }}
{{- $service := lookup "v1" "Service" .Release.Namespace (printf "%s-0" $name) | default dict }}
{{- $isNodePort := eq $exposure.type "nodePort" }}
{{- $wanted := list $outside ($isNodePort | ternary (int $exposure.firstNodePort) 0) }}
{{- range $port := dig "spec" "ports" list $service }}
{{- $nodePort := or $isNodePort (eq $service.spec.type "NodePort") | ternary (int $port.nodePort) 0 }}
{{- if and (include "descord-relay.hasServices" $) (eq (get $port "name") "quic") (ne (toJson $wanted) (toJson (list (int $port.port) $nodePort))) }}
exposure: the ports differ from those of the existing Services, and Helm 3 would lose TCP or UDP: run kubectl -n {{ $.Release.Namespace }} delete service -l app.kubernetes.io/instance={{ $.Release.Name }},statefulset.kubernetes.io/pod-name, and upgrade again; or use Helm 4 with --server-side=true
{{- end }}
{{- end }}
{{- include "descord-relay.check.liveDns" . }}
{{- end }}
{{- end }}

{{- /* A node port that Kubernetes assigned is not compared. */ -}}
{{- define "descord-relay.check.liveDns" -}}
{{- $name := include "descord-relay.dnsName" . }}
{{- $wanted := .Values.dns.service }}
{{- $service := .Values.dns.enabled | ternary (lookup "v1" "Service" .Release.Namespace $name) dict | default dict }}
{{- $differs := false }}
{{- range $port := dig "spec" "ports" list $service }}
{{- if eq $wanted.type "NodePort" }}
{{- $differs = or $differs (and $wanted.nodePort (ne (int $wanted.nodePort) (int $port.nodePort))) }}
{{- else }}
{{- $differs = eq $service.spec.type "NodePort" }}
{{- end }}
{{- end }}
{{- if $differs }}
dns.service: the node port differs from that of the existing Service, and Helm 3 would lose TCP or UDP: run kubectl -n {{ .Release.Namespace }} delete service {{ $name }}, and upgrade again; or use Helm 4 with --server-side=true
{{- end }}
{{- end }}
