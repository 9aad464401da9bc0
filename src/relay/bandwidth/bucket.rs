//! A bucket of bytes that fills at a rate, up to a burst.
//!
//! Pure: time is passed in.

use std::time::{Duration, Instant};

/// What a bucket holds is counted in billionths of a byte: what a nanosecond adds is then a whole
/// number, the rate, and nothing is ever rounded.
const BYTE: i128 = 1_000_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a second, and billionths of a byte a nanosecond.
    rate: i128,
    burst: i128,
    /// What was in it at `at`.
    level: i128,
    at: Instant,
}

impl Bucket {
    /// A full one, which fills at `rate` bytes a second up to `burst` bytes.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let burst = i128::from(burst) * BYTE;
        Self {
            rate: i128::from(rate.max(1)),
            burst,
            level: burst,
            at: now,
        }
    }

    /// Takes bytes out, which must not be more than the burst.
    ///
    /// # Errors
    /// When there will be as many, if nobody else takes any. Nothing is taken then.
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

    /// Puts bytes back that were taken and did not pass.
    pub(super) fn refund(&mut self, bytes: u64) {
        let level = self.level.saturating_add(i128::from(bytes) * BYTE);
        self.level = level.min(self.burst);
    }

    /// Whether nothing more goes in.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.level_at(now) == self.burst
    }

    /// How many bytes there are.
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
