//! A bound on the number of queued spans.

use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

use super::{export_health::ExportHealth, exporter::MonitoredExporter, settings::Batch};

/// A span processor that counts the spans that do not fit into its queue, including those of an export
/// in progress. The processor of the SDK reports their number only at shutdown.
#[derive(Debug)]
pub(super) struct SpanQueue {
    processor: BatchSpanProcessor,
    size: usize,
    health: Arc<ExportHealth>,
}

impl SpanQueue {
    /// Queues spans for `exporter`, and records lost ones in its health.
    pub(super) fn new<E>(exporter: MonitoredExporter<E>, batch: Batch) -> Self
    where
        E: SpanExporter + 'static,
    {
        let health = Arc::clone(&exporter.health);
        let config = BatchConfigBuilder::default()
            .with_scheduled_delay(batch.delay)
            .with_max_queue_size(batch.queue)
            .with_max_export_batch_size(batch.size)
            .build();
        Self {
            processor: BatchSpanProcessor::new(exporter, config),
            size: batch.queue,
            health,
        }
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.health.enqueue(self.size) {
            self.processor.on_end(span);
        } else {
            self.health.record_lost(1);
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
