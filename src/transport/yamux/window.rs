//! How much the remote may send on a stream before somebody reads it.
//!
//! All streams start with the same window. A larger one is of use where it is the window that holds
//! a stream up, and that is so in two cases: the remote is far away, so that its window is empty for
//! most of the time, or nobody else sends, so that there is nothing else to do meanwhile. Otherwise
//! streams share a busy relay. Each gets as many turns as the others and moves a window in each, and
//! those with a larger one would have the larger share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{INITIAL_WINDOW, round_trip::FAR};

/// How often in a row a stream is credited, and no other, until it counts as the only one.
const LONE_CREDITS: u8 = 8;

/// Which part of its window has to be read before a remote is credited with it: so much that it is a
/// rare thing, and less for one that is far away, which has sent the rest before the credit arrives.
const PART: u32 = 2;
const PART_WHEN_FAR: u32 = 8;

/// Which part of the window a round trip has to bring so that the window grows.
const USED_PART: u128 = 4;

/// What streams know of each other, over all connections that have a clone of it.
#[derive(Debug, Clone, Default)]
pub struct Sharing(Arc<Credits>);

#[derive(Debug, Default)]
struct Credits {
    streams: AtomicU64,
    last: AtomicU64,
}

impl Sharing {
    fn join(&self) -> u64 {
        self.0.streams.fetch_add(1, Relaxed) + 1
    }

    /// Notes that a stream is credited; whether the last one that was is the same.
    fn credited(&self, stream: u64) -> bool {
        self.0.last.swap(stream, Relaxed) == stream
    }
}

/// The receive window of a stream.
#[derive(Debug)]
pub(super) struct Window {
    /// How many bytes the remote may still send.
    left: u32,
    /// What `left` is filled up to.
    limit: u32,
    /// Bytes that were read and not credited to the remote yet.
    consumed: u32,
    /// Bytes that are not credited when they are read, since the limit was higher.
    excess: u32,
    /// When the remote was credited last.
    credited: Option<Instant>,
    /// Which one this is among those that share, and how many credits in a row were its own.
    id: u64,
    lone: u8,
    sharing: Sharing,
}

impl Window {
    pub(super) fn new(sharing: &Sharing) -> Self {
        Self {
            left: INITIAL_WINDOW,
            limit: INITIAL_WINDOW,
            consumed: 0,
            excess: 0,
            credited: None,
            id: sharing.join(),
            lone: 0,
            sharing: sharing.clone(),
        }
    }

    /// Takes `length` bytes of it; `false` if it has no room for them.
    #[must_use]
    pub(super) fn reserve(&mut self, length: u32) -> bool {
        let Some(left) = self.left.checked_sub(length) else {
            return false;
        };
        self.left = left;
        true
    }

    /// Notes that `n` bytes were read. Returns what to credit to the remote, once that is worth a
    /// window update.
    ///
    /// `far` is the round trip to a remote that is far away, and `max` how large the window may grow.
    pub(super) fn consume(&mut self, n: usize, far: Option<Duration>, max: u32) -> Option<u32> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let withheld = n.min(self.excess);
        self.excess -= withheld;
        self.consumed = self.consumed.saturating_add(n - withheld);
        let part = if far.is_some() { PART_WHEN_FAR } else { PART };
        if self.consumed < self.limit / part {
            return None;
        }
        let now = Instant::now();
        let took = self.credited.replace(now).map(|last| now - last);
        // Who is alone may send as much as if it were far away.
        let round_trip = far.or(self.is_alone().then_some(FAR));
        match (round_trip, took) {
            (None, _) => self.narrow(),
            (Some(round_trip), Some(took)) if self.is_used(took, round_trip) => self.widen(max),
            (Some(_), _) => {}
        }
        let delta = std::mem::take(&mut self.consumed);
        self.left = self.left.saturating_add(delta);
        Some(delta).filter(|&delta| delta > 0)
    }

    /// Whether nobody else is credited. Asked once for each credit.
    fn is_alone(&mut self) -> bool {
        self.lone = if self.sharing.credited(self.id) {
            self.lone.saturating_add(1)
        } else {
            0
        };
        self.lone >= LONE_CREDITS
    }

    /// Whether so much comes in a round trip that the window may be what limits it.
    fn is_used(&self, took: Duration, round_trip: Duration) -> bool {
        u128::from(self.consumed) * round_trip.as_nanos() * USED_PART
            >= u128::from(self.limit) * took.as_nanos()
    }

    /// Doubles it, up to `max`.
    fn widen(&mut self, max: u32) {
        let more = max
            .min(self.limit.saturating_mul(2))
            .saturating_sub(self.limit);
        self.limit += more;
        let kept = more.min(self.excess);
        self.excess -= kept;
        self.consumed = self.consumed.saturating_add(more - kept);
    }

    /// Goes back to the window with which all start.
    fn narrow(&mut self) {
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

    /// Sends and reads so many windows, and gives what the last one was.
    fn exhaust(window: &mut Window, times: u8, far: Option<Duration>) -> u32 {
        let mut used = 0;
        for _ in 0..times {
            used = window.left;
            assert!(window.reserve(used));
            window.consume(used as usize, far, MAX);
        }
        used
    }

    proptest! {
        /// Whatever others do, and however far it is: who reads everything lets the remote send.
        #[test]
        fn a_remote_whose_bytes_are_read_may_send(
            steps in prop::collection::vec(
                (any::<bool>(), 0..2 * MAX, 0..2 * MAX, 0..40_u64, any::<bool>()), 0..200,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            let _inside = runtime.enter();
            let sharing = Sharing::default();
            let mut streams = [(); 2].map(|()| (Window::new(&sharing), 0));
            for (second, sent, read, millis, is_far) in steps {
                let (window, unread) = &mut streams[usize::from(second)];
                let sent = sent.min(window.left);
                prop_assert!(window.reserve(sent));
                *unread += sent;
                let read = read.min(*unread);
                *unread -= read;
                window.consume(read as usize, is_far.then_some(2 * FAR), MAX);
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
        for (far, part) in [(None, PART), (Some(FAR), PART_WHEN_FAR)] {
            let part = INITIAL_WINDOW / part;
            let mut window = Window::new(&Sharing::default());
            assert!(window.reserve(INITIAL_WINDOW));
            assert!(!window.reserve(1));
            assert_eq!(window.consume(part as usize - 1, far, MAX), None);
            assert_eq!(window.consume(1, far, MAX), Some(part));
            assert_eq!(window.left, part);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_remote_that_is_far_away_gets_as_much_as_it_uses_in_a_round_trip() {
        const ROUND_TRIP: Duration = Duration::from_millis(100);
        let sharing = Sharing::default();
        let [mut slow, mut fast, mut near] = [(); 3].map(|()| Window::new(&sharing));
        for _ in 0..20 {
            assert_eq!(exhaust(&mut slow, 1, Some(ROUND_TRIP)), INITIAL_WINDOW);
            for _ in 0..5 {
                exhaust(&mut fast, 1, Some(ROUND_TRIP));
                assert_eq!(exhaust(&mut near, 1, None), INITIAL_WINDOW);
                tokio::time::advance(ROUND_TRIP).await;
            }
        }
        assert_eq!(exhaust(&mut fast, 1, Some(ROUND_TRIP)), MAX);
        exhaust(&mut fast, 2, None);
        assert_eq!(exhaust(&mut fast, 1, None), INITIAL_WINDOW, "it is near");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_alone_gets_a_larger_window_until_another_comes() {
        let sharing = Sharing::default();
        let [mut first, mut second] = [(); 2].map(|()| Window::new(&sharing));
        for _ in 0..=LONE_CREDITS {
            assert_eq!(exhaust(&mut first, 1, None), INITIAL_WINDOW);
            tokio::time::advance(FAR).await;
        }
        assert_eq!(exhaust(&mut first, 5, None), MAX);

        assert_eq!(exhaust(&mut second, 1, None), INITIAL_WINDOW);
        assert_eq!(exhaust(&mut first, 1, None), MAX, "it is granted already");
        for _ in 0..20 {
            assert_eq!(exhaust(&mut second, 1, None), INITIAL_WINDOW);
            assert_eq!(exhaust(&mut first, 1, None), INITIAL_WINDOW);
        }
        for _ in 0..20 {
            tokio::time::advance(5 * FAR).await;
            assert_eq!(exhaust(&mut first, 1, None), INITIAL_WINDOW, "it is slow");
        }
        assert_eq!(exhaust(&mut first, 5, None), MAX);
    }
}
