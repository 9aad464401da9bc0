//! Watermarks of memory use, in bytes.

/// Percentage of the limit from which on connections are closed.
const CRITICAL_PERCENT: u64 = 95;
/// Percentage of the limit at which memory pressure begins.
const HIGH_PERCENT: u64 = 90;
/// Percentage of the limit below which memory pressure ends. The gap to the high watermark is the
/// hysteresis that keeps the state from flapping.
const LOW_PERCENT: u64 = 85;

/// Three watermarks, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermarks {
    critical: u64,
    high: u64,
    low: u64,
}

impl Watermarks {
    /// The watermarks of a limit in bytes.
    pub(super) fn of(limit: u64) -> Self {
        let percent = |n: u64| limit / 100 * n + limit % 100 * n / 100;
        Self {
            critical: percent(CRITICAL_PERCENT),
            high: percent(HIGH_PERCENT),
            low: percent(LOW_PERCENT),
        }
    }

    /// Whether `used` bytes have reached the critical watermark.
    pub(super) fn is_critical(self, used: u64) -> bool {
        used >= self.critical
    }

    /// Bytes between `used` and the high watermark.
    pub(super) fn room(self, used: u64) -> u64 {
        self.high.saturating_sub(used)
    }

    /// The low watermark, in bytes.
    pub(super) fn low(self) -> u64 {
        self.low
    }

    /// Whether memory is under pressure at `used` bytes, given whether it was before.
    pub(super) fn under_pressure(self, used: u64, was_under_pressure: bool) -> bool {
        used >= if was_under_pressure {
            self.low
        } else {
            self.high
        }
    }
}
