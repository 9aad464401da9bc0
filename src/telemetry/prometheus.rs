//! The metrics as Prometheus reads them: as OpenMetrics, or in its own older text format.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{
    Registry, TextEncoder,
    proto::{Histogram, Metric, MetricFamily, MetricType},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType as OpenMetricsType,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::Error;

/// What every counter's name ends in. In OpenMetrics the end belongs to the sample alone.
const COUNTER_SUFFIX: &str = "_total";
/// The same of what only has labels.
const INFO_SUFFIX: &str = "_info";

/// Reads the metrics when it is asked to. Clones share everything.
#[derive(Clone, Debug)]
pub struct Prometheus {
    registry: Registry,
    /// One reading at a time: whoever asks in a loop only waits for themselves.
    turn: Arc<Semaphore>,
}

impl Prometheus {
    /// Comes with the reader that the instruments have to be given.
    pub(super) fn new() -> Result<(Self, PrometheusExporter), Error> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        let turn = Arc::new(Semaphore::new(1));
        Ok((Self { registry, turn }, reader))
    }

    /// The value of every instrument at this moment.
    ///
    /// # Errors
    /// When they cannot be put into that format, which would be a fault of the relay.
    pub async fn read(&self, format: Format) -> Result<String, Error> {
        let turn = Arc::clone(&self.turn).acquire_owned().await?;
        let registry = self.registry.clone();
        // It locks the books and reads files: nothing for a thread that relays.
        let read = spawn_blocking(move || {
            let text = format.render(registry.gather());
            drop(turn);
            text
        });
        read.await?
    }
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) 1.0.
    OpenMetrics,
    /// The [text format](https://prometheus.io/docs/instrumenting/exposition_formats/) 0.0.4.
    Text,
}

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

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    fn render(self, families: Vec<MetricFamily>) -> Result<String, Error> {
        match self {
            Self::OpenMetrics => {
                let mut registry = prometheus_client::registry::Registry::default();
                registry.register_collector(Box::new(Families(families)));
                let mut text = String::new();
                text::encode(&mut text, &registry)?;
                Ok(text)
            }
            Self::Text => Ok(TextEncoder::new().encode_to_string(&families)?),
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

/// What was gathered, for the encoder of OpenMetrics.
#[derive(Debug)]
struct Families(Vec<MetricFamily>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let (name, kind) = match family.get_field_type() {
                MetricType::COUNTER => {
                    let name = family.name().strip_suffix(COUNTER_SUFFIX);
                    (name.unwrap_or(family.name()), OpenMetricsType::Counter)
                }
                MetricType::HISTOGRAM => (family.name(), OpenMetricsType::Histogram),
                _ => match family.name().strip_suffix(INFO_SUFFIX) {
                    Some(name) => (name, OpenMetricsType::Info),
                    None => (family.name(), OpenMetricsType::Gauge),
                },
            };
            let help = escaped(family.help())?;
            let mut samples = encoder.encode_descriptor(name, &help, None, kind)?;
            for metric in family.get_metric() {
                encode_sample(&mut samples, kind, metric)?;
            }
        }
        Ok(())
    }
}

fn encode_sample(
    samples: &mut MetricEncoder<'_>,
    kind: OpenMetricsType,
    metric: &Metric,
) -> fmt::Result {
    let labels = metric.get_label().iter();
    let labels: Vec<_> = labels.map(|label| (label.name(), label.value())).collect();
    if matches!(kind, OpenMetricsType::Info) {
        return samples.encode_info(&labels);
    }
    let mut sample = samples.encode_family(&labels)?;
    match kind {
        OpenMetricsType::Counter => {
            sample.encode_counter::<NoLabelSet, f64, f64>(&metric.get_counter().get_value(), None)
        }
        OpenMetricsType::Histogram => {
            let histogram = metric.get_histogram();
            let (sum, count) = (histogram.get_sample_sum(), histogram.get_sample_count());
            sample.encode_histogram::<NoLabelSet>(sum, count, &buckets(histogram), None)
        }
        _ => sample.encode_gauge(&metric.get_gauge().get_value()),
    }
}

/// The upper bound of each bucket, and what is in it alone: that one has what is in those below it
/// as well.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounded = histogram.get_bucket().iter();
    let bounded = bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let all = (f64::INFINITY, histogram.get_sample_count());
    let mut below = 0;
    bounded
        .chain([all])
        .map(|(bound, count)| {
            let alone = count.saturating_sub(below);
            below = count;
            (bound, alone)
        })
        .collect()
}

/// As a description has to be written, which the encoder leaves to us.
fn escaped(help: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(help.len());
    for character in help.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '"' | '\\' => write!(text, "\\{character}")?,
            _ => text.push(character),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        KeyValue,
        metrics::{Meter, MeterProvider},
    };
    use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

    use super::*;

    /// Both formats of what `record` does.
    fn rendered(record: impl FnOnce(&Meter)) -> (String, String) {
        let (prometheus, reader) = Prometheus::new().unwrap();
        let name = KeyValue::new("service.name", "a \"relay\"");
        let provider = SdkMeterProvider::builder()
            .with_resource(Resource::builder_empty().with_attribute(name).build())
            .with_reader(reader)
            .build();
        record(&provider.meter("test"));
        let written = |format: Format| format.render(prometheus.registry.gather()).unwrap();
        (written(Format::OpenMetrics), written(Format::Text))
    }

    #[test]
    fn both_formats_say_the_same_each_in_its_way() {
        let (open_metrics, text) = rendered(|meter| {
            let counter = meter.u64_counter("some.io").with_unit("By");
            let counter = counter.with_description("Says \"so\" \\ much.").build();
            counter.add(3, &[KeyValue::new("who", "\\a\n\"b\"")]);
            let count = meter.i64_up_down_counter("some.active").with_unit("{one}");
            count.with_description("Some.").build().add(2, &[]);
            let histogram = meter.f64_histogram("some.time").with_unit("s");
            let histogram = histogram.with_boundaries(vec![0.5, 1.0]).build();
            for time in [0.25, 0.5, 0.75, 4.0] {
                histogram.record(time, &[KeyValue::new("end", "eof")]);
            }
        });
        let expected = r#"# HELP some_active Some.
# TYPE some_active gauge
some_active{} 2.0
# HELP some_io_bytes Says \"so\" \\ much.
# TYPE some_io_bytes counter
some_io_bytes_total{who="\\a\n\"b\""} 3.0
# HELP some_time_seconds 
# TYPE some_time_seconds histogram
some_time_seconds_sum{end="eof"} 5.5
some_time_seconds_count{end="eof"} 4
some_time_seconds_bucket{le="0.5",end="eof"} 2
some_time_seconds_bucket{le="1.0",end="eof"} 3
some_time_seconds_bucket{le="+Inf",end="eof"} 4
# HELP target Target metadata
# TYPE target info
target_info{service_name="a \"relay\""} 1
# EOF
"#;
        assert_eq!(open_metrics, expected);
        let expected = r#"# HELP some_active Some.
# TYPE some_active gauge
some_active 2
# HELP some_io_bytes_total Says "so" \\ much.
# TYPE some_io_bytes_total counter
some_io_bytes_total{who="\\a\n\"b\""} 3
# TYPE some_time_seconds histogram
some_time_seconds_bucket{end="eof",le="0.5"} 2
some_time_seconds_bucket{end="eof",le="1"} 3
some_time_seconds_bucket{end="eof",le="+Inf"} 4
some_time_seconds_sum{end="eof"} 5.5
some_time_seconds_count{end="eof"} 4
# HELP target_info Target metadata
# TYPE target_info gauge
target_info{service_name="a \"relay\""} 1
"#;
        assert_eq!(text, expected);
    }

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
