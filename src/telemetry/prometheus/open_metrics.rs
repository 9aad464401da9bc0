//! Encodes metric families as OpenMetrics.
//!
//! The samples are those of the text format. The differences are the metadata of a family, the bounds
//! of buckets, which are floating-point numbers, and the end marker.

use std::{borrow::Cow, fmt::Write, slice};

use prometheus::{
    TextEncoder,
    proto::{MetricFamily, MetricType},
};

use crate::telemetry::Error;

/// Encodes the families, including the end marker.
///
/// # Errors
/// When a family cannot be encoded.
pub(super) fn encode(families: &[MetricFamily]) -> Result<String, Error> {
    let mut text = String::new();
    for family in families {
        // The suffixes are part of the names of samples only.
        let (suffix, kind) = match family.get_field_type() {
            MetricType::COUNTER => ("_total", "counter"),
            MetricType::HISTOGRAM => ("", "histogram"),
            _ if family.name().ends_with("_info") => ("_info", "info"),
            _ => ("", "gauge"),
        };
        let name = family.name();
        let name = name.strip_suffix(suffix).unwrap_or(name);
        let help = family.help().replace('\\', r"\\");
        let help = help.replace('"', "\\\"").replace('\n', "\\n");
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        let samples = TextEncoder::new().encode_to_string(slice::from_ref(family))?;
        for sample in samples.lines().filter(|line| !line.starts_with('#')) {
            writeln!(text, "{}", with_float_bound(sample))?;
        }
    }
    text.push_str("# EOF\n");
    Ok(text)
}

/// `sample` with the label `le="1.0"` for `le="1"`. It is the last label, and quotes in values are
/// escaped.
fn with_float_bound(sample: &str) -> Cow<'_, str> {
    let float = ["{le=\"", ",le=\""].into_iter().find_map(|label| {
        let (before, rest) = sample.rsplit_once(label)?;
        let (bound, count) = rest.split_once('"')?;
        let is_whole = bound.parse::<i64>().is_ok();
        is_whole.then(|| format!("{before}{label}{bound}.0\"{count}"))
    });
    float.map_or(Cow::Borrowed(sample), Cow::Owned)
}
