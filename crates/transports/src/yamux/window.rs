//! The receive window of a stream: how many bytes the remote may send before they are read.
//!
//! All streams start with the same window. A larger one increases throughput in two cases:
//!
//! - The round-trip time is high: the remote exhausts its window long before the next window update
//!   arrives.
//! - No other stream is busy: the relay has nothing else to do while the remote waits for credit.
//!
//! In all other cases streams compete for a busy relay. Each moves at most a window per scheduling
//! turn, and all get equally many turns, so a larger window would be a larger share of the relay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{INITIAL_WINDOW, rtt::HIGH_RTT};

/// The number of consecutive window updates, over all connections, after which the stream that sent
/// all of them counts as the only busy one.
const SOLE_STREAM_UPDATES: u8 = 8;

/// A window update is sent once this fraction of the window was read. It is large, so that updates
/// are rare; at a high round-trip time it is smaller, since the remote would otherwise exhaust the
/// rest of the window before the update arrives.
const WINDOW_UPDATE_DIVISOR: u32 = 2;
const WINDOW_UPDATE_DIVISOR_HIGH_RTT: u32 = 8;

/// The window grows if at least this fraction of it is read per round trip.
const GROWTH_DIVISOR: u128 = 4;

/// Shared state by which streams detect whether others are busy, over all connections that have a
/// clone of it. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct FairShare(Arc<Updates>);

#[derive(Debug, Default)]
struct Updates {
    /// The number of streams so far, for unique ids.
    streams: AtomicU64,
    /// The id of the stream that sent the latest window update.
    latest: AtomicU64,
}

impl FairShare {
    /// The id of a new stream.
    fn register(&self) -> u64 {
        self.0.streams.fetch_add(1, Relaxed) + 1
    }

    /// Records a window update of `stream`. Returns whether the previous one was of the same stream.
    fn record_update(&self, stream: u64) -> bool {
        self.0.latest.swap(stream, Relaxed) == stream
    }
}

/// The receive window of a stream.
///
/// Invariant: `left` + `consumed` + the bytes that were received and not read = `limit` + `excess`.
/// Each method changes both sides by the same amount. The right side never exceeds the largest limit
/// that the window ever had, which bounds what the remote can make the relay buffer.
#[derive(Debug)]
pub(super) struct Window {
    /// How many bytes the remote may still send.
    left: u32,
    /// The size of the window: the value that window updates restore `left` to.
    limit: u32,
    /// Bytes that were read, and that the remote gets as credit with the next update.
    consumed: u32,
    /// Credit that the remote has beyond `limit` since the window shrank. Yamux cannot revoke it;
    /// as many bytes are read without being credited again.
    excess: u32,
    /// When the latest window update was sent.
    updated_at: Option<Instant>,
    id: u64,
    /// Consecutive window updates, over all streams, that were this stream's.
    consecutive_updates: u8,
    fair_share: FairShare,
}

impl Window {
    pub(super) fn new(fair_share: &FairShare) -> Self {
        Self {
            left: INITIAL_WINDOW,
            limit: INITIAL_WINDOW,
            consumed: 0,
            excess: 0,
            updated_at: None,
            id: fair_share.register(),
            consecutive_updates: 0,
            fair_share: fair_share.clone(),
        }
    }

    /// Takes `length` bytes of the window for a frame that arrives. Returns `false`, and takes
    /// nothing, if the frame exceeds the window.
    #[must_use]
    pub(super) fn reserve(&mut self, length: u32) -> bool {
        let Some(left) = self.left.checked_sub(length) else {
            return false;
        };
        self.left = left;
        true
    }

    /// Records that `n` bytes were read. Returns the credit for the remote, if a window update is
    /// due.
    ///
    /// `high_rtt` is the round-trip time if it is at least [`HIGH_RTT`]; `max` is the maximum size of
    /// the window in bytes.
    pub(super) fn consume(
        &mut self,
        n: usize,
        high_rtt: Option<Duration>,
        max: u32,
    ) -> Option<u32> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        // Bytes beyond the limit are paid back first: each one that is withheld here brings the
        // outstanding credit closer to the limit.
        let withheld = n.min(self.excess);
        self.excess -= withheld;
        self.consumed = self.consumed.saturating_add(n - withheld);
        let divisor = match high_rtt {
            Some(_) => WINDOW_UPDATE_DIVISOR_HIGH_RTT,
            None => WINDOW_UPDATE_DIVISOR,
        };
        if self.consumed < self.limit / divisor {
            // By the invariant, a remote whose bytes were all read still has more than
            // `limit - limit / divisor` bytes of credit, so it is never blocked here.
            return None;
        }
        let now = Instant::now();
        let elapsed = self.updated_at.replace(now).map(|last| now - last);
        // The only busy stream gets the window of a connection with a high round-trip time.
        let rtt = high_rtt.or(self.is_sole_stream().then_some(HIGH_RTT));
        match (rtt, elapsed) {
            // Others are busy and the round trip is short: back to an equal share.
            (None, _) => self.shrink(),
            (Some(rtt), Some(elapsed)) if self.is_limiting(elapsed, rtt) => self.grow(max),
            // The window does not limit the stream, or this is the first update and nothing is known.
            (Some(_), _) => {}
        }
        let delta = std::mem::take(&mut self.consumed);
        self.left = self.left.saturating_add(delta);
        // Zero if the shrinking withheld all of it.
        Some(delta).filter(|&delta| delta > 0)
    }

    /// Whether no other stream has sent a window update lately. To be called once for each update.
    fn is_sole_stream(&mut self) -> bool {
        self.consecutive_updates = if self.fair_share.record_update(self.id) {
            self.consecutive_updates.saturating_add(1)
        } else {
            0
        };
        self.consecutive_updates >= SOLE_STREAM_UPDATES
    }

    /// Whether the stream reads so much per round trip that the window may limit it:
    /// `consumed / elapsed >= limit / GROWTH_DIVISOR / rtt`, without divisions.
    fn is_limiting(&self, elapsed: Duration, rtt: Duration) -> bool {
        u128::from(self.consumed) * rtt.as_nanos() * GROWTH_DIVISOR
            >= u128::from(self.limit) * elapsed.as_nanos()
    }

    /// Doubles the window, up to `max`. The additional credit is sent with the update that follows,
    /// less what the remote still has beyond the old limit.
    fn grow(&mut self, max: u32) {
        let more = max
            .min(self.limit.saturating_mul(2))
            .saturating_sub(self.limit);
        self.limit += more;
        let outstanding = more.min(self.excess);
        self.excess -= outstanding;
        self.consumed = self.consumed.saturating_add(more - outstanding);
    }

    /// Resets the window to its initial size. The difference is withheld from the update that
    /// follows, and what exceeds that from later ones.
    fn shrink(&mut self) {
        let less = self.limit - INITIAL_WINDOW;
        self.limit = INITIAL_WINDOW;
        let withheld = less.min(self.consumed);
        self.consumed -= withheld;
        self.excess = self.excess.saturating_add(less - withheld);
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> u32 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u32 = 4 * INITIAL_WINDOW;

    /// Sends and reads `times` full windows, and returns the size of the last one.
    fn exhaust(window: &mut Window, times: u8, high_rtt: Option<Duration>) -> u32 {
        let mut used = 0;
        for _ in 0..times {
            used = window.left;
            assert!(window.reserve(used));
            window.consume(used as usize, high_rtt, MAX);
        }
        used
    }

    proptest! {
        /// Whatever other streams do, and at any round-trip time, a remote whose bytes were all read
        /// has credit.
        #[test]
        fn remote_has_credit_once_its_bytes_are_read(
            steps in prop::collection::vec(
                (any::<bool>(), 0..2 * MAX, 0..2 * MAX, 0..40_u64, any::<bool>()), 0..200,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            let _inside = runtime.enter();
            let fair_share = FairShare::default();
            let mut streams = [(); 2].map(|()| (Window::new(&fair_share), 0));
            for (second, sent, read, millis, has_high_rtt) in steps {
                let (window, unread) = &mut streams[usize::from(second)];
                let sent = sent.min(window.left);
                prop_assert!(window.reserve(sent));
                *unread += sent;
                let read = read.min(*unread);
                *unread -= read;
                window.consume(read as usize, has_high_rtt.then_some(2 * HIGH_RTT), MAX);
                if *unread == 0 {
                    prop_assert!(window.left >= INITIAL_WINDOW / 2);
                }
                prop_assert!(window.left + *unread <= MAX);
                runtime.block_on(tokio::time::advance(Duration::from_millis(millis)));
            }
        }
    }

    #[test]
    fn credit_is_batched() {
        for (high_rtt, divisor) in [
            (None, WINDOW_UPDATE_DIVISOR),
            (Some(HIGH_RTT), WINDOW_UPDATE_DIVISOR_HIGH_RTT),
        ] {
            let part = INITIAL_WINDOW / divisor;
            let mut window = Window::new(&FairShare::default());
            assert!(window.reserve(INITIAL_WINDOW));
            assert!(!window.reserve(1));
            assert_eq!(window.consume(part as usize - 1, high_rtt, MAX), None);
            assert_eq!(window.consume(1, high_rtt, MAX), Some(part));
            assert_eq!(window.left, part);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn window_grows_with_the_bytes_per_round_trip_at_a_high_rtt() {
        const RTT: Duration = Duration::from_millis(100);
        let fair_share = FairShare::default();
        let [mut slow, mut fast, mut near] = [(); 3].map(|()| Window::new(&fair_share));
        for _ in 0..20 {
            assert_eq!(exhaust(&mut slow, 1, Some(RTT)), INITIAL_WINDOW);
            for _ in 0..5 {
                exhaust(&mut fast, 1, Some(RTT));
                assert_eq!(exhaust(&mut near, 1, None), INITIAL_WINDOW);
                tokio::time::advance(RTT).await;
            }
        }
        assert_eq!(exhaust(&mut fast, 1, Some(RTT)), MAX);
        exhaust(&mut fast, 2, None);
        assert_eq!(
            exhaust(&mut fast, 1, None),
            INITIAL_WINDOW,
            "the round-trip time is low"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn sole_stream_gets_a_larger_window_until_another_is_busy() {
        let fair_share = FairShare::default();
        let [mut first, mut second] = [(); 2].map(|()| Window::new(&fair_share));
        for _ in 0..=SOLE_STREAM_UPDATES {
            assert_eq!(exhaust(&mut first, 1, None), INITIAL_WINDOW);
            tokio::time::advance(HIGH_RTT).await;
        }
        assert_eq!(exhaust(&mut first, 5, None), MAX);

        assert_eq!(exhaust(&mut second, 1, None), INITIAL_WINDOW);
        assert_eq!(
            exhaust(&mut first, 1, None),
            MAX,
            "the credit is granted already"
        );
        for _ in 0..20 {
            assert_eq!(exhaust(&mut second, 1, None), INITIAL_WINDOW);
            assert_eq!(exhaust(&mut first, 1, None), INITIAL_WINDOW);
        }
        for _ in 0..20 {
            tokio::time::advance(5 * HIGH_RTT).await;
            assert_eq!(
                exhaust(&mut first, 1, None),
                INITIAL_WINDOW,
                "the stream is slow"
            );
        }
        assert_eq!(exhaust(&mut first, 5, None), MAX);
    }
}
