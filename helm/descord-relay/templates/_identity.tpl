{{- /* Where the secret of the fleet is, and what it is. */ -}}

{{- define "descord-relay.identitySecret" -}}
{{- $own := printf "%s-identity" (include "descord-relay.fullname" .) }}
{{- coalesce .Values.identity.keysSecret .Values.identity.existingSecret $own }}
{{- end }}

{{- /*
The seed of the Secret that the chart makes, in base64. One that is there already is kept: a new one
would give every relay a new peer id. So it is empty where the cluster cannot be asked: a seed that
changes whenever the chart is rendered would be worse than none.
*/ -}}
{{- define "descord-relay.seed" -}}
{{- $name := include "descord-relay.identitySecret" . }}
{{- if .Values.identity.seed }}
{{- b64enc .Values.identity.seed }}
{{- else }}
{{- $there := lookup "v1" "Secret" .Release.Namespace $name }}
{{- $seed := dig "data" "seed" "" (default dict $there) }}
{{- if $seed }}
{{- $seed }}
{{- else if not (or (lookup "v1" "ServiceAccount" .Release.Namespace "default") (lookup "v1" "Namespace" "" "kube-system")) }}
{{- else if .Release.IsUpgrade }}
{{- fail (printf "identity: the Secret %s with the key `seed` is missing, and a new seed would change the peer id of every relay. Restore it, or set identity.existingSecret or identity.seed to the old one." $name) }}
{{- else }}
{{- randAlphaNum 48 | b64enc }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The volume with it. Files belong to root, and the group may read them: fsGroup. */ -}}
{{- define "descord-relay.identityVolume" -}}
- name: identity
  secret:
    secretName: {{ include "descord-relay.identitySecret" . }}
    defaultMode: 0440
    {{- if not .Values.identity.keysSecret }}
    items:
      - key: {{ ternary .Values.identity.seedKey "seed" (not (empty .Values.identity.existingSecret)) }}
        path: seed
    {{- end }}
{{- end }}
