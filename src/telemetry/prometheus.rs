//! The metrics as Prometheus reads them: as OpenMetrics, or in its own older text format.

mod accept;
mod open_metrics;

use std::sync::Arc;

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TextEncoder, proto::MetricFamily};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::Error;

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
    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    fn render(self, families: Vec<MetricFamily>) -> Result<String, Error> {
        match self {
            Self::OpenMetrics => Ok(open_metrics::encode(families)?),
            Self::Text => Ok(TextEncoder::new().encode_to_string(&families)?),
        }
    }
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
}
