//! Round-trip time of a connection, measured by yamux pings.
//!
//! A remote is pinged only while it sends much, and only until its round-trip time turns out to be
//! low. The minimum counts: a ping waits behind queued data, and for the scheduler of a busy machine.

use std::time::Duration;

use tokio::time::Instant;

use super::frame::Header;

/// The round-trip time from which on it limits throughput: the initial window of 256 KiB yields
/// 26 MB/s at 10 ms.
pub(super) const HIGH_RTT: Duration = Duration::from_millis(10);

/// The minimum interval between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The opaque value of these pings. Those of the [keepalive](super::keepalive) begin at 1.
const PING_VALUE: u32 = 0;

#[derive(Debug, Default)]
pub(super) struct RttEstimator {
    /// When the last ping was sent.
    sent_at: Option<Instant>,
    /// Whether the last ping was answered.
    is_answered: bool,
    min: Option<Duration>,
}

impl RttEstimator {
    /// The ping that is due, if any. At most one is in flight.
    pub(super) fn next_ping(&mut self) -> Option<Header> {
        if self.min.is_some_and(|min| min < HIGH_RTT) {
            return None;
        }
        let now = Instant::now();
        let is_early = |sent_at| !self.is_answered || now.duration_since(sent_at) < PING_INTERVAL;
        if self.sent_at.is_some_and(is_early) {
            return None;
        }
        self.sent_at = Some(now);
        self.is_answered = false;
        Some(Header::ping(PING_VALUE))
    }

    /// Handles the reply to any ping; replies to other pings and unsolicited ones are ignored.
    pub(super) fn on_pong(&mut self, value: u32) {
        let is_expected = value == PING_VALUE && !self.is_answered;
        let Some(sent_at) = self.sent_at.filter(|_| is_expected) else {
            return;
        };
        self.is_answered = true;
        let rtt = sent_at.elapsed();
        self.min = Some(self.min.map_or(rtt, |min| min.min(rtt)));
    }

    /// The round-trip time, if it is known and at least [`HIGH_RTT`].
    pub(super) fn high_rtt(&self) -> Option<Duration> {
        self.min.filter(|&min| min >= HIGH_RTT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn minimum_counts_and_pings_end_at_a_low_rtt() {
        let mut rtt = RttEstimator::default();
        for (elapsed, expected) in [(30, 30), (40, 30), (20, 20)] {
            assert_eq!(rtt.next_ping(), Some(Header::ping(PING_VALUE)));
            tokio::time::advance(Duration::from_millis(elapsed)).await;
            assert_eq!(rtt.next_ping(), None, "a ping is in flight");
            rtt.on_pong(PING_VALUE + 1);
            assert_eq!(rtt.next_ping(), None, "the reply was to another ping");
            rtt.on_pong(PING_VALUE);
            assert_eq!(rtt.high_rtt(), Some(Duration::from_millis(expected)));
            assert_eq!(rtt.next_ping(), None, "the interval has not passed");
            tokio::time::advance(PING_INTERVAL).await;
        }
        assert!(rtt.next_ping().is_some());
        tokio::time::advance(HIGH_RTT / 2).await;
        rtt.on_pong(PING_VALUE);
        tokio::time::advance(PING_INTERVAL).await;
        assert_eq!((rtt.high_rtt(), rtt.next_ping()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn unsolicited_pong_is_ignored() {
        let mut rtt = RttEstimator::default();
        rtt.on_pong(PING_VALUE);
        assert!(rtt.next_ping().is_some());
        tokio::time::advance(2 * HIGH_RTT).await;
        rtt.on_pong(PING_VALUE);
        tokio::time::advance(HIGH_RTT).await;
        rtt.on_pong(PING_VALUE);
        assert_eq!(rtt.high_rtt(), Some(2 * HIGH_RTT));
    }
}
