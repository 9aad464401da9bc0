//! The providers of traces and metrics, with their processors, readers and exporters.

use std::{io, sync::Arc, thread, time::Duration};

use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_sdk::{
    Resource,
    metrics::{
        MeterProviderBuilder, PeriodicReader, SdkMeterProvider, exporter::PushMetricExporter,
    },
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{SdkTracerProvider, TracerProviderBuilder},
};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tracing::warn;

use super::{
    export_health::ExportHealth,
    exporter::{self, MonitoredExporter},
    otlp,
    resource::resource,
    settings::{Destination, MetricsSettings, Propagator, Settings, TracesSettings},
    span_queue::SpanQueue,
};
use crate::metrics::Metrics;

/// Deadline of the last exports at shutdown, in total.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The providers of traces and metrics.
#[derive(Debug)]
pub(super) struct Providers {
    pub(super) meters: SdkMeterProvider,
    /// `None` without an exporter of spans; then no spans are created.
    pub(super) tracers: Option<SdkTracerProvider>,
    health: Vec<Arc<ExportHealth>>,
}

impl Providers {
    /// Builds the providers for `settings` on top of `meters`. Exporters that cannot be created are
    /// omitted, with a problem for the operator each.
    ///
    /// # Errors
    /// When the thread of the exporters cannot be started.
    pub(super) fn new(
        settings: &Settings,
        instance: &str,
        meters: MeterProviderBuilder,
    ) -> io::Result<(Self, Vec<String>)> {
        let resource = resource(settings, instance);
        let meters = meters.with_resource(resource.clone());
        if !settings.is_pushing() {
            let providers = Self {
                meters: meters.build(),
                tracers: None,
                health: Vec::new(),
            };
            return Ok((providers, Vec::new()));
        }
        let mut exporters = Exporters {
            runtime: exporter::runtime()?,
            health: Vec::new(),
            problems: Vec::new(),
        };
        let providers = Self {
            tracers: exporters.tracers(&settings.traces, resource),
            meters: exporters.meters(&settings.metrics, meters),
            health: exporters.health,
        };
        Ok((providers, exporters.problems))
    }

    /// Sets the instruments that count exports.
    pub(super) fn count_by(&self, metrics: &Metrics) {
        for health in &self.health {
            health.count_by(metrics);
        }
    }

    /// Flushes and shuts down within a bounded time. Logs a warning if data was lost.
    pub(super) async fn stop(self) {
        let (meters, tracers) = (self.meters, self.tracers);
        // Longer than FLUSH_TIMEOUT, which is the only deadline.
        let limit = FLUSH_TIMEOUT * 2;
        let ended = futures::future::join(
            on_a_thread(move || meters.shutdown_with_timeout(limit).is_ok()),
            on_a_thread(move || tracers.is_none_or(|t| t.shutdown_with_timeout(limit).is_ok())),
        );
        let is_done = timeout(FLUSH_TIMEOUT, ended).await == Ok((Some(true), Some(true)));
        let is_failing = self.health.iter().any(|health| health.is_failing());
        let lost: u64 = self.health.iter().map(|t| t.take_lost()).sum();
        if !is_done || is_failing || lost > 0 {
            warn!(
                seconds = FLUSH_TIMEOUT.as_secs(),
                lost, "not all traces and metrics could be exported at shutdown"
            );
        }
    }
}

/// Creates the exporters, and collects their health and their problems.
struct Exporters {
    runtime: Handle,
    health: Vec<Arc<ExportHealth>>,
    problems: Vec<String>,
}

impl Exporters {
    fn tracers(
        &mut self,
        settings: &TracesSettings,
        resource: Resource,
    ) -> Option<SdkTracerProvider> {
        let mut queues = Vec::new();
        if let Some(destination) = &settings.otlp
            && let Some(exporter) = self.otlp("traces", destination, otlp::spans)
        {
            queues.push(SpanQueue::new(exporter, settings.batch));
        }
        if settings.console {
            let exporter = opentelemetry_stdout::SpanExporter::default();
            let exporter = self.console("traces", exporter);
            queues.push(SpanQueue::new(exporter, settings.batch));
        }
        if queues.is_empty() {
            return None;
        }
        let builder = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(settings.sampler.clone());
        let queues = queues.into_iter();
        let builder = queues.fold(builder, TracerProviderBuilder::with_span_processor);
        Some(builder.build())
    }

    fn meters(
        &mut self,
        settings: &MetricsSettings,
        mut meters: MeterProviderBuilder,
    ) -> SdkMeterProvider {
        let create = |destination: &_, runtime: &_, health: &_| {
            otlp::metrics(destination, settings.temporality, runtime, health)
        };
        if let Some(destination) = &settings.otlp
            && let Some(exporter) = self.otlp("metrics", destination, create)
        {
            meters = meters.with_reader(reader(exporter, settings.interval));
        }
        if settings.console {
            let exporter = opentelemetry_stdout::MetricExporter::builder()
                .with_temporality(settings.temporality)
                .build();
            let exporter = self.console("metrics", exporter);
            meters = meters.with_reader(reader(exporter, settings.interval));
        }
        meters.build()
    }

    /// An exporter to `destination`; `None` if it cannot be created.
    fn otlp<E>(
        &mut self,
        signal: &'static str,
        destination: &Destination,
        create: impl FnOnce(&Destination, &Handle, &Arc<ExportHealth>) -> Result<E, String>,
    ) -> Option<MonitoredExporter<E>> {
        let health = Arc::new(ExportHealth::new(signal, destination.shown()));
        let exporter = create(destination, &self.runtime, &health).inspect_err(|problem| {
            let problem = format!("{signal} are not exported: {problem}");
            self.problems.push(problem);
        });
        Some(self.monitored(exporter.ok()?, destination.timeout, health))
    }

    /// An exporter to standard output.
    fn console<E>(&mut self, signal: &'static str, exporter: E) -> MonitoredExporter<E> {
        let health = Arc::new(ExportHealth::new(signal, "console".to_owned()));
        // The reader may stop reading; only this exporter waits for it.
        self.monitored(exporter, Duration::MAX, health)
    }

    fn monitored<E>(
        &mut self,
        exporter: E,
        timeout: Duration,
        health: Arc<ExportHealth>,
    ) -> MonitoredExporter<E> {
        self.health.push(Arc::clone(&health));
        MonitoredExporter {
            exporter,
            runtime: self.runtime.clone(),
            timeout,
            health,
        }
    }
}

fn reader<E: PushMetricExporter>(exporter: E, interval: Duration) -> PeriodicReader<E> {
    PeriodicReader::builder(exporter)
        .with_interval(interval)
        .build()
}

/// Runs `work` on a new thread, which may outlive the runtime; a blocking thread of the runtime would
/// delay its shutdown. `None` if the thread cannot be started or panics.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, ended) = oneshot::channel();
    let thread = thread::Builder::new().spawn(move || {
        let _ = done.send(work());
    });
    // If the thread cannot be started, the sender is dropped, and the receiver returns an error.
    drop(thread);
    ended.await.ok()
}

/// A propagator that tries each of `propagators`.
pub(super) fn propagator(propagators: &[Propagator]) -> TextMapCompositePropagator {
    let all = propagators.iter().map(|propagator| match propagator {
        Propagator::TraceContext => {
            Box::new(TraceContextPropagator::new()) as Box<dyn TextMapPropagator + Send + Sync>
        }
        Propagator::Baggage => Box::new(BaggagePropagator::new()),
    });
    TextMapCompositePropagator::new(all.collect())
}
