//! Timer coalescing: deadlines are rounded up to a common grid, so that many timers fire at once.
//!
//! An idle relay does little but wake up for the timers of idle peers, one after the other. A wakeup
//! costs more than the work that follows it, and costs the same for one peer as for a hundred.
//!
//! Linux coalesces timers, too: its "timer slack" setting (`PR_SET_TIMERSLACK`, 50 µs by default)
//! delays the wakeups of a thread. The delays here are a thousand times as long, and apply to
//! selected timers only.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// The origin of the grid.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Rounds `at` up to a multiple of `interval` since an arbitrary origin, which is the same for the
/// whole process. The result is less than `interval` later; an interval of zero changes nothing.
pub(super) fn round_up(at: Instant, interval: Duration) -> Instant {
    let elapsed = at.saturating_duration_since(*EPOCH).as_nanos();
    let remainder = elapsed.checked_rem(interval.as_nanos()).unwrap_or_default();
    let remainder = Duration::from_nanos(u64::try_from(remainder).unwrap_or_default());
    if remainder.is_zero() {
        at
    } else {
        at + interval.saturating_sub(remainder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn deadlines_are_on_the_grid(millis in 0..100_000_u64, interval in 1..2_000_u64) {
            let at = *EPOCH + Duration::from_millis(millis);
            let interval = Duration::from_millis(interval);
            let rounded = round_up(at, interval);
            prop_assert!(at <= rounded && rounded < at + interval);
            let elapsed = (rounded - *EPOCH).as_nanos();
            prop_assert_eq!(elapsed % interval.as_nanos(), 0);
        }
    }

    #[test]
    fn zero_interval_changes_nothing() {
        let at = *EPOCH + Duration::from_millis(7);
        assert_eq!(round_up(at, Duration::ZERO), at);
    }
}
