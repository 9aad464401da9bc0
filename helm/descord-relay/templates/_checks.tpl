{{- /*
Values that contradict each other, or that the relay would refuse: all of them at once. What is
wrong with a value by itself, the schema says.
*/ -}}
{{- define "descord-relay.check" -}}
{{- $problems := list }}
{{- range $check := list "identity" "exposure" "access" "drain" "durations" "dns" "admin" "scaling" "environment" "live" }}
{{- range (include (printf "descord-relay.check.%s" $check) $ | splitList "\n") }}
{{- with trim . }}
{{- $problems = append $problems (printf "- %s" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "these values cannot work:\n\n%s\n" (join "\n" $problems)) }}
{{- end }}
{{- end }}

{{- define "descord-relay.check.identity" -}}
{{- $given := compact (list .Values.identity.existingSecret .Values.identity.seed .Values.identity.keysSecret) }}
{{- if gt (len $given) 1 }}
identity: set only one of existingSecret, seed and keysSecret
{{- end }}
{{- end }}

{{- define "descord-relay.check.exposure" -}}
{{- $exposure := .Values.exposure }}
{{- $size := int (include "descord-relay.fleetSize" .) }}
{{- $first := int $exposure.firstNodePort }}
{{- $own := empty $exposure.externalAddresses }}
{{- if eq $exposure.type "nodePort" }}
{{- if gt (add $first $size) 65536 }}
exposure.firstNodePort: {{ $size }} relays from {{ $first }} on need ports above 65535
{{- end }}
{{- if and $own (or (gt $size 10) (mod $first 10)) }}
exposure.firstNodePort: {{ $first }} for {{ $size }} relays cannot be announced, because the announced port is "{{ div $first 10 }}" and the relay's number: use a first port that ends in 0 for at most ten relays, set exposure.externalAddresses, or install one release per ten relays
{{- end }}
{{- if and $exposure.port (ne (int $exposure.port) (int .Values.ports.relay)) }}
exposure.port: has no effect with nodePort; the ports are exposure.firstNodePort and the following ones
{{- end }}
{{- end }}
{{- if and (eq $exposure.type "loadBalancer") $own (not $exposure.host) (not $exposure.domain) }}
exposure: a relay cannot detect the address of its load balancer: set exposure.domain, with a DNS record for each relay (exposure.externalDns creates them), or set exposure.host or exposure.externalAddresses
{{- end }}
{{- if and (eq $exposure.type "hostNetwork") $exposure.port (ne (int $exposure.port) (int .Values.ports.relay)) }}
exposure.port: with hostNetwork, the relay's own port is the external one: set ports.relay
{{- end }}
{{- if and $exposure.externalDns (not $exposure.domain) }}
exposure.externalDns: needs exposure.domain, the domain of the relays' names
{{- end }}
{{- if and .Values.websocket.enabled (empty .Values.websocket.externalAddresses) }}
websocket.externalAddresses: browsers need an address with TLS, such as /dns4/{instance}.example.org/tcp/443/tls/ws
{{- end }}
{{- $ports := list (int .Values.ports.relay) (int .Values.ports.admin) }}
{{- if .Values.websocket.enabled }}
{{- $ports = append $ports (int .Values.websocket.port) }}
{{- end }}
{{- if ne (len $ports) (len (uniq $ports)) }}
ports: the relay, its admin API and WebSocket need different ports
{{- end }}
{{- end }}

{{- define "descord-relay.check.drain" -}}
{{- $drain := .Values.drain }}
{{- $duration := .Values.relay.maxCircuitDuration }}
{{- /* With null, the default of the relay applies; 0 is unlimited. */ -}}
{{- $duration = kindIs "invalid" $duration | ternary "1h" $duration }}
{{- $circuit := include "descord-relay.longestCircuit" . | int64 }}
{{- $timeout := include "descord-relay.drainTimeout" . | int64 }}
{{- $window := include "descord-relay.milliseconds" $drain.window | int64 }}
{{- $shown := kindIs "invalid" $drain.timeout | ternary (printf "%ds" (div $timeout 1000)) $drain.timeout }}
{{- if gt $window $timeout }}
drain.window: {{ $drain.window }} is longer than drain.timeout, {{ $shown }}
{{- end }}
{{- if not (or $drain.allowCuts (and $circuit (lt $circuit $timeout))) }}
drain.timeout: {{ $shown }} must be longer than relay.maxCircuitDuration, {{ ternary (toString $duration) "unlimited" (gt $circuit 0) }}, because upgrades would cut open circuits otherwise. Change one of the two; drain.allowCuts=true permits the cuts
{{- end }}
{{- end }}

{{- /* Values with which the relay would not start. Some variables allow 0, which has a meaning there. */ -}}
{{- define "descord-relay.check.durations" -}}
{{- $least := dict "reservationTtl" "30s" "maxCircuitDuration" "1s" "unusedCircuitTimeout" "1s" "idleCircuitTimeout" "1s" "idleTimeout" "5s" "statsInterval" "1s" "peerStatsWindow" "1s" }}
{{- range $key, $least := $least }}
{{- $value := index $.Values.relay $key }}
{{- $milliseconds := include "descord-relay.milliseconds" $value | int64 }}
{{- $off := and (has $key (list "maxCircuitDuration" "unusedCircuitTimeout" "idleCircuitTimeout" "statsInterval")) (eq $milliseconds 0) }}
{{- $tooLittle := lt $milliseconds (include "descord-relay.milliseconds" $least | int64) }}
{{- if and $tooLittle (not $off) (not (kindIs "invalid" $value)) }}
relay.{{ $key }}: {{ $value }} is less than {{ $least }}
{{- end }}
{{- end }}
{{- $ttl := include "descord-relay.milliseconds" .Values.dns.ttl | int64 }}
{{- if or (lt $ttl 1000) (gt $ttl 3600000) }}
dns.ttl: {{ .Values.dns.ttl }} is not between 1s and 1h
{{- end }}
{{- end }}

{{- define "descord-relay.check.dns" -}}
{{- $dns := .Values.dns }}
{{- if $dns.enabled }}
{{- $delay := include "descord-relay.milliseconds" .Values.drain.delay | int64 }}
{{- $ttl := include "descord-relay.milliseconds" $dns.ttl | int64 }}
{{- if not $dns.zone }}
dns.zone: is required, such as fleet.example.org
{{- end }}
{{- if lt $delay (add $ttl 2000) }}
drain.delay: {{ .Values.drain.delay }} must be at least 2s longer than dns.ttl, {{ $dns.ttl }}, because resolvers would return a relay that rejects new connections otherwise
{{- end }}
{{- if gt (int (include "descord-relay.fleetSize" .)) 256 }}
dns: supports at most 256 relays
{{- end }}
{{- $domain := .Values.exposure.domain | default "" | lower }}
{{- $zone := $dns.zone | default "" | lower }}
{{- if and $zone (or (eq $domain $zone) (hasSuffix (printf ".%s" $zone) $domain)) }}
exposure.domain: {{ .Values.exposure.domain }} is in dns.zone, {{ $dns.zone }}, in which the name server takes no records from elsewhere: use a domain outside of it for the names of the relays, such as relays.example.org
{{- end }}
{{- if $dns.endpoints }}
dns.endpoints: cannot be set together with dns.enabled: they are records for another name server of the same zone
{{- end }}
{{- end }}
{{- end }}

{{- define "descord-relay.check.admin" -}}
{{- $asked := list }}
{{- if .Values.dns.enabled }}{{ $asked = append $asked "dns.enabled" }}{{ end }}
{{- if .Values.metrics.podMonitor.enabled }}{{ $asked = append $asked "metrics.podMonitor.enabled" }}{{ end }}
{{- if and $asked (has (include "descord-relay.adminHost" .) (list "127.0.0.1" "[::1]")) }}
admin.host: the admin API of the relays can be reached only from their nodes, but {{ join " and " $asked }} needs it from elsewhere: set admin.host to 0.0.0.0, and block port {{ int .Values.ports.admin }} of the nodes for the public
{{- end }}
{{- if and (ne .Values.exposure.type "hostNetwork") (has .Values.admin.host (list "127.0.0.1" "[::1]")) }}
admin.host: Kubernetes cannot probe a pod that listens on {{ .Values.admin.host }}; use this only with hostNetwork
{{- end }}
{{- if and .Values.metrics.podMonitor.enabled .Values.networkPolicy.enabled (empty .Values.networkPolicy.scrapers) }}
networkPolicy.scrapers: metrics.podMonitor.enabled needs the allowed scrapers, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
{{- end }}
{{- end }}

{{- define "descord-relay.check.scaling" -}}
{{- if and (kindIs "invalid" .Values.replicas) (kindIs "invalid" .Values.maxReplicas) }}
maxReplicas: is required if replicas is null, because it determines the number of names and Services
{{- end }}
{{- if and .Values.maxReplicas (lt (int .Values.maxReplicas) (int .Values.replicas)) }}
maxReplicas: {{ int .Values.maxReplicas }} is less than replicas, {{ int .Values.replicas }}
{{- end }}
{{- $budget := .Values.podDisruptionBudget }}
{{- if and $budget.enabled (not (kindIs "invalid" $budget.minAvailable)) (not (kindIs "invalid" $budget.maxUnavailable)) }}
podDisruptionBudget: set only one of minAvailable and maxUnavailable
{{- end }}
{{- end }}

{{- define "descord-relay.check.environment" -}}
{{- range concat (default list .Values.extraEnv) (default list .Values.dns.extraEnv) }}
{{- if hasPrefix "RELAY_" .name }}
extraEnv: set {{ .name }} by its own value of this chart
{{- end }}
{{- end }}
{{- end }}
