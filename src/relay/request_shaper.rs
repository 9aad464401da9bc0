//! The pace of RESERVE on one connection.

use std::time::Duration;

use tokio::time::Instant;

/// How many a client may send at once.
pub(super) const BURST: u32 = 64;
/// The time in which one more is served after that.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// Those beyond the burst that wait for their turn; further ones wait no longer than these.
const MAX_WAITING: u32 = 64;

/// Counts requests: [`BURST`] at once, and one more in each [`INTERVAL`]. Those that are faster have
/// to wait; none is refused.
#[derive(Debug, Default)]
pub(super) struct RequestShaper {
    /// When the whole burst is available again.
    recovered: Option<Instant>,
}

impl RequestShaper {
    /// Counts a request that came at `now`, and gives how long it has to wait.
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
    fn requests_beyond_the_burst_wait_for_their_turn() {
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
