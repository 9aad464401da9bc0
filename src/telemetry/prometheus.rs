//! The metrics in the exposition formats of Prometheus: OpenMetrics, and the older text format.

mod accept;
mod conventional;
mod open_metrics;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TextEncoder, proto::MetricFamily};
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use super::Error;

/// How long a rendering is reused for requests of the same format.
pub const MAX_AGE: Duration = Duration::from_secs(1);

/// Reads the metrics on request. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Prometheus {
    registry: Registry,
    /// Locked while rendering, so there is one rendering at a time.
    rendered: Arc<Mutex<RenderingCache>>,
}

/// The latest rendering of each format.
#[derive(Debug, Default)]
struct RenderingCache {
    open_metrics: Option<Rendering>,
    text: Option<Rendering>,
}

/// The values of all instruments at one moment.
#[derive(Debug)]
struct Rendering {
    begun: Instant,
    bytes: Bytes,
}

impl RenderingCache {
    fn of(&mut self, format: Format) -> &mut Option<Rendering> {
        match format {
            Format::OpenMetrics => &mut self.open_metrics,
            Format::Text => &mut self.text,
        }
    }
}

impl Prometheus {
    /// The handle, and the reader for the meter provider.
    pub(super) fn new() -> Result<(Self, PrometheusExporter), Error> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        let rendered = Arc::default();
        Ok((Self { registry, rendered }, reader))
    }

    /// Renders the values of all instruments. Requests within [`MAX_AGE`] share one rendering, because
    /// it locks the reservation table, reads files and allocates memory.
    ///
    /// # Errors
    /// When the values cannot be rendered, which would be a bug.
    pub async fn read(&self, format: Format) -> Result<Bytes, Error> {
        let mut latest = Arc::clone(&self.rendered).lock_owned().await;
        if let Some(rendering) = latest.of(format)
            && rendering.begun.elapsed() < MAX_AGE
        {
            return Ok(rendering.bytes.clone());
        }
        let registry = self.registry.clone();
        // Not on a runtime worker that relays data.
        let read = spawn_blocking(move || {
            let begun = Instant::now();
            let families = conventional::rename(registry.gather());
            let bytes = Bytes::from(format.render(&families)?);
            *latest.of(format) = Some(Rendering {
                begun,
                bytes: bytes.clone(),
            });
            Ok(bytes)
        });
        read.await?
    }
}

/// An exposition format.
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

    fn render(self, families: &[MetricFamily]) -> Result<String, Error> {
        match self {
            Self::OpenMetrics => open_metrics::encode(families),
            Self::Text => Ok(TextEncoder::new().encode_to_string(families)?),
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

    /// The metrics that `record` records, in both formats.
    fn rendered(record: impl FnOnce(&Meter)) -> (String, String) {
        let (prometheus, reader) = Prometheus::new().unwrap();
        let name = KeyValue::new("service.name", "a \"relay\"");
        let provider = SdkMeterProvider::builder()
            .with_resource(Resource::builder_empty().with_attribute(name).build())
            .with_reader(reader)
            .build();
        record(&provider.meter("test"));
        let written = |format: Format| format.render(&prometheus.registry.gather()).unwrap();
        (written(Format::OpenMetrics), written(Format::Text))
    }

    #[tokio::test(start_paused = true)]
    async fn requests_within_a_second_share_one_rendering() {
        let (prometheus, reader) = Prometheus::new().unwrap();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let meter = provider.meter("test");
        let renderings = meter.u64_observable_counter("renderings");
        let number = std::sync::atomic::AtomicU64::new(0);
        let _counter = renderings
            .with_callback(move |observer| {
                let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                observer.observe(number + 1, &[]);
            })
            .build();
        let read = async |format| {
            let read = (0..20).map(|_| prometheus.read(format));
            let mut read = futures::future::try_join_all(read).await.unwrap();
            read.dedup();
            assert_eq!(read.len(), 1, "{read:?}");
            let text = String::from_utf8(read.swap_remove(0).to_vec()).unwrap();
            let value = text
                .lines()
                .find(|line| line.starts_with("renderings_total"));
            let value = value.unwrap().rsplit_once(' ').unwrap().1;
            value.parse::<f64>().unwrap()
        };
        let first = read(Format::Text).await;
        let other = read(Format::OpenMetrics).await;
        assert!(other > first);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!((read(Format::Text).await - first).abs() < 0.5);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(read(Format::Text).await > other);
    }

    #[test]
    fn both_formats_contain_the_same_samples() {
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
some_active 2
# HELP some_io_bytes Says \"so\" \\ much.
# TYPE some_io_bytes counter
some_io_bytes_total{who="\\a\n\"b\""} 3
# HELP some_time_seconds 
# TYPE some_time_seconds histogram
some_time_seconds_bucket{end="eof",le="0.5"} 2
some_time_seconds_bucket{end="eof",le="1.0"} 3
some_time_seconds_bucket{end="eof",le="+Inf"} 4
some_time_seconds_sum{end="eof"} 5.5
some_time_seconds_count{end="eof"} 4
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
