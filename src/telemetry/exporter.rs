//! A wrapper of exporters that bounds their time and records their health.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use futures::FutureExt;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    export_health::{ExportError, ExportHealth},
    otlp_grpc::Reconnect,
};

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

/// An exporter with a deadline, whose failures are recorded in an [`ExportHealth`].
#[derive(Debug)]
pub(super) struct MonitoredExporter<E> {
    pub(super) exporter: E,
    pub(super) runtime: Handle,
    /// Deadline of an export, including retries.
    pub(super) timeout: Duration,
    pub(super) health: Arc<ExportHealth>,
    pub(super) last_error: LastExportError,
    /// Replaces a connection that is dead but does not fail.
    pub(super) reconnect: Option<Reconnect>,
}

impl<E> MonitoredExporter<E> {
    /// An exporter to standard output.
    pub(super) fn console(exporter: E, signal: &'static str, runtime: &Handle) -> Self {
        Self {
            exporter,
            runtime: runtime.clone(),
            // The reader may stop reading; only this exporter waits for it.
            timeout: Duration::MAX,
            health: Arc::new(ExportHealth::new(signal, "console".to_owned())),
            last_error: LastExportError::default(),
            reconnect: None,
        }
    }
}

/// The error of the last request, set by the HTTP client: errors of the SDK lack it.
#[derive(Clone, Debug, Default)]
pub(super) struct LastExportError(Arc<Mutex<Option<ExportError>>>);

impl LastExportError {
    pub(super) fn set(&self, last_error: Option<ExportError>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last_error;
    }

    fn take(&self) -> Option<ExportError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<E> MonitoredExporter<E> {
    /// Waits for `export` on the SDK's export thread. If it fails, `items` are lost.
    fn monitor(&self, items: usize, export: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        // A panic would end the SDK's thread, and with it all exports of the signal.
        let export = AssertUnwindSafe(export).catch_unwind();
        let deadline = async { timeout(self.timeout, export).await };
        let ended = self.runtime.block_on(deadline);
        let known = self.last_error.take();
        let (result, last_error) = match ended {
            Ok(Ok(Ok(()))) => (Ok(()), known),
            Ok(Ok(Err(error))) => {
                let last_error = known.unwrap_or_else(|| export_error(&error));
                (Err(error), Some(last_error))
            }
            Ok(Err(_)) => {
                let error = OTelSdkError::InternalFailure("the exporter panicked".to_owned());
                let last_error = export_error(&error);
                (Err(error), Some(last_error))
            }
            Err(_) => {
                if let Some(reconnect) = &self.reconnect {
                    reconnect.now();
                }
                // An earlier attempt may have failed, and a retry be in progress.
                let last_error = known.unwrap_or_else(|| timed_out(self.timeout));
                (Err(OTelSdkError::Timeout(self.timeout)), Some(last_error))
            }
        };
        match last_error {
            None => self.health.record_success(),
            Some(last_error) => {
                let items = items as u64;
                self.health.record_lost(
                    last_error
                        .rejected
                        .map_or(items, |rejected| rejected.min(items)),
                );
                self.health.record_failure(&last_error);
            }
        }
        result
    }
}

impl<E: SpanExporter> SpanExporter for MonitoredExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.monitor(batch.len(), self.exporter.export(batch))
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

fn timed_out(timeout: Duration) -> ExportError {
    ExportError::new(
        format!("no response within {} ms", timeout.as_millis()),
        "whether the collector runs and keeps up; OTEL_EXPORTER_OTLP_TIMEOUT",
    )
}

/// The error of an exporter without a more detailed one.
fn export_error(error: &OTelSdkError) -> ExportError {
    let what = match error {
        OTelSdkError::InternalFailure(what) => what.clone(),
        error => error.to_string(),
    };
    // The text before the code names a type of the exporter.
    let code = what.split_once("gRPC code: ").map(|(_, code)| code);
    let what = code.unwrap_or(&what);
    let has = |words: &[&str]| words.iter().any(|word| what.contains(word));
    let check = if has(&["Unauthenticated", "PermissionDenied"]) {
        "OTEL_EXPORTER_OTLP_HEADERS"
    } else if has(&[
        "certificate",
        "Certificate",
        "tls",
        "HandshakeFailure",
        "alert",
    ]) {
        "OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
    } else if has(&["Unimplemented", "http2", "h2 protocol"]) {
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    } else {
        "OTEL_EXPORTER_OTLP_ENDPOINT, and whether the collector runs"
    };
    ExportError::new(what, check)
}
