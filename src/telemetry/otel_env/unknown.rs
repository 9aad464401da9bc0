//! Warnings about `OTEL_EXPORTER_OTLP_*` variables that have no effect: a mistyped name would leave an
//! exporter at its default without a trace.

use std::ffi::OsString;

use super::table::names;

const PREFIX: &str = "OTEL_EXPORTER_OTLP_";
/// Variables of the signal that the relay does not export.
const LOGS_PREFIX: &str = "OTEL_EXPORTER_OTLP_LOGS_";
/// Below this similarity, no name is suggested.
const MIN_SIMILARITY: f64 = 0.6;

/// The warning about the variable `name`, if it belongs to the OTLP exporters and is not supported. It
/// does not contain the value, which may be a secret.
pub(super) fn warning(name: &OsString) -> Option<String> {
    let name = name.to_string_lossy();
    let rest = name.strip_prefix(PREFIX)?;
    let known = names();
    if known.iter().any(|known| *known == name) {
        return None;
    }
    let shown = name.escape_debug();
    if name.starts_with(LOGS_PREFIX) {
        return Some(format!(
            "{shown} is ignored: logs are not exported over OTLP, but written to standard output"
        ));
    }
    let closest = known
        .iter()
        .filter_map(|known| {
            let bare = known.strip_prefix(PREFIX)?;
            Some((strsim::normalized_damerau_levenshtein(rest, bare), known))
        })
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = closest.map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"));
    Some(format!(
        "{shown} is ignored: the relay does not support this variable{hint}"
    ))
}
