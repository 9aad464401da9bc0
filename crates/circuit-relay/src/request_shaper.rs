//! Shaping of RESERVE requests on one connection.

use std::time::Duration;

use tokio::time::Instant;

/// Requests that are served at once.
pub(super) const BURST: u32 = 64;
/// Interval at which further requests are served.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// Largest number of intervals that a request is delayed.
const MAX_WAITING: u32 = 64;

/// A token bucket of [`BURST`] requests that refills by one every [`INTERVAL`]. Requests beyond it
/// are delayed, never refused.
#[derive(Debug, Default)]
pub(super) struct RequestShaper {
    /// When the bucket is full again.
    recovered: Option<Instant>,
}

impl RequestShaper {
    /// Counts a request at `now`, and returns how long it has to be delayed.
    pub(super) fn delay(&mut self, now: Instant) -> Duration {
        let debt = self
            .recovered
            .map_or(Duration::ZERO, |then| then.saturating_duration_since(now));
        let debt = (debt + INTERVAL).min(INTERVAL * (BURST + MAX_WAITING));
        self.recovered = now.checked_add(debt);
        debt.saturating_sub(INTERVAL * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_burst_are_delayed() {
        let (mut shaper, now) = (RequestShaper::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(shaper.delay(now), Duration::ZERO);
        }
        for waiting in 1..=MAX_WAITING {
            assert_eq!(shaper.delay(now), INTERVAL * waiting);
        }
        assert_eq!(
            shaper.delay(now),
            INTERVAL * MAX_WAITING,
            "the wait is bounded"
        );
    }

    #[test]
    fn burst_recovers() {
        let (mut shaper, mut now) = (RequestShaper::default(), Instant::now());
        while shaper.delay(now).is_zero() {}
        now += INTERVAL * (BURST + 1);
        for _ in 0..BURST {
            assert_eq!(shaper.delay(now), Duration::ZERO);
        }
        assert_eq!(shaper.delay(now), INTERVAL);
    }
}
