//! Texts about environment variables, in one format for `RELAY_*` and `OTEL_*`.

/// Longer values are cut in messages, in characters.
const MAX_SHOWN: usize = 500;

/// The head of a reference table in Markdown.
pub(crate) const REFERENCE_HEAD: &str = "| Variable | Default | Meaning |\n|---|---|---|\n";

/// A row of a reference table. `doc` and `note` are sentences.
pub(crate) fn reference_row(
    name: &str,
    default: &str,
    doc: &str,
    allowed: &str,
    note: &str,
) -> String {
    format!("| {name} | {default} | {doc} Allowed: {allowed}.{note} |\n")
}

/// A value for a message: quoted, escaped, and of bounded length.
pub(crate) fn quote(text: &str) -> String {
    if text.chars().nth(MAX_SHOWN).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX_SHOWN).collect();
    format!("{start:?}…")
}
