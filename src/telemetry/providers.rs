//! The providers of traces and metrics: what collects them, and hands them to the exporters.

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

/// How long the end of the process may wait for the last exports, all together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// What collects traces and metrics.
#[derive(Debug)]
pub(super) struct Providers {
    pub(super) meters: SdkMeterProvider,
    /// `None` when nobody wants spans: then none are made.
    pub(super) tracers: Option<SdkTracerProvider>,
    health: Vec<Arc<ExportHealth>>,
}

impl Providers {
    /// Everything that `settings` ask for, on top of what `meters` have already; and what of it
    /// cannot be had, in words for the operator.
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

    /// Counts exports by these instruments from now on.
    pub(super) fn count_by(&self, metrics: &Metrics) {
        for health in &self.health {
            health.count_by(metrics);
        }
    }

    /// Exports what is left and ends, or gives up. The log says if something of it was lost.
    pub(super) async fn stop(self) {
        let (meters, tracers) = (self.meters, self.tracers);
        // Longer than anybody waits for it: whether it is late is found out in one place.
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
                lost, "the last traces and metrics could not all be exported in time"
            );
        }
    }
}

/// What is needed to build the providers.
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

/// Waits for `work` on a thread of its own, which may outlive the runtime. One of the runtime's
/// would hold up its end. `None` when it did not come to an end.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, ended) = oneshot::channel();
    let thread = thread::Builder::new().spawn(move || {
        let _ = done.send(work());
    });
    // Without a thread the sender is gone, and so is the wait.
    drop(thread);
    ended.await.ok()
}

/// Finds the trace that a request belongs to in each of these ways.
pub(super) fn propagator(propagators: &[Propagator]) -> TextMapCompositePropagator {
    let all = propagators.iter().map(|propagator| match propagator {
        Propagator::TraceContext => {
            Box::new(TraceContextPropagator::new()) as Box<dyn TextMapPropagator + Send + Sync>
        }
        Propagator::Baggage => Box::new(BaggagePropagator::new()),
    });
    TextMapCompositePropagator::new(all.collect())
}
