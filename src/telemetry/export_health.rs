//! Health of exporters: failures are logged at once, and repeated failures at most once a minute.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::metrics::Metrics;

/// Minimum interval between two warnings about an exporter.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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

/// An error and its sources, joined by colons.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error_message = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        error_message = format!("{error_message}: {source}");
        error = source;
    }
    error_message
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

/// Decides which failures are logged.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    /// Failures since the last log line about them.
    failed: u64,
    last_warning: Option<Instant>,
    /// Whether the last attempt failed.
    is_failing: bool,
    /// Whether the last log line is about a failure.
    is_failure_logged: bool,
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
        self.state().is_failing
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

impl FailureLog {
    /// Records a failure. Returns the number of failures since the last log line, if one is due.
    pub(crate) fn record_failure(&mut self, now: Instant) -> Option<u64> {
        self.failed += 1;
        self.is_failing = true;
        self.is_due(now).then(|| {
            self.is_failure_logged = true;
            std::mem::take(&mut self.failed)
        })
    }

    /// Records a success. Returns the number of failures since the last log line, if that was about a
    /// failure.
    pub(crate) fn record_success(&mut self) -> Option<u64> {
        self.is_failing = false;
        std::mem::take(&mut self.is_failure_logged).then(|| std::mem::take(&mut self.failed))
    }

    /// Whether a warning may be logged now. If so, it counts as logged.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last_warning.is_none_or(|last_warning| {
            now.saturating_duration_since(last_warning) >= WARNING_INTERVAL
        });
        if is_due {
            self.last_warning = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_is_logged_at_once_and_then_once_a_minute() {
        let mut state = FailureLog::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(state.record_failure(at(0)), Some(1));
        for second in 1..60 {
            assert_eq!(state.record_failure(at(second)), None);
        }
        assert_eq!(state.record_failure(at(60)), Some(60));
        assert_eq!(state.record_failure(at(61)), None);
        assert_eq!(state.record_success(), Some(1));
        assert_eq!(state.record_success(), None);
    }

    #[test]
    fn flapping_exporter_logs_no_more_often() {
        let mut state = FailureLog::default();
        let begin = Instant::now();
        let mut lines = 0;
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            lines += usize::from(state.record_failure(now).is_some());
            lines += usize::from(state.record_success().is_some());
        }
        assert_eq!(lines, 2 * 10);
    }
}
