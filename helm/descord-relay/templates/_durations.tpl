{{- /*
Durations as the relay reads them, `90s`, `5m` or `1h 30m`, in milliseconds. The schema has seen to
it that there is nothing else in them; `0` is zero.
*/ -}}
{{- define "descord-relay.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 }}
{{- $sum := 0 }}
{{- range $part := regexFindAll "[0-9]+ *(ms|s|m|h|d)" (toString .) -1 }}
{{- $unit := regexFind "[a-z]+" $part }}
{{- $sum = add $sum (mul (int64 (regexFind "[0-9]+" $part)) (get $units $unit)) }}
{{- end }}
{{- $sum }}
{{- end }}

{{- /* How long one circuit may last: null leaves it to the relay; 0 is unlimited. In milliseconds. */ -}}
{{- define "descord-relay.longestCircuit" -}}
{{- $duration := .Values.relay.maxCircuitDuration }}
{{- include "descord-relay.milliseconds" (kindIs "invalid" $duration | ternary "1h" $duration) }}
{{- end }}

{{- /*
How long circuits may take to end. null leaves it to the relay: a minute more than the longest one,
or, if that is unlimited, than an hour. In milliseconds.
*/ -}}
{{- define "descord-relay.drainTimeout" -}}
{{- $timeout := .Values.drain.timeout }}
{{- if kindIs "invalid" $timeout }}
{{- $circuit := include "descord-relay.longestCircuit" . | int64 }}
{{- add 60000 ($circuit | default 3600000) }}
{{- else }}
{{- include "descord-relay.milliseconds" $timeout }}
{{- end }}
{{- end }}

{{- /*
What Kubernetes grants a relay to end: the delay, the time for its circuits, and half a minute for
close frames, the last export, and the way of the signal. In seconds.
*/ -}}
{{- define "descord-relay.gracePeriod" -}}
{{- $delay := include "descord-relay.milliseconds" .Values.drain.delay | int64 }}
{{- $timeout := include "descord-relay.drainTimeout" . | int64 }}
{{- add 30 (div (add $delay $timeout 999) 1000) }}
{{- end }}
