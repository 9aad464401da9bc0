//! A wrapper of exporters that bounds their time and records their health.

use std::{io, panic::AssertUnwindSafe, sync::Arc, thread, time::Duration};

use futures::FutureExt;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use tokio::{runtime::Handle, time::timeout};

use super::export_health::ExportHealth;

/// Starts the runtime of the exporters. It has a separate thread, on which no circuit depends, and runs
/// as long as the process: an export that hangs may outlive everything else.
pub(super) fn runtime() -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("telemetry".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// An exporter with a deadline, whose results are recorded in an [`ExportHealth`].
#[derive(Debug)]
pub(super) struct MonitoredExporter<E> {
    pub(super) exporter: E,
    pub(super) runtime: Handle,
    /// Deadline of an export, including retries. The exporter itself only stops retrying then.
    pub(super) timeout: Duration,
    pub(super) health: Arc<ExportHealth>,
}

impl<E> MonitoredExporter<E> {
    /// Waits for `export` on the SDK's export thread. If it fails, `items` are lost.
    fn monitor(&self, items: usize, export: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        // A panic would end the SDK's thread, and with it all exports of the signal.
        let export = AssertUnwindSafe(export).catch_unwind();
        let ended = self
            .runtime
            .block_on(async { timeout(self.timeout, export).await });
        let result = match ended {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::InternalFailure(
                "the exporter panicked".to_owned(),
            )),
            Err(_) => Err(OTelSdkError::Timeout(self.timeout)),
        };
        self.health.record(items as u64, &result);
        result
    }
}

impl<E: SpanExporter> SpanExporter for MonitoredExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.monitor(spans, self.exporter.export(batch));
        self.health.dequeue(spans);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for MonitoredExporter<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        // Missing points are part of the next export, unless the temporality is delta.
        self.monitor(0, self.exporter.export(metrics))
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
