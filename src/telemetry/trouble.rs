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
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Why an export failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// What happened. Neither a header nor anything that the collector says is part of it.
    pub(super) what: String,
    /// What the operator may look at.
    pub(super) check: &'static str,
}

/// Keeps account of an exporter, and tells of it.
#[derive(Debug)]
pub(super) struct Trouble {
    /// "traces" or "metrics".
    signal: &'static str,
    /// Where it exports to, without secrets.
    endpoint: String,
    /// They exist only after the exporters do.
    metrics: OnceLock<Metrics>,
    /// Items that were lost and not told of.
    lost: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Exports that failed since the log last said so.
    failed: u64,
    told: Option<Instant>,
    /// Whether the last thing that the log says is that it fails.
    is_told_to_fail: bool,
}

impl Trouble {
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
    pub(super) fn lost(&self, items: u64) {
        self.lost.fetch_add(items, Ordering::Relaxed);
        if let Some(metrics) = self.metrics.get() {
            metrics.lost(self.signal, items);
        }
    }

    /// An export got through.
    pub(super) fn worked(&self) {
        self.count(true);
        let mut state = self.state();
        if std::mem::take(&mut state.is_told_to_fail) {
            info!(
                signal = self.signal,
                endpoint = self.endpoint,
                failed = std::mem::take(&mut state.failed),
                lost = self.lost.swap(0, Ordering::Relaxed),
                "telemetry is exported again"
            );
        }
        if state.is_due()
            && let lost @ 1.. = self.lost.swap(0, Ordering::Relaxed)
        {
            state.told = Some(Instant::now());
            warn!(
                signal = self.signal,
                endpoint = self.endpoint,
                lost,
                check = "OTEL_BSP_MAX_QUEUE_SIZE",
                "telemetry was lost: there is more than can be exported"
            );
        }
    }

    /// An export did not get through.
    pub(super) fn failed(&self, cause: &Cause) {
        self.count(false);
        let mut state = self.state();
        state.failed += 1;
        if !state.is_due() {
            return;
        }
        state.told = Some(Instant::now());
        state.is_told_to_fail = true;
        warn!(
            signal = self.signal,
            endpoint = self.endpoint,
            cause = cause.what,
            check = cause.check,
            failed = std::mem::take(&mut state.failed),
            lost = self.lost.swap(0, Ordering::Relaxed),
            "telemetry cannot be exported; the relay goes on without"
        );
    }

    fn count(&self, success: bool) {
        if let Some(metrics) = self.metrics.get() {
            metrics.exported(self.signal, success);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_due(&self) -> bool {
        self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL)
    }
}
