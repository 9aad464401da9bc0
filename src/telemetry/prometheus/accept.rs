//! Which format is asked for.

use super::Format;

impl Format {
    /// What the value of an `Accept` header asks for. Only who names OpenMetrics, and prefers it
    /// to the text format, gets it; everybody else gets the text format, whatever they accept: an
    /// answer that may be of use is better than a scrape that fails.
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

/// How much `range`, one of an `Accept` header, wants this version of the media type `name`:
/// nothing when it speaks of another one.
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
    fn whoever_prefers_open_metrics_gets_it() {
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
    fn everybody_else_gets_text() {
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
