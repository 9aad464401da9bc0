//! What the relay tells its operator: the event log, traces, and metrics.

pub mod log;
pub mod prometheus;

use opentelemetry::{
    metrics::{Meter, MeterProvider},
    trace::TracerProvider,
};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use self::{
    log::{FilterHandle, Log},
    prometheus::Prometheus,
};
use crate::{config::Config, metrics::Metrics};

/// The `tracing` target of the spans that are exported. They are no part of the log.
pub const SPANS: &str = "descord_relay::spans";

/// `number` as an attribute of a span: unsigned ones would arrive as text.
pub(crate) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Why there is nothing to be told.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Everything that tells the operator something. What still waits to be told is told when it is
/// stopped or dropped.
#[derive(Debug)]
pub struct Telemetry {
    log: Log,
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
    metrics: Metrics,
    prometheus: Option<Prometheus>,
}

impl Telemetry {
    /// Tells from now on. `filter` is the value of `RUST_LOG`, if it is set. To be called once, and
    /// from within the runtime.
    ///
    /// # Errors
    /// When `filter` is not of the form that `RUST_LOG` takes, or when this has been called before.
    pub fn start(config: &Config, filter: Option<&str>) -> Result<Self, Error> {
        let mut meters = SdkMeterProvider::builder();
        let mut prometheus = None;
        if config.admin_address.is_some() {
            let (handle, reader) = Prometheus::new()?;
            prometheus = Some(handle);
            meters = meters.with_reader(reader);
        }
        let meters = meters.build();
        let tracers: Option<SdkTracerProvider> = None;
        let (log, lines) = log::open(config.log_format, filter)?;
        let spans = tracers.as_ref().map(|tracers| {
            tracing_opentelemetry::layer()
                .with_tracer(tracers.tracer(SCOPE))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(filter_fn(|metadata| metadata.target() == SPANS))
        });
        tracing_subscriber::registry()
            .with(lines)
            .with(spans)
            .try_init()?;
        let metrics = Metrics::new(&meters.meter(SCOPE));
        Ok(Self {
            log,
            meters,
            tracers,
            metrics,
            prometheus,
        })
    }

    /// The instruments that are told of events.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the instruments that are looked up belong to.
    pub fn meter(&self) -> Meter {
        self.meters.meter(SCOPE)
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
    pub fn lost_lines(&self) -> impl Future<Output = ()> + Send + 'static {
        self.log.tell_lost(self.metrics.clone())
    }
}

/// The instrumentation scope of everything that is measured here.
const SCOPE: &str = env!("CARGO_PKG_NAME");
