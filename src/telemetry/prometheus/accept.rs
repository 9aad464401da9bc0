//! Content negotiation.

use super::Format;

impl Format {
    /// The format for an `Accept` header: OpenMetrics if the header names it and prefers it to the text
    /// format, otherwise the text format, even if the header does not accept it, so that no scrape
    /// fails.
    pub fn accepted(header: &str) -> Self {
        let quality = |name: &str, version: &str| {
            header
                .split(',')
                .filter_map(|range| quality(range, name, version))
                .fold(0.0, f32::max)
        };
        let open_metrics = quality("application/openmetrics-text", "1.0.0");
        if open_metrics > quality("text/plain", "0.0.4") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// The quality of this version of the media type `name` in `range`, an item of an `Accept` header; `None`
/// for another media type or version.
fn quality(range: &str, name: &str, version: &str) -> Option<f32> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(name) {
        return None;
    }
    let mut quality = 1.0;
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key.trim().to_ascii_lowercase().as_str() {
            "version" if value.trim() != version => return None,
            "q" => quality = value.trim().parse().ok()?,
            _ => {}
        }
    }
    Some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_used_if_preferred() {
        for header in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "Application/OpenMetrics-Text;Version=1.0.0;Q=0.2",
            "*/*, application/openmetrics-text",
            // Prometheus 2.42 and 3.5.
            "application/openmetrics-text;version=1.0.0,\
             application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
             */*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
             */*;q=0.2",
        ] {
            assert_eq!(Format::accepted(header), Format::OpenMetrics, "{header}");
        }
    }

    #[test]
    fn text_is_used_otherwise() {
        for header in [
            "",
            "*/*",
            "application/*",
            "text/plain",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;q=much",
            "application/openmetrics-text;q=NaN",
            "application/openmetrics-textual",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily",
            ";;,=,;q=,,",
        ] {
            assert_eq!(Format::accepted(header), Format::Text, "{header}");
        }
    }
}
