//! A bound on the number of queued spans.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

use super::{export_health::ExportHealth, settings::Batch};

/// A span processor that counts the spans that do not fit into its queue; the processor of the SDK
/// drops them silently.
#[derive(Debug)]
pub(super) struct SpanQueue {
    processor: BatchSpanProcessor,
    size: usize,
    /// Number of queued spans, including those of an export in progress.
    waiting: Arc<AtomicUsize>,
    health: Arc<ExportHealth>,
}

impl SpanQueue {
    /// Queues spans for `exporter`, and records lost ones in `health`.
    pub(super) fn new<E>(exporter: E, batch: Batch, health: Arc<ExportHealth>) -> Self
    where
        E: SpanExporter + 'static,
    {
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = CountingExporter {
            exporter,
            waiting: Arc::clone(&waiting),
        };
        let config = BatchConfigBuilder::default()
            .with_scheduled_delay(batch.delay)
            .with_max_queue_size(batch.queue)
            .with_max_export_batch_size(batch.size)
            .build();
        Self {
            processor: BatchSpanProcessor::new(exporter, config),
            size: batch.queue,
            waiting,
            health,
        }
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // The batch processor of the SDK would export unsampled spans.
        if !span.span_context.is_sampled() {
            return;
        }
        let place = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.size).then_some(waiting + 1)
            });
        match place {
            Ok(_) => self.processor.on_end(span),
            Err(_) => self.health.record_lost(1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// An exporter that releases the queue slots of exported spans.
#[derive(Debug)]
struct CountingExporter<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
