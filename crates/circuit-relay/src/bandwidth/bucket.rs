//! A token bucket of bytes, with a rate and a burst.
//!
//! It has no clock: time is passed in.

use std::time::{Duration, Instant};

/// Tokens are counted in billionths of a byte: a nanosecond then adds exactly `rate` of them,
/// without rounding.
const BYTE: i128 = 1_000_000_000;

/// A token bucket; see the module documentation.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes per second, equal to billionths of a byte per nanosecond.
    rate: i128,
    burst: i128,
    /// Level at the time `at`.
    level: i128,
    at: Instant,
}

impl Bucket {
    /// Creates a full bucket that refills at `rate` bytes per second up to `burst` bytes.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let burst = i128::from(burst) * BYTE;
        Self {
            rate: i128::from(rate.max(1)),
            burst,
            level: burst,
            at: now,
        }
    }

    /// Takes bytes, at most the burst.
    ///
    /// # Errors
    /// If the level is too low: when it will be high enough. Nothing is taken.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        let bytes = (i128::from(bytes) * BYTE).min(self.burst);
        let missing = bytes - self.level;
        if missing > 0 {
            let wait = missing.unsigned_abs().div_ceil(self.rate.unsigned_abs());
            let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
            return Err(self.at.checked_add(wait).unwrap_or(self.at));
        }
        self.level -= bytes;
        Ok(())
    }

    /// Returns unused bytes to the bucket.
    pub(super) fn refund(&mut self, bytes: u64) {
        let level = self.level.saturating_add(i128::from(bytes) * BYTE);
        self.level = level.min(self.burst);
    }

    /// Whether the level equals the burst.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.level_at(now) == self.burst
    }

    /// Bytes in the bucket.
    pub(super) fn available(&self, now: Instant) -> u64 {
        u64::try_from(self.level_at(now) / BYTE).unwrap_or(0)
    }

    fn level_at(&self, now: Instant) -> i128 {
        let nanoseconds = now.saturating_duration_since(self.at).as_nanos();
        let nanoseconds = i128::try_from(nanoseconds).unwrap_or(i128::MAX);
        let level = self
            .level
            .saturating_add(nanoseconds.saturating_mul(self.rate));
        level.min(self.burst)
    }
}
