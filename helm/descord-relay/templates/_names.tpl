{{- /* Names, labels and the image. */ -}}

{{- define "descord-relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /*
The StatefulSet's name. Its pods add a number, and the peer ids follow from their names. Labels and
names have 63 characters; Kubernetes appends a hash of eleven to this one, and we up to twelve. A
release may have a dot in its name, a Service may not.
*/ -}}
{{- define "descord-relay.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "descord-relay.headless" -}}
{{- printf "%s-headless" (include "descord-relay.fullname" .) }}
{{- end }}

{{- define "descord-relay.dnsName" -}}
{{- printf "%s-dns" (include "descord-relay.fullname" .) }}
{{- end }}

{{- define "descord-relay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "descord-relay.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The most relays that there will be: so many names and Services there are. */ -}}
{{- define "descord-relay.fleetSize" -}}
{{- max (int .Values.replicas) (int .Values.maxReplicas) }}
{{- end }}

{{- /* The pods' names, with commas. */ -}}
{{- define "descord-relay.instances" -}}
{{- $names := list }}
{{- range $index := until (int (include "descord-relay.fleetSize" .)) }}
{{- $names = append $names (printf "%s-%d" (include "descord-relay.fullname" $) $index) }}
{{- end }}
{{- join "," $names }}
{{- end }}

{{- /* The name of all relays inside the cluster; that of one has its pod's name before it. */ -}}
{{- define "descord-relay.internalName" -}}
{{- printf "%s.%s.svc.%s" (include "descord-relay.headless" .) .Release.Namespace .Values.clusterDomain }}
{{- end }}

{{- /* Call these with a dictionary: `context`, and `component` (relay, dns or test). */ -}}
{{- define "descord-relay.selectorLabels" -}}
app.kubernetes.io/name: {{ include "descord-relay.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "descord-relay.labels" -}}
{{ include "descord-relay.selectorLabels" . }}
app.kubernetes.io/part-of: descord-relay
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" }}
{{- with .context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "descord-relay.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}
