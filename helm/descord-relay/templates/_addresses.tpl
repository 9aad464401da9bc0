{{- /* Where the relays listen, and what they announce. */ -}}

{{- /* Whether each relay has a Service of its own. */ -}}
{{- define "descord-relay.hasServices" -}}
{{- if has .Values.exposure.type (list "clusterIP" "nodePort" "loadBalancer") }}true{{ end }}
{{- end }}

{{- /* RELAY_LISTEN_ADDRESSES. A node without IPv6 leaves those out. */ -}}
{{- define "descord-relay.listenAddresses" -}}
{{- $addresses := list }}
{{- range $ip := list "/ip4/0.0.0.0" "/ip6/::" }}
{{- $addresses = append $addresses (printf "%s/tcp/%d" $ip (int $.Values.ports.relay)) }}
{{- if not (include "descord-relay.isPrivate" $) }}
{{- $addresses = append $addresses (printf "%s/udp/%d/quic-v1" $ip (int $.Values.ports.relay)) }}
{{- end }}
{{- if $.Values.websocket.enabled }}
{{- $addresses = append $addresses (printf "%s/tcp/%d/ws" $ip (int $.Values.websocket.port)) }}
{{- end }}
{{- end }}
{{- join "," (default $addresses .Values.relay.listenAddresses) }}
{{- end }}

{{- /*
How the announced addresses begin. `{instance}` and `{index}` are replaced by the relay, `$(…)` by
Kubernetes: one pod template serves all relays.
*/ -}}
{{- define "descord-relay.announcedHost" -}}
{{- $exposure := .Values.exposure }}
{{- if $exposure.host }}
{{- $exposure.host | trimSuffix "/" }}
{{- else if $exposure.domain }}
{{- printf "/dns4/{instance}.%s" $exposure.domain }}
{{- else if eq $exposure.type "clusterIP" }}
{{- printf "/dns4/{instance}.%s.svc.%s" .Release.Namespace .Values.clusterDomain }}
{{- else }}
{{- "/ip4/$(HOST_IP)" }}
{{- end }}
{{- end }}

{{- /*
The announced port. Node ports count up from the first one, and the relay can put its number into
an address, but not add it: so the first one ends in 0, and there are ten at most.
*/ -}}
{{- define "descord-relay.announcedPort" -}}
{{- $exposure := .Values.exposure }}
{{- if eq $exposure.type "nodePort" }}
{{- printf "%d{index}" (div (int $exposure.firstNodePort) 10) }}
{{- else if eq $exposure.type "hostNetwork" }}
{{- int .Values.ports.relay }}
{{- else }}
{{- int (default .Values.ports.relay $exposure.port) }}
{{- end }}
{{- end }}

{{- /* RELAY_EXTERNAL_ADDRESSES. */ -}}
{{- define "descord-relay.externalAddresses" -}}
{{- $host := include "descord-relay.announcedHost" . }}
{{- $port := include "descord-relay.announcedPort" . }}
{{- $own := list (printf "%s/tcp/%s" $host $port) }}
{{- if not (include "descord-relay.isPrivate" .) }}
{{- $own = append $own (printf "%s/udp/%s/quic-v1" $host $port) }}
{{- end }}
{{- $addresses := default $own .Values.exposure.externalAddresses }}
{{- if .Values.websocket.enabled }}
{{- $addresses = concat $addresses .Values.websocket.externalAddresses }}
{{- end }}
{{- join "," $addresses }}
{{- end }}

{{- /* Text with `{instance}` and `{index}` for one relay: give it `context`, `index`, and `text`. */ -}}
{{- define "descord-relay.expand" -}}
{{- $instance := printf "%s-%d" (include "descord-relay.fullname" .context) .index }}
{{- .text | replace "{instance}" $instance | replace "{index}" (toString .index) }}
{{- end }}
