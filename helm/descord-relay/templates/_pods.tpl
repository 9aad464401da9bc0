{{- /* What the pods have in common. */ -}}

{{- define "descord-relay.podSpec" -}}
serviceAccountName: {{ include "descord-relay.serviceAccountName" . }}
automountServiceAccountToken: false
# Service links could be variables with the prefix RELAY_, which the relay rejects.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The image and what it may do, for any container. */ -}}
{{- define "descord-relay.container" -}}
image: {{ include "descord-relay.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Where pods may run: give it `context`, `component` and `scheduling`, the values. */ -}}
{{- define "descord-relay.scheduling" -}}
{{- $selector := include "descord-relay.selectorLabels" . | fromYaml }}
{{- $scheduling := .scheduling }}
{{- if $scheduling.affinity }}
affinity:
  {{- toYaml $scheduling.affinity | nindent 2 }}
{{- else if ne $scheduling.antiAffinity "none" }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $selector) }}
affinity:
  podAntiAffinity:
    {{- if eq $scheduling.antiAffinity "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      {{- toYaml (list $term) | nindent 6 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          {{- toYaml $term | nindent 10 }}
    {{- end }}
{{- end }}
{{- with $scheduling.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := hasKey . "labelSelector" | ternary dict (dict "labelSelector" (dict "matchLabels" $selector)) }}
  {{- list (merge (deepCopy .) $own) | toYaml | nindent 2 }}
  {{- end }}
{{- end }}
{{- with $scheduling.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $scheduling.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $scheduling.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* A probe of an endpoint for operators: give it `path` and `host`, if it is not the pod's. */ -}}
{{- define "descord-relay.httpProbe" -}}
httpGet:
  path: {{ .path }}
  port: admin
  {{- with .host }}
  host: {{ . }}
  {{- end }}
periodSeconds: {{ .period }}
timeoutSeconds: 3
failureThreshold: 3
{{- end }}
