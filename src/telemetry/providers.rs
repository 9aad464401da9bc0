//! The providers of traces and metrics, with their processors, readers and exporters.

use std::{sync::Arc, thread, time::Duration};

use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_sdk::{
    Resource,
    metrics::{
        MeterProviderBuilder, PeriodicReader, SdkMeterProvider, exporter::PushMetricExporter,
    },
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{SdkTracerProvider, SpanExporter, TracerProviderBuilder},
};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tracing::warn;

use super::{
    export_health::ExportHealth,
    exporter::{self, MonitoredExporter},
    otlp,
    resource::resource,
    settings::{Propagator, Settings},
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
    pub(super) fn new(
        settings: &Settings,
        instance: &str,
        meters: MeterProviderBuilder,
    ) -> (Self, Vec<String>) {
        let resource = resource(settings, instance);
        let meters = meters.with_resource(resource.clone());
        let runtime = settings.is_pushing().then(exporter::runtime).transpose();
        let problem = match runtime {
            Ok(Some(runtime)) => {
                let mut builder = Builder {
                    settings,
                    runtime,
                    health: Vec::new(),
                    problems: Vec::new(),
                };
                let providers = Self {
                    tracers: builder.tracers(resource),
                    meters: builder.meters(meters),
                    health: builder.health,
                };
                return (providers, builder.problems);
            }
            Ok(None) => None,
            Err(error) => Some(format!("nothing is exported: {error}")),
        };
        let providers = Self {
            meters: meters.build(),
            tracers: None,
            health: Vec::new(),
        };
        (providers, problem.into_iter().collect())
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

/// The state while the providers are built.
struct Builder<'a> {
    settings: &'a Settings,
    runtime: Handle,
    health: Vec<Arc<ExportHealth>>,
    problems: Vec<String>,
}

impl Builder<'_> {
    fn tracers(&mut self, resource: Resource) -> Option<SdkTracerProvider> {
        let settings = &self.settings.traces;
        let mut queues = Vec::new();
        if let Some(destination) = &settings.otlp {
            match otlp::spans(destination, &self.runtime) {
                Ok(exporter) => queues.push(self.queue(exporter)),
                Err(problem) => self.problem("traces", &problem),
            }
        }
        if settings.console {
            let exporter = opentelemetry_stdout::SpanExporter::default();
            let exporter = MonitoredExporter::console(exporter, "traces", &self.runtime);
            queues.push(self.queue(exporter));
        }
        if queues.is_empty() {
            return None;
        }
        let builder = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(settings.sampler.clone());
        let builder = queues
            .into_iter()
            .fold(builder, TracerProviderBuilder::with_span_processor);
        Some(builder.build())
    }

    fn meters(&mut self, mut meters: MeterProviderBuilder) -> SdkMeterProvider {
        let metrics = &self.settings.metrics;
        if let Some(destination) = &metrics.otlp {
            match otlp::metrics(destination, metrics.temporality, &self.runtime) {
                Ok(exporter) => meters = meters.with_reader(self.reader(exporter)),
                Err(problem) => self.problem("metrics", &problem),
            }
        }
        if metrics.console {
            let exporter = opentelemetry_stdout::MetricExporter::builder()
                .with_temporality(metrics.temporality)
                .build();
            let exporter = MonitoredExporter::console(exporter, "metrics", &self.runtime);
            meters = meters.with_reader(self.reader(exporter));
        }
        meters.build()
    }

    fn queue<E: SpanExporter + 'static>(&mut self, exporter: MonitoredExporter<E>) -> SpanQueue {
        let health = Arc::clone(&exporter.health);
        self.health.push(Arc::clone(&health));
        SpanQueue::new(exporter, self.settings.traces.batch, health)
    }

    fn reader<E: PushMetricExporter>(
        &mut self,
        exporter: MonitoredExporter<E>,
    ) -> PeriodicReader<MonitoredExporter<E>> {
        self.health.push(Arc::clone(&exporter.health));
        PeriodicReader::builder(exporter)
            .with_interval(self.settings.metrics.interval)
            .build()
    }

    fn problem(&mut self, signal: &str, problem: &str) {
        self.problems
            .push(format!("{signal} are not exported: {problem}"));
    }
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
