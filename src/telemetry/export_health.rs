//! Health of exporters: failures are logged at once, and repeated failures at most once a minute.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use tracing::{info, warn};

use crate::{failure_log::FailureLog, metrics::Metrics};

/// Why an export failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportError {
    /// The error. It never contains a header or the body of a response.
    pub(super) message: String,
    /// What the operator should check.
    pub(super) check: &'static str,
    /// Number of items that the collector rejected, if it accepted the others.
    pub(super) rejected: Option<u64>,
}

impl ExportError {
    /// An error of the whole export.
    pub(super) fn new(message: impl Into<String>, check: &'static str) -> Self {
        Self {
            message: message.into(),
            check,
            rejected: None,
        }
    }

    /// An error of the SDK or of a client library.
    pub(super) fn of_library(message: &str) -> Self {
        // The text before the code names a type of the exporter.
        let code = message.split_once("gRPC code: ");
        let message = code.map_or(message, |(_, code)| code);
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        let check = if has(&["Unauthenticated", "PermissionDenied"]) {
            "OTEL_EXPORTER_OTLP_HEADERS"
        } else if has(&["ertificate", "tls", "HandshakeFailure", "alert"]) {
            "OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
        } else if has(&["Unimplemented", "http2", "h2 protocol"]) {
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        } else {
            "OTEL_EXPORTER_OTLP_ENDPOINT, and whether the collector runs"
        };
        Self::new(message, check)
    }
}

impl From<&OTelSdkError> for ExportError {
    fn from(error: &OTelSdkError) -> Self {
        match error {
            OTelSdkError::Timeout(timeout) => Self::new(
                format!("no response within {} ms", timeout.as_millis()),
                "whether the collector runs and keeps up; OTEL_EXPORTER_OTLP_TIMEOUT",
            ),
            OTelSdkError::InternalFailure(message) => Self::of_library(message),
            OTelSdkError::AlreadyShutdown => Self::of_library(&error.to_string()),
        }
    }
}

/// Records the health of an exporter: counts and logs its failures.
#[derive(Debug)]
pub(super) struct ExportHealth {
    /// "traces" or "metrics".
    signal: &'static str,
    /// The endpoint, without secrets.
    endpoint: String,
    /// Set after the exporters are created.
    metrics: OnceLock<Metrics>,
    /// Number of queued spans, including those of an export in progress.
    queued: AtomicUsize,
    /// Lost items since the last log line about them.
    lost: AtomicU64,
    /// The error of the latest request, set by the HTTP client: errors of the SDK have no details.
    request_error: Mutex<Option<ExportError>>,
    log: Mutex<FailureLog>,
}

impl ExportHealth {
    pub(super) fn new(signal: &'static str, endpoint: String) -> Self {
        Self {
            signal,
            endpoint,
            metrics: OnceLock::new(),
            queued: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            request_error: Mutex::default(),
            log: Mutex::default(),
        }
    }

    /// Sets the instruments that count exports.
    pub(super) fn count_by(&self, metrics: &Metrics) {
        // Only the first call has an effect.
        let _ = self.metrics.set(metrics.clone());
    }

    /// Counts lost items. It does not log, so that it never blocks.
    pub(super) fn record_lost(&self, items: u64) {
        self.lost.fetch_add(items, Ordering::Relaxed);
        if let Some(metrics) = self.metrics.get() {
            metrics.lost(self.signal, items);
        }
    }

    /// Adds a span to the queue, unless there are `limit` spans in it.
    pub(super) fn enqueue(&self, limit: usize) -> bool {
        let add = |queued| (queued < limit).then_some(queued + 1);
        let added = self
            .queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        added.is_ok()
    }

    /// Removes exported spans from the queue.
    pub(super) fn dequeue(&self, spans: usize) {
        self.queued.fetch_sub(spans, Ordering::AcqRel);
    }

    /// Sets the error of the current request, or that there is none.
    pub(super) fn set_request_error(&self, error: Option<ExportError>) {
        *lock(&self.request_error) = error;
    }

    /// Records the result of an export of `items`.
    pub(super) fn record(&self, items: u64, result: &OTelSdkResult) {
        // A successful export may have been rejected in part.
        let error = lock(&self.request_error)
            .take()
            .or_else(|| result.as_ref().err().map(ExportError::from));
        if let Some(metrics) = self.metrics.get() {
            metrics.exported(self.signal, error.is_none());
        }
        match error {
            None => self.log_success(),
            Some(error) => {
                self.record_lost(error.rejected.map_or(items, |rejected| rejected.min(items)));
                self.log_failure(&error);
            }
        }
    }

    fn log_success(&self) {
        let mut log = lock(&self.log);
        if let Some(failed) = log.record_success() {
            info!(
                signal = self.signal,
                endpoint = self.endpoint,
                failed,
                lost = self.take_lost(),
                "telemetry export recovered"
            );
        }
        if self.lost.load(Ordering::Relaxed) > 0 && log.is_due(Instant::now()) {
            warn!(
                signal = self.signal,
                endpoint = self.endpoint,
                lost = self.take_lost(),
                check = "OTEL_BSP_MAX_QUEUE_SIZE",
                "telemetry lost: more spans than can be exported"
            );
        }
    }

    fn log_failure(&self, error: &ExportError) {
        if let Some(failed) = lock(&self.log).record_failure(Instant::now()) {
            warn!(
                signal = self.signal,
                endpoint = self.endpoint,
                cause = error.message,
                check = error.check,
                failed,
                lost = self.take_lost(),
                "telemetry export failed"
            );
        }
    }

    /// Whether the last export failed.
    pub(super) fn is_failing(&self) -> bool {
        lock(&self.log).is_failing()
    }

    /// Resets the number of lost items to report.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
