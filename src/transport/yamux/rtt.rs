//! How far away the remote is: the time that a ping of yamux took there and back.
//!
//! Only who sends a lot is asked, and only until it turns out to be near. The shortest time counts,
//! since a ping waits for what is before it, and for its turn on a busy machine.

use std::time::Duration;

use tokio::time::Instant;

use super::frame::Header;

/// From here on a remote is far away. The window with which streams start makes 26 MB/s of it.
pub(super) const FAR: Duration = Duration::from_millis(10);

/// How long after a ping there is another one, at the earliest.
const PERIOD: Duration = Duration::from_secs(1);

/// What tells these pings from those that ask a silent remote.
const VALUE: u32 = 0;

#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    /// The last ping, and whether there was an answer.
    asked: Option<Instant>,
    answered: bool,
    shortest: Option<Duration>,
}

impl RoundTrip {
    /// The ping that it is time for.
    pub(super) fn ask(&mut self) -> Option<Header> {
        if self.shortest.is_some_and(|shortest| shortest < FAR) {
            return None;
        }
        let now = Instant::now();
        let is_early = |asked| !self.answered || now.duration_since(asked) < PERIOD;
        if self.asked.is_some_and(is_early) {
            return None;
        }
        self.asked = Some(now);
        self.answered = false;
        Some(Header::ping(VALUE))
    }

    /// Notes the answer to a ping, whichever it was.
    pub(super) fn answered(&mut self, value: u32) {
        let Some(asked) = self.asked.filter(|_| value == VALUE && !self.answered) else {
            return;
        };
        self.answered = true;
        let took = asked.elapsed();
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
    }

    /// The round trip, if the remote is far away as far as is known.
    pub(super) fn far(&self) -> Option<Duration> {
        self.shortest.filter(|&shortest| shortest >= FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_shortest_counts_and_who_is_near_is_asked_no_more() {
        let mut round_trip = RoundTrip::default();
        for (took, far) in [(30, 30), (40, 30), (20, 20)] {
            assert_eq!(round_trip.ask(), Some(Header::ping(VALUE)));
            tokio::time::advance(Duration::from_millis(took)).await;
            assert_eq!(round_trip.ask(), None, "there is one on its way");
            round_trip.answered(VALUE + 1);
            assert_eq!(round_trip.ask(), None, "that was another");
            round_trip.answered(VALUE);
            assert_eq!(round_trip.far(), Some(Duration::from_millis(far)));
            assert_eq!(round_trip.ask(), None, "it was asked just now");
            tokio::time::advance(PERIOD).await;
        }
        assert!(round_trip.ask().is_some());
        tokio::time::advance(FAR / 2).await;
        round_trip.answered(VALUE);
        tokio::time::advance(PERIOD).await;
        assert_eq!((round_trip.far(), round_trip.ask()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_nothing_says_nothing() {
        let mut round_trip = RoundTrip::default();
        round_trip.answered(VALUE);
        assert!(round_trip.ask().is_some());
        tokio::time::advance(2 * FAR).await;
        round_trip.answered(VALUE);
        tokio::time::advance(FAR).await;
        round_trip.answered(VALUE);
        assert_eq!(round_trip.far(), Some(2 * FAR));
    }
}
