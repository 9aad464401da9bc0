//! Timers that may be a little late, so that many of them end at once.
//!
//! A relay at rest does nothing but wake for one idle peer after the other. Waking costs more than
//! what is then to be done, and it is the same for one peer and for a hundred.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The first moment from `at` on that all timers with this much slack have in common. It is less
/// than `slack` later.
pub(super) fn common(at: Instant, slack: Duration) -> Instant {
    let passed = at.saturating_duration_since(*BEGIN).as_nanos();
    let late = passed.checked_rem(slack.as_nanos()).unwrap_or_default();
    let late = Duration::from_nanos(u64::try_from(late).unwrap_or_default());
    if late.is_zero() {
        at
    } else {
        at + slack.saturating_sub(late)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timers_meet(millis in 0..100_000_u64, slack in 1..2_000_u64) {
            let at = *BEGIN + Duration::from_millis(millis);
            let slack = Duration::from_millis(slack);
            let common = common(at, slack);
            prop_assert!(at <= common && common < at + slack);
            let passed = (common - *BEGIN).as_nanos();
            prop_assert_eq!(passed % slack.as_nanos(), 0);
        }
    }

    #[test]
    fn without_slack_nothing_is_late() {
        let at = *BEGIN + Duration::from_millis(7);
        assert_eq!(common(at, Duration::ZERO), at);
    }
}
