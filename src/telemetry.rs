//! Telemetry: the event log, traces, and metrics.

mod export_health;
mod exporter;
pub mod log;
mod otel_env;
mod otlp;
mod otlp_http;
pub mod prometheus;
mod providers;
mod resource;
mod settings;
mod span_queue;
mod tls_files;

use std::sync::Arc;

use opentelemetry::{
    metrics::{Meter, MeterProvider},
    propagation::TextMapCompositePropagator,
    trace::TracerProvider,
};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracer};
use tracing::{Dispatch, info, warn};
use tracing_subscriber::{
    Layer, Registry,
    filter::filter_fn,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use self::log::LogFormat;
use self::{
    log::{FilterHandle, Log},
    prometheus::Prometheus,
    providers::Providers,
};
pub use self::{
    otel_env::{names as variable_names, reference_table},
    settings::{
        Batch, Compression, Destination, MetricsSettings, Propagator, Protocol, Settings,
        TracesSettings,
    },
};
use crate::{build_info, metrics::Metrics};

/// The `tracing` target of exported spans. They are not part of the log.
pub const SPANS: &str = "descord_relay::spans";

/// `number` as a span attribute; unsigned integers would be exported as text.
pub(crate) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Why the metrics cannot be read.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why telemetry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter of the log does not have the syntax of `RUST_LOG`.
    #[error("RUST_LOG: {0}")]
    Filter(#[from] log::FilterError),
    /// The thread that writes the log cannot be started.
    #[error("cannot write the log: {0}")]
    Writer(std::io::Error),
    /// The reader for `/metrics` cannot be created.
    #[error("cannot collect metrics: {0}")]
    Metrics(Error),
    /// The thread of the exporters cannot be started.
    #[error("cannot export telemetry: {0}")]
    Exporters(std::io::Error),
    /// A global subscriber is set already.
    #[error("cannot install the log: {0}")]
    Log(#[from] TryInitError),
}

/// What telemetry needs to know of the process.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The format of the log.
    pub log_format: LogFormat,
    /// The filter of the log in the syntax of `RUST_LOG`; `None` is the default.
    pub filter: Option<&'a str>,
    /// The name of this relay in the fleet, which identifies it in traces and metrics.
    pub instance: &'a str,
    /// Whether `/metrics` is served.
    pub serves_metrics: bool,
}

/// The telemetry of the process. What is queued is exported when it is stopped or dropped.
#[derive(Debug)]
pub struct Telemetry {
    // Dropped in the order of these fields, the log last: the others may log.
    providers: Providers,
    propagator: Arc<TextMapCompositePropagator>,
    metrics: Metrics,
    prometheus: Option<Prometheus>,
    log: Log,
}

impl Telemetry {
    /// Starts telemetry. Must be called once, within the runtime. An exporter that cannot be created is reported in the log and omitted.
    ///
    /// # Errors
    /// When the filter does not have the syntax of `RUST_LOG`, when the log or `/metrics` cannot be set
    /// up, or on a second call.
    pub fn start(options: &Options<'_>, settings: &Settings) -> Result<Self, StartError> {
        // First: nothing is exported by a relay with an invalid filter.
        let (log, lines) = log::open(options.log_format, options.filter)?;
        let mut meters = SdkMeterProvider::builder();
        let mut prometheus = None;
        if options.serves_metrics && !settings.disabled {
            let (handle, reader) = Prometheus::new().map_err(StartError::Metrics)?;
            prometheus = Some(handle);
            meters = meters.with_reader(reader);
        }
        let (providers, mut problems) =
            Providers::new(settings, options.instance, meters).map_err(StartError::Exporters)?;
        if settings.metrics.prometheus && !options.serves_metrics {
            problems.push(
                "OTEL_METRICS_EXPORTER contains prometheus, but RELAY_ADMIN_ADDRESS is empty: \
                 /metrics is not served"
                    .to_owned(),
            );
        }
        let tracer = providers.tracers.as_ref().map(|t| t.tracer(SCOPE));
        subscriber(lines, tracer).try_init()?;
        // Before any other line, so that each log says from which build it is.
        info!(
            version = build_info::VERSION,
            revision = build_info::REVISION,
            platform = build_info::target(),
            "descord-relay starting"
        );
        let metrics = Metrics::new(&providers.meters.meter(SCOPE));
        providers.count_by(&metrics);
        for problem in problems {
            warn!("{problem}");
        }
        Ok(Self {
            providers,
            propagator: Arc::new(providers::propagator(&settings.propagators)),
            metrics,
            prometheus,
            log,
        })
    }

    /// Flushes the exporters within a bounded time, and shuts down.
    pub async fn stop(self) {
        self.providers.stop().await;
    }

    /// The propagator that extracts the trace context of requests.
    pub fn propagator(&self) -> &Arc<TextMapCompositePropagator> {
        &self.propagator
    }

    /// The instruments that record events.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The meter for observable instruments.
    pub fn meter(&self) -> Meter {
        self.providers.meters.meter(SCOPE)
    }

    /// The metrics for Prometheus; `None` if `/metrics` is not served.
    pub fn prometheus(&self) -> Option<Prometheus> {
        self.prometheus.clone()
    }

    /// A handle that changes the log filter.
    pub fn log_filter(&self) -> FilterHandle {
        self.log.filter()
    }

    /// Counts lost log lines, and logs their number periodically. Never completes.
    pub fn report_lost_lines(&self) -> impl Future<Output = ()> + Send + 'static {
        self.log.report_lost_lines(self.metrics.clone())
    }
}

/// The instrumentation scope.
const SCOPE: &str = env!("CARGO_PKG_NAME");

/// Passes events to the log, and spans to the tracer. Without a tracer there is no layer for spans:
/// even one that is `None` would add a cost to each span.
fn subscriber<L>(lines: L, tracer: Option<SdkTracer>) -> Dispatch
where
    L: Layer<Registry> + Send + Sync,
{
    let subscriber = tracing_subscriber::registry().with(lines);
    let Some(tracer) = tracer else {
        return subscriber.into();
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.target() == SPANS));
    subscriber.with(spans).into()
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{dispatcher, info_span};

    use super::log::LogFormat;
    use super::*;

    /// Whether spans are created, regardless of the log filter.
    fn makes_spans(tracer: Option<&SdkTracer>) -> bool {
        let [first, second] = ["trace", "[hop]=trace"].map(|filter| {
            let (_log, lines) = log::open(LogFormat::Json, Some(filter)).unwrap();
            let dispatch = subscriber(lines, tracer.cloned());
            dispatcher::with_default(&dispatch, || !info_span!(target: SPANS, "x").is_disabled())
        });
        assert_eq!(first, second);
        first
    }

    #[test]
    fn spans_are_created_only_with_a_tracer() {
        assert!(!makes_spans(None));
        let tracers = SdkTracerProvider::builder().build();
        assert!(makes_spans(Some(&tracers.tracer("test"))));
        assert!(!makes_spans(None));
    }
}
