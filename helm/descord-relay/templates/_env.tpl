{{- /* The environment of the containers. */ -}}

{{- /* Who the pod is. First of all, as `$(…)` knows only what comes before it. */ -}}
{{- define "descord-relay.env.pod" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
- name: RELAY_INSTANCE
  value: $(POD_NAME)
{{- end }}

{{- /*
The variables of a map: give it `prefix` and `values`. `maxCircuits` is RELAY_MAX_CIRCUITS, a list
is joined by commas, and what is null or an empty list is left to the relay.
*/ -}}
{{- define "descord-relay.env.map" -}}
{{- $prefix := .prefix }}
{{- range $key, $value := .values }}
{{- if kindIs "slice" $value }}
{{- $value = join "," $value }}
{{- else if kindIs "float64" $value }}
{{- /* A large number would be written as 1e+09. */ -}}
{{- $value = int64 $value }}
{{- end }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- name: {{ $prefix }}{{ snakecase $key | upper }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The seed or the keys, as files. */ -}}
{{- define "descord-relay.env.identity" -}}
{{- if .Values.identity.keysSecret }}
- name: RELAY_IDENTITY_KEY_FILE
  value: /etc/descord-relay/identity/$(POD_NAME)
{{- else }}
- name: RELAY_IDENTITY_SEED_FILE
  value: /etc/descord-relay/identity/seed
{{- end }}
{{- end }}

{{- /* Where the endpoints for operators listen; with hostNetwork, unless told otherwise, for the
node alone: no NetworkPolicy protects them there. */ -}}
{{- define "descord-relay.adminHost" -}}
{{- $loopback := eq .Values.exposure.type "hostNetwork" | ternary "127.0.0.1" "0.0.0.0" }}
{{- default $loopback .Values.admin.host }}
{{- end }}

{{- /* What telemetry needs: give it `context`, `component` and `workload`, an attribute that names
what the pod belongs to. */ -}}
{{- define "descord-relay.env.telemetry" -}}
{{- $telemetry := .context.Values.telemetry }}
{{- $attributes := dict
      "k8s.namespace.name" .context.Release.Namespace
      "k8s.pod.name" "$(POD_NAME)"
      "k8s.pod.uid" "$(POD_UID)"
      "k8s.node.name" "$(NODE_NAME)"
      "k8s.container.name" .component }}
{{- $attributes = merge $attributes .workload }}
{{- $attributes = merge (default dict $telemetry.resourceAttributes | deepCopy) $attributes }}
{{- $pairs := list }}
{{- range $key, $value := $attributes }}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) }}
{{- end }}
{{- with $telemetry.logFilter }}
- name: RUST_LOG
  value: {{ . | quote }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $pairs | quote }}
{{- with $telemetry.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ $telemetry.protocol | quote }}
{{- if not $telemetry.traces }}
- name: OTEL_TRACES_EXPORTER
  value: none
{{- end }}
{{- if not $telemetry.metrics }}
- name: OTEL_METRICS_EXPORTER
  value: none
{{- end }}
{{- if $telemetry.headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ $telemetry.headersSecret.name }}
      key: {{ $telemetry.headersSecret.key }}
{{- end }}
{{- end }}
{{- end }}

{{- define "descord-relay.env.relay" -}}
{{ include "descord-relay.env.pod" . }}
{{- include "descord-relay.env.identity" . }}
{{- if include "descord-relay.isPrivate" . }}
- name: RELAY_SWARM_KEY_FILE
  value: /etc/descord-relay/swarm-key/swarm.key
{{- end }}
- name: RELAY_LISTEN_ADDRESSES
  value: {{ include "descord-relay.listenAddresses" . | quote }}
- name: RELAY_EXTERNAL_ADDRESSES
  value: {{ include "descord-relay.externalAddresses" . | quote }}
- name: RELAY_ADMIN_ADDRESS
  value: {{ printf "%s:%d" (include "descord-relay.adminHost" .) (int .Values.ports.admin) | quote }}
{{- with .Values.dns.zone }}
# Not for the relay itself, but for `descord-relay dnsaddr` in its pod.
- name: RELAY_DNS_ZONE
  value: {{ . | quote }}
{{- end }}
{{- include "descord-relay.env.map" (dict "prefix" "RELAY_" "values" (omit .Values.relay "listenAddresses")) }}
{{- include "descord-relay.env.map" (dict "prefix" "RELAY_DRAIN_" "values" (pick .Values.drain "delay" "window" "timeout")) }}
{{- include "descord-relay.env.access" . }}
{{- $workload := dict "k8s.statefulset.name" (include "descord-relay.fullname" .) }}
{{- include "descord-relay.env.telemetry" (dict "context" . "component" "relay" "workload" $workload) }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "descord-relay.env.dns" -}}
{{ include "descord-relay.env.pod" . }}
{{- if not .Values.identity.keysSecret }}
{{- include "descord-relay.env.identity" . }}
- name: RELAY_FLEET_INSTANCES
  value: {{ include "descord-relay.instances" . | quote }}
{{- end }}
- name: RELAY_DNS_RELAYS
  # The dot at the end keeps search lists out of it.
  value: {{ printf "%s.:%d" (include "descord-relay.internalName" .) (int .Values.ports.admin) | quote }}
- name: RELAY_ADMIN_ADDRESS
  value: {{ printf "%s:%d" (default "0.0.0.0" .Values.dns.adminHost) (int .Values.ports.admin) | quote }}
- name: RELAY_LOG_FORMAT
  value: {{ .Values.relay.logFormat | quote }}
{{- $dns := pick .Values.dns "zone" "listen" "ttl" "rateLimit" }}
{{- include "descord-relay.env.map" (dict "prefix" "RELAY_DNS_" "values" $dns) }}
{{- with .Values.dns.nameServers }}
- name: RELAY_DNS_NS
  value: {{ join "," . | quote }}
{{- end }}
{{- $workload := dict "k8s.deployment.name" (include "descord-relay.dnsName" .) }}
{{- include "descord-relay.env.telemetry" (dict "context" . "component" "dns" "workload" $workload) }}
{{- with .Values.dns.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
