//! What the relay tells its operator: the event log, traces, and metrics.

pub(crate) mod export_health;
mod exporter;
pub mod log;
mod otel_env;
mod otlp;
mod otlp_grpc;
mod otlp_http;
pub(crate) mod pem;
pub mod prometheus;
mod providers;
mod resource;
mod settings;
mod span_queue;

use std::sync::Arc;

use opentelemetry::{
    metrics::{Meter, MeterProvider},
    propagation::TextMapCompositePropagator,
    trace::TracerProvider,
};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracer};
use tracing::{Dispatch, warn};
use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, filter_fn},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

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
use crate::{config::Config, metrics::Metrics};

/// The `tracing` target of the spans that are exported. They are no part of the log.
pub const SPANS: &str = "descord_relay::spans";

/// `number` as an attribute of a span: unsigned ones would arrive as text.
pub(crate) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Why the metrics cannot be read.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why there is nothing to be told.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter of the log is not of the form that `RUST_LOG` takes.
    #[error("RUST_LOG: {0}")]
    Filter(#[from] ParseError),
    /// Nothing can write the log.
    #[error("cannot write the log: {0}")]
    Writer(std::io::Error),
    /// There is nothing that `/metrics` could read.
    #[error("cannot keep metrics: {0}")]
    Metrics(Error),
    /// Something else tells already.
    #[error("cannot open the log: {0}")]
    Log(#[from] TryInitError),
}

/// Everything that tells the operator something. What still waits to be told is told when it is
/// stopped or dropped.
#[derive(Debug)]
pub struct Telemetry {
    // Dropped last, in the order of these fields: the others may have something to say.
    providers: Providers,
    propagator: Arc<TextMapCompositePropagator>,
    metrics: Metrics,
    prometheus: Option<Prometheus>,
    log: Log,
}

impl Telemetry {
    /// Tells from now on. `filter` is the value of `RUST_LOG`, if it is set. To be called once, and
    /// from within the runtime. An exporter that cannot be had is told of, and done without.
    ///
    /// # Errors
    /// When `filter` is not of the form that `RUST_LOG` takes, when there can be no log or no
    /// `/metrics`, or when this has been called before.
    pub fn start(
        config: &Config,
        settings: &Settings,
        filter: Option<&str>,
    ) -> Result<Self, StartError> {
        // First: nothing is to be exported of a relay that was configured wrongly.
        let (log, lines) = log::open(config.log_format, filter)?;
        let mut meters = SdkMeterProvider::builder();
        let mut prometheus = None;
        if config.admin_address.is_some() && !settings.disabled {
            let (handle, reader) = Prometheus::new().map_err(StartError::Metrics)?;
            prometheus = Some(handle);
            meters = meters.with_reader(reader);
        }
        let (providers, mut problems) = Providers::new(settings, &config.identity.instance, meters);
        if settings.metrics.prometheus && config.admin_address.is_none() {
            problems.push(
                "OTEL_METRICS_EXPORTER asks for prometheus, but RELAY_ADMIN_ADDRESS is empty: \
                 /metrics is not served"
                    .to_owned(),
            );
        }
        let tracer = providers.tracers.as_ref().map(|t| t.tracer(SCOPE));
        subscriber(lines, tracer).try_init()?;
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

    /// Exports what is still to be exported, in a bounded time, and ends.
    pub async fn stop(self) {
        self.providers.stop().await;
    }

    /// What finds the trace that a request belongs to.
    pub fn propagator(&self) -> &Arc<TextMapCompositePropagator> {
        &self.propagator
    }

    /// The instruments that are told of events.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the instruments that are looked up belong to.
    pub fn meter(&self) -> Meter {
        self.providers.meters.meter(SCOPE)
    }

    /// Reads the instruments for Prometheus; none when there is no server that could be asked.
    pub fn prometheus(&self) -> Option<Prometheus> {
        self.prometheus.clone()
    }

    /// Changes what is logged.
    pub fn log_filter(&self) -> FilterHandle {
        self.log.filter()
    }

    /// Tells of lost lines of the log, now and then, for ever.
    pub fn report_lost_lines(&self) -> impl Future<Output = ()> + Send + 'static {
        self.log.report_lost_lines(self.metrics.clone())
    }
}

/// The instrumentation scope of everything that is measured here.
const SCOPE: &str = env!("CARGO_PKG_NAME");

/// Gives events to the log, and spans to the tracer. Without a tracer there is no layer for spans
/// at all: even one that is `None` would make each of them cost something.
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

    /// Whether spans are made, whatever the log is told of.
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
    fn spans_are_made_only_when_somebody_wants_them() {
        assert!(!makes_spans(None));
        let tracers = SdkTracerProvider::builder().build();
        assert!(makes_spans(Some(&tracers.tracer("test"))));
        assert!(!makes_spans(None));
    }
}
