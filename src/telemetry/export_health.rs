//! Health of exporters: failures are logged at once, and repeated failures at most once a minute.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

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
    /// Lost items since the last log line about them.
    lost: AtomicU64,
    state: Mutex<FailureLog>,
}

impl ExportHealth {
    pub(super) fn new(signal: &'static str, endpoint: String) -> Self {
        Self {
            signal,
            endpoint,
            metrics: OnceLock::new(),
            lost: AtomicU64::new(0),
            state: Mutex::default(),
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

    /// Records a successful export.
    pub(super) fn record_success(&self) {
        self.count(true);
        let mut state = self.state();
        if let Some(failed) = state.record_success() {
            info!(
                signal = self.signal,
                endpoint = self.endpoint,
                failed,
                lost = self.take_lost(),
                "telemetry export recovered"
            );
        }
        if self.lost.load(Ordering::Relaxed) > 0 && state.is_due(Instant::now()) {
            warn!(
                signal = self.signal,
                endpoint = self.endpoint,
                lost = self.take_lost(),
                check = "OTEL_BSP_MAX_QUEUE_SIZE",
                "telemetry lost: more spans than can be exported"
            );
        }
    }

    /// Records a failed export.
    pub(super) fn record_failure(&self, error: &ExportError) {
        self.count(false);
        if let Some(failed) = self.state().record_failure(Instant::now()) {
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
        self.state().is_failing()
    }

    /// Resets the number of lost items to report.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    fn count(&self, success: bool) {
        if let Some(metrics) = self.metrics.get() {
            metrics.exported(self.signal, success);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FailureLog> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
