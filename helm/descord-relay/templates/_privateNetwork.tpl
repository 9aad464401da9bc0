{{- /* A private network: the swarm key, as a file. */ -}}

{{- /* Whether the relays are in a private network, which has no QUIC. */ -}}
{{- define "descord-relay.isPrivate" -}}
{{- if .Values.swarmKeySecret.name }}true{{ end }}
{{- end }}

{{- define "descord-relay.swarmKeyMount" -}}
{{- if include "descord-relay.isPrivate" . }}
- name: swarm-key
  mountPath: /etc/descord-relay/swarm-key
  readOnly: true
{{- end }}
{{- end }}

{{- /* As with the seed, the group may read Secrets: fsGroup. */ -}}
{{- define "descord-relay.swarmKeyVolume" -}}
{{- if include "descord-relay.isPrivate" . }}
- name: swarm-key
  secret:
    secretName: {{ .Values.swarmKeySecret.name }}
    defaultMode: 0440
    items:
      - key: {{ .Values.swarmKeySecret.key }}
        path: swarm.key
{{- end }}
{{- end }}
