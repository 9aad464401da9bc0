//! When repeated failures are logged: the first at once, further ones at most once a minute.

use std::time::{Duration, Instant};

/// Minimum interval between two warnings about the same thing.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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

impl FailureLog {
    /// Whether the last attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing
    }

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
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
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
