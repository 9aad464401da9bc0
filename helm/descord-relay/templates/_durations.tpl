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

{{- /*
What Kubernetes grants a relay to end: the delay, the time for its circuits, and half a minute for
close frames, the last export, and the way of the signal. In seconds.
*/ -}}
{{- define "descord-relay.gracePeriod" -}}
{{- $drain := .Values.drain }}
{{- $delay := include "descord-relay.milliseconds" $drain.delay | int64 }}
{{- $timeout := include "descord-relay.milliseconds" $drain.timeout | int64 }}
{{- add 30 (div (add $delay $timeout 999) 1000) }}
{{- end }}
