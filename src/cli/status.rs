//! The status of a relay for a person: the JSON of `/status` as text.

use std::{fmt::Write as _, time::Duration};

use anstyle::{AnsiColor, Style};
use bytesize::ByteSize;
use serde_json::{Map, Value};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const TRANSITION: Style = AnsiColor::Yellow.on_default().bold();
const LABEL: Style = Style::new().dimmed();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Renders the response of `/status`. Values that it lacks, as those of other versions, are shown as
/// `?`.
pub(super) fn render(status: &Value) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_status(&mut text, &Status(status));
    text
}

/// The JSON of the status.
struct Status<'a>(&'a Value);

impl Status<'_> {
    fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    fn number(&self, pointer: &str) -> Option<u64> {
        self.at(pointer)?.as_u64()
    }

    /// A value as text, without control characters.
    fn text(&self, pointer: &str) -> String {
        match self.at(pointer) {
            Some(Value::String(text)) => text.chars().filter(|c| !c.is_control()).collect(),
            Some(value) => value.to_string(),
            None => "?".to_owned(),
        }
    }

    fn strings(&self, pointer: &str) -> Vec<&str> {
        let items = self.at(pointer).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// `2 of 512`, or `2` without a limit.
    fn of_limit(&self, used: &str, limit: &str) -> String {
        let used = self.text(used);
        match self.number(limit) {
            Some(limit) => format!("{used} of {limit}"),
            None => format!("{used}, no limit"),
        }
    }

    fn bytes(&self, pointer: &str) -> String {
        let bytes = self.number(pointer);
        bytes.map_or_else(
            || "?".to_owned(),
            |bytes| ByteSize(bytes).display().si().to_string(),
        )
    }

    /// `3 (rate_limited 2, max_pending 1)`.
    fn refusals(&self, pointer: &str) -> String {
        let Some(counts) = self.at(pointer).and_then(Value::as_object) else {
            return "?".to_owned();
        };
        let total: u64 = counts.values().filter_map(Value::as_u64).sum();
        if total == 0 {
            return "0".to_owned();
        }
        format!("{total} ({})", by_reason(counts))
    }
}

/// The reasons with their counts, most frequent first.
fn by_reason(counts: &Map<String, Value>) -> String {
    let mut reasons: Vec<_> = counts
        .iter()
        .filter_map(|(reason, count)| Some((count.as_u64()?, reason)))
        .filter(|(count, _)| *count > 0)
        .collect();
    reasons.sort_by(|(a, _), (b, _)| b.cmp(a));
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|(count, reason)| format!("{reason} {count}"))
        .collect();
    reasons.join(", ")
}

fn write_status(text: &mut String, status: &Status<'_>) -> std::fmt::Result {
    let phase = status.text("/phase");
    let style = if phase == "ready" { GOOD } else { TRANSITION };
    let uptime = status.number("/uptime_seconds").unwrap_or_default();
    writeln!(
        text,
        "{style}{phase}{style:#}, started {} ({} ago)",
        status.text("/started_at"),
        humantime::format_duration(Duration::from_secs(uptime))
    )?;
    let mut line = |label: &str, value: &str| writeln!(text, "{LABEL}{label:<13}{LABEL:#} {value}");
    line("version", &status.text("/version"))?;
    line("instance", &status.text("/instance"))?;
    line("peer id", &status.text("/peer_id"))?;
    let addresses = status.strings("/addresses");
    for (index, address) in addresses.iter().enumerate() {
        line(if index == 0 { "addresses" } else { "" }, address)?;
    }
    line(
        "connections",
        &format!(
            "{} established, {} in handshake; refused: {}",
            status.text("/connections/established"),
            status.text("/connections/pending"),
            status.refusals("/connections/refused")
        ),
    )?;
    line("peers", &status.text("/peers"))?;
    line(
        "reservations",
        &status.of_limit("/reservations/active", "/reservations/limit"),
    )?;
    line(
        "circuits",
        &format!(
            "{}; {} finished, {} cut",
            status.of_limit("/circuits/active", "/circuits/limit"),
            status.text("/totals/circuits_finished"),
            status.text("/totals/circuits_cut")
        ),
    )?;
    let limits = [
        status.number("/circuits/limit_bytes").map(|bytes| {
            let size = ByteSize(bytes).display().si().to_string();
            format!("{size} in each direction")
        }),
        status
            .number("/circuits/limit_seconds")
            .map(|seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string()),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    if limits.is_empty() {
        line("circuit limit", "none")?;
    } else {
        line("circuit limit", &limits.join(", "))?;
    }
    line(
        "requests",
        &format!("refused: {}", status.refusals("/requests/refused")),
    )?;
    line("relayed", &status.bytes("/totals/bytes_relayed"))?;
    line(
        "memory",
        &match status.number("/memory/limit") {
            Some(_) => format!(
                "{} of {}",
                status.bytes("/memory/used"),
                status.bytes("/memory/limit")
            ),
            None => format!("{}, no limit", status.bytes("/memory/used")),
        },
    )?;
    line(
        "open files",
        &status.of_limit("/file_descriptors/used", "/file_descriptors/limit"),
    )?;
    let scarce: Vec<_> = scarce_resources(status).collect();
    if !scarce.is_empty() {
        let names = scarce.join(", ");
        line("scarce", &format!("{WARNING}{names}{WARNING:#}"))?;
    }
    Ok(())
}

/// The resources of which most is in use, so that address prefixes are held to their share.
fn scarce_resources<'a>(status: &'a Status<'_>) -> impl Iterator<Item = &'a str> {
    let resources = status.at("/resources").and_then(Value::as_object);
    resources
        .into_iter()
        .flatten()
        .filter(|(_, resource)| resource["is_scarce"] == true)
        .map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(status: &Value) -> String {
        anstream::adapter::strip_str(&render(status)).to_string()
    }

    #[test]
    fn status_is_a_line_for_each_subject() {
        let text = plain(&json!({
            "phase": "ready",
            "started_at": "2026-01-02T03:04:05Z",
            "uptime_seconds": 90,
            "addresses": ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2"],
            "connections": { "established": 3, "pending": 1, "refused": { "a": 1, "b": 2, "c": 0 } },
            "reservations": { "active": 2, "limit": 1024 },
            "circuits": { "active": 1, "limit": null, "limit_bytes": 1000 },
            "resources": { "connections": { "is_scarce": true }, "memory": { "is_scarce": false } },
        }));
        for line in [
            "ready, started 2026-01-02T03:04:05Z (1m 30s ago)",
            "addresses     /ip4/192.0.2.1/tcp/1",
            "              /ip4/192.0.2.1/tcp/2",
            "connections   3 established, 1 in handshake; refused: 3 (b 2, a 1)",
            "reservations  2 of 1024",
            "circuits      1, no limit; ? finished, ? cut",
            "circuit limit 1.0 kB in each direction",
            "scarce        connections",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} in {text}");
        }
    }

    #[test]
    fn unknown_responses_are_rendered() {
        for status in [
            json!({}),
            json!(null),
            json!({ "phase": "\u{1b}[31m", "addresses": 7 }),
        ] {
            let text = plain(&status);
            assert!(text.contains("peer id       ?"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
}
