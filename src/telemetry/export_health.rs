//! What the operator is told when an exporter does not get through: soon, clearly, and seldom.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::metrics::Metrics;

/// How often the log tells of an exporter that fails.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Why an export failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportError {
    /// What happened. Neither a header nor anything that the collector says is part of it.
    pub(super) message: String,
    /// What the operator may look at.
    pub(super) check: &'static str,
    /// How many items were refused, when the others arrived.
    pub(super) rejected: Option<u64>,
}

impl ExportError {
    /// Nothing arrived.
    pub(super) fn new(message: impl Into<String>, check: &'static str) -> Self {
        Self {
            message: message.into(),
            check,
            rejected: None,
        }
    }
}

/// An error in words, with all that caused it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error_message = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        error_message = format!("{error_message}: {source}");
        error = source;
    }
    error_message
}

/// Keeps account of an exporter, and tells of it.
#[derive(Debug)]
pub(super) struct ExportHealth {
    /// "traces" or "metrics".
    signal: &'static str,
    /// Where it exports to, without secrets.
    endpoint: String,
    /// They exist only after the exporters do.
    metrics: OnceLock<Metrics>,
    /// Items that were lost and not told of.
    lost: AtomicU64,
    state: Mutex<FailureLog>,
}

/// What has failed, and what of it the log knows.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    /// Exports that failed since the log last said so.
    failed: u64,
    last_warning: Option<Instant>,
    /// Whether the last export did.
    is_failing: bool,
    /// Whether the last thing that the log says is that it fails.
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

    /// Counts by these instruments from now on.
    pub(super) fn count_by(&self, metrics: &Metrics) {
        // Only the first ones count.
        let _ = self.metrics.set(metrics.clone());
    }

    /// So many items will never arrive. It only counts, for those who must not be held up.
    pub(super) fn record_lost(&self, items: u64) {
        self.lost.fetch_add(items, Ordering::Relaxed);
        if let Some(metrics) = self.metrics.get() {
            metrics.lost(self.signal, items);
        }
    }

    /// An export got through.
    pub(super) fn record_success(&self) {
        self.count(true);
        let mut state = self.state();
        if let Some(failed) = state.record_success() {
            info!(
                signal = self.signal,
                endpoint = self.endpoint,
                failed,
                lost = self.take_lost(),
                "telemetry is exported again"
            );
        }
        if self.lost.load(Ordering::Relaxed) > 0 && state.is_due(Instant::now()) {
            warn!(
                signal = self.signal,
                endpoint = self.endpoint,
                lost = self.take_lost(),
                check = "OTEL_BSP_MAX_QUEUE_SIZE",
                "telemetry was lost: there is more than can be exported"
            );
        }
    }

    /// An export did not get through.
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
                "telemetry cannot be exported; the relay goes on without"
            );
        }
    }

    /// Whether the last export did not get through.
    pub(super) fn is_failing(&self) -> bool {
        self.state().is_failing
    }

    /// What was lost since the log last told of it, and is told of now.
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
    /// An export failed. Gives how many have since the log last said so, if it is to say so now.
    pub(crate) fn record_failure(&mut self, now: Instant) -> Option<u64> {
        self.failed += 1;
        self.is_failing = true;
        self.is_due(now).then(|| {
            self.is_failure_logged = true;
            std::mem::take(&mut self.failed)
        })
    }

    /// An export got through. Gives how many failed that the log does not know of, if it is to say
    /// that they do no more.
    pub(crate) fn record_success(&mut self) -> Option<u64> {
        self.is_failing = false;
        std::mem::take(&mut self.is_failure_logged).then(|| std::mem::take(&mut self.failed))
    }

    /// Whether the log may be given a warning. If so, this counts as one.
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
    fn a_warning_comes_at_once_and_then_once_a_minute() {
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
    fn an_exporter_that_comes_and_goes_makes_no_more_noise() {
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
