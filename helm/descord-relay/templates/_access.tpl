{{- /* Who may reserve and connect: variables, files, and what is refused. */ -}}

{{- define "descord-relay.accessRules" -}}
{{- printf "%s-access" (include "descord-relay.fullname" .) }}
{{- end }}

{{- define "descord-relay.env.access" -}}
{{- $access := .Values.access }}
{{- $directory := "/etc/descord-relay" }}
{{- $variables := pick $access "reserveAllow" "reserveDeny" "connectAllow" "connectDeny" "targetAllow" "targetDeny" "file" }}
{{- if or $access.rules $access.rulesConfigMap.name }}
{{- $_ := set $variables "file" (printf "%s/access/access.rules" $directory) }}
{{- end }}
{{- if $access.url }}
{{- $variables = merge $variables (pick $access "url" "timeout" "onError" "cacheTtl" "cacheCapacity" "concurrency") }}
{{- if $access.tokenSecret.name }}
{{- $_ := set $variables "tokenFile" (printf "%s/access-token/token" $directory) }}
{{- end }}
{{- if or $access.caFile.configMap $access.caFile.secret }}
{{- $_ := set $variables "caFile" (printf "%s/access-ca/ca.crt" $directory) }}
{{- end }}
{{- end }}
{{- include "descord-relay.env.map" (dict "prefix" "RELAY_ACCESS_" "values" $variables) }}
{{- end }}

{{- /*
Directories, never single files by `subPath`: those would stay as they were when the pod started, and
the relay follows its rules.
*/ -}}
{{- define "descord-relay.accessMounts" -}}
{{- $access := .Values.access }}
{{- if or $access.rules $access.rulesConfigMap.name }}
- name: access
  mountPath: /etc/descord-relay/access
  readOnly: true
{{- end }}
{{- if $access.tokenSecret.name }}
- name: access-token
  mountPath: /etc/descord-relay/access-token
  readOnly: true
{{- end }}
{{- if or $access.caFile.configMap $access.caFile.secret }}
- name: access-ca
  mountPath: /etc/descord-relay/access-ca
  readOnly: true
{{- end }}
{{- end }}

{{- /* As with the seed, the group may read Secrets: fsGroup. */ -}}
{{- define "descord-relay.accessVolumes" -}}
{{- $access := .Values.access }}
{{- $rules := $access.rulesConfigMap }}
{{- if or $access.rules $rules.name }}
- name: access
  configMap:
    name: {{ default (include "descord-relay.accessRules" .) $rules.name }}
    items:
      - key: {{ ternary $rules.key "access.rules" (not (empty $rules.name)) }}
        path: access.rules
{{- end }}
{{- with $access.tokenSecret }}
{{- if .name }}
- name: access-token
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: token
{{- end }}
{{- end }}
{{- with $access.caFile }}
{{- if or .configMap .secret }}
- name: access-ca
  {{- if .secret }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ .configMap }}
  {{- end }}
    items:
      - key: {{ .key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- end }}

{{- define "descord-relay.check.access" -}}
{{- $access := .Values.access }}
{{- if gt (len (compact (list $access.rules $access.rulesConfigMap.name $access.file))) 1 }}
access: set only one of rules, rulesConfigMap and file
{{- end }}
{{- if and $access.caFile.configMap $access.caFile.secret }}
access.caFile: set only one of configMap and secret
{{- end }}
{{- if not $access.url }}
{{- include "descord-relay.check.accessWithoutUrl" . }}
{{- end }}
{{- $timeout := include "descord-relay.milliseconds" $access.timeout | int64 }}
{{- if and (not (kindIs "invalid" $access.timeout)) (or (lt $timeout 10) (gt $timeout 10000)) }}
access.timeout: {{ $access.timeout }} is not between 10ms and 10s
{{- end }}
{{- $ttl := include "descord-relay.milliseconds" $access.cacheTtl | int64 }}
{{- if and $ttl (lt $ttl 1000) }}
access.cacheTtl: {{ $access.cacheTtl }} is less than 1s
{{- end }}
{{- include "descord-relay.check.accessRules" . }}
{{- end }}

{{- /* Settings of the endpoint without its URL are an error: all requests that it is to decide on would be
granted. Values that are the relay's defaults are ignored. */ -}}
{{- define "descord-relay.check.accessWithoutUrl" -}}
{{- $access := .Values.access }}
{{- $told := list }}
{{- range $key := list "timeout" "cacheTtl" }}
{{- $usual := get (dict "timeout" "2000" "cacheTtl" "30000") $key }}
{{- $value := index $access $key }}
{{- if not (or (kindIs "invalid" $value) (eq (include "descord-relay.milliseconds" $value) $usual)) }}
{{- $told = append $told $key }}
{{- end }}
{{- end }}
{{- range $key, $usual := dict "onError" "fail-closed" "cacheCapacity" "8192" "concurrency" "32" }}
{{- $value := index $access $key }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) $usual)) }}
{{- $told = append $told $key }}
{{- end }}
{{- end }}
{{- if $access.tokenSecret.name }}{{ $told = append $told "tokenSecret" }}{{ end }}
{{- if or $access.caFile.configMap $access.caFile.secret }}{{ $told = append $told "caFile" }}{{ end }}
{{- range $told }}
access.{{ . }}: has no effect without access.url
{{- end }}
{{- end }}

{{- /* The form of the lines; the relay checks whether an entry is a peer or a network. The message does not
repeat the line, which may contain a client's address. */ -}}
{{- define "descord-relay.check.accessRules" -}}
{{- $lines := .Values.access.rules | default "" | trimPrefix "\ufeff" | splitList "\n" }}
{{- range $index, $line := $lines }}
{{- $rule := regexReplaceAll "#.*$" $line "" | trim }}
{{- if and $rule (not (regexMatch "^(allow|deny)\\s+(reserve|connect|target)(,(reserve|connect|target))*\\s+\\S+$" $rule)) }}
access.rules: line {{ add1 $index }} is not of the form "allow|deny scope entry"; scopes are reserve, connect and target
{{- end }}
{{- end }}
{{- end }}
