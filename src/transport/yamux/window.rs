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

use super::INITIAL_WINDOW;

/// Who needs longer for a window is far away. With the one with which all start that makes less than
/// 10 MiB/s.
const SLOW: Duration = Duration::from_millis(25);
/// How often in a row that has to be so. A machine may stand still for a moment.
const SLOW_WINDOWS: u8 = 3;

/// How often in a row a stream is credited, and no other, until it counts as the only one.
const LONE_CREDITS: u8 = 8;

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
    /// The part of `left` that was granted since data arrived last.
    fresh: u32,
    /// What `left` is filled up to.
    limit: u32,
    /// Bytes that were read and not credited to the remote yet.
    consumed: u32,
    /// Bytes that are not credited when they are read, since the limit was higher.
    excess: u32,
    /// Whether the reader found it exhausted since data arrived last; when it did before, and what
    /// was read since.
    is_exhausted: bool,
    exhausted: Option<Instant>,
    read: u64,
    /// How many windows in a row were slow.
    slow: u8,
    /// Which one this is among those that share, and how many credits in a row were its own.
    id: u64,
    lone: u8,
    sharing: Sharing,
}

impl Window {
    pub(super) fn new(sharing: &Sharing) -> Self {
        Self {
            left: INITIAL_WINDOW,
            fresh: 0,
            limit: INITIAL_WINDOW,
            consumed: 0,
            excess: 0,
            is_exhausted: false,
            exhausted: None,
            read: 0,
            slow: 0,
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
        self.fresh = 0;
        self.is_exhausted = false;
        true
    }

    /// Notes that `n` bytes were read. Returns what to credit to the remote, once that is half a
    /// window, so that a window update is a rare thing.
    pub(super) fn consume(&mut self, n: usize) -> Option<u32> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.read = self.read.saturating_add(n.into());
        let withheld = n.min(self.excess);
        self.excess -= withheld;
        self.consumed = self.consumed.saturating_add(n - withheld);
        if self.consumed < self.limit / 2 {
            return None;
        }
        if self.sharing.credited(self.id) {
            self.lone = self.lone.saturating_add(1);
        } else {
            self.lone = 0;
            self.narrow();
        }
        Some(self.credit()).filter(|&delta| delta > 0)
    }

    /// Notes that the reader found nothing, and doubles the window up to `max` if the remote had used
    /// all of it, and is far away or the only one.
    ///
    /// What was credited since the last data is on its way, the remote could not use it yet.
    pub(super) fn starve(&mut self, max: u32) -> Option<u32> {
        if self.left != self.fresh || std::mem::replace(&mut self.is_exhausted, true) {
            return None;
        }
        let (now, read) = (Instant::now(), std::mem::take(&mut self.read));
        let last = self.exhausted.replace(now);
        let is_slow = last.is_some_and(|last| {
            let each = now.duration_since(last).as_micros() * u128::from(self.limit);
            each >= SLOW.as_micros() * u128::from(read)
        });
        self.slow = if is_slow {
            self.slow.saturating_add(1)
        } else {
            0
        };
        if self.limit >= max || !self.is_far() && self.lone < LONE_CREDITS {
            return None;
        }
        self.widen(self.limit.saturating_mul(2).min(max));
        Some(self.credit())
    }

    fn is_far(&self) -> bool {
        self.slow >= SLOW_WINDOWS
    }

    fn widen(&mut self, limit: u32) {
        let more = limit - self.limit;
        self.limit = limit;
        let kept = more.min(self.excess);
        self.excess -= kept;
        self.consumed = self.consumed.saturating_add(more - kept);
    }

    /// Goes back to the window with which all start, unless the remote is far away.
    fn narrow(&mut self) {
        if !self.is_far() {
            let less = self.limit - INITIAL_WINDOW;
            self.limit = INITIAL_WINDOW;
            let withheld = less.min(self.consumed);
            self.consumed -= withheld;
            self.excess = self.excess.saturating_add(less - withheld);
        }
    }

    fn credit(&mut self) -> u32 {
        let delta = std::mem::take(&mut self.consumed);
        self.left = self.left.saturating_add(delta);
        self.fresh = self.fresh.saturating_add(delta);
        delta
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

    /// Sends, reads and exhausts so many windows, and gives what the last one was.
    fn exhaust(window: &mut Window, times: u8) -> u32 {
        let mut used = 0;
        for _ in 0..times {
            used = window.left;
            assert!(window.reserve(used));
            window.consume(used as usize);
            window.starve(MAX);
        }
        used
    }

    proptest! {
        /// Whatever others do, and however slow it is: who reads everything lets the remote send.
        #[test]
        fn a_remote_whose_bytes_are_read_may_send(
            steps in prop::collection::vec(
                (any::<bool>(), 0..2 * MAX, 0..2 * MAX, 0..40_u64), 0..200,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            let _inside = runtime.enter();
            let sharing = Sharing::default();
            let mut streams = [(); 2].map(|()| (Window::new(&sharing), 0));
            for (second, sent, read, millis) in steps {
                let (window, unread) = &mut streams[usize::from(second)];
                let sent = sent.min(window.left);
                prop_assert!(window.reserve(sent));
                *unread += sent;
                let read = read.min(*unread);
                *unread -= read;
                window.consume(read as usize);
                if *unread == 0 {
                    window.starve(MAX);
                    prop_assert!(window.left >= INITIAL_WINDOW / 2);
                }
                prop_assert!(window.left + *unread <= MAX);
                runtime.block_on(tokio::time::advance(Duration::from_millis(millis)));
            }
        }
    }

    #[test]
    fn credit_is_batched_to_half_a_window() {
        let mut window = Window::new(&Sharing::default());
        assert!(window.reserve(INITIAL_WINDOW));
        assert!(!window.reserve(1));
        assert_eq!(window.consume(INITIAL_WINDOW as usize / 2 - 1), None);
        assert_eq!(window.consume(1), Some(INITIAL_WINDOW / 2));
        assert_eq!(window.left, INITIAL_WINDOW / 2);
    }

    #[test]
    fn an_unused_window_is_large_enough() {
        let mut window = Window::new(&Sharing::default());
        window.lone = LONE_CREDITS;
        assert_eq!(window.starve(MAX), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_remote_that_is_far_away_gets_a_larger_window() {
        let sharing = Sharing::default();
        let (mut far, mut near) = (Window::new(&sharing), Window::new(&sharing));
        for _ in 0..=SLOW_WINDOWS {
            assert_eq!(exhaust(&mut far, 1), INITIAL_WINDOW);
            assert_eq!(exhaust(&mut near, 2), INITIAL_WINDOW);
            tokio::time::advance(SLOW).await;
        }
        assert_eq!(exhaust(&mut far, 1), 2 * INITIAL_WINDOW);
        for _ in 0..10 {
            assert_eq!(exhaust(&mut near, 2), INITIAL_WINDOW);
            tokio::time::advance(SLOW).await;
            assert_eq!(exhaust(&mut far, 1), MAX, "the maximum is reached");
        }
        exhaust(&mut far, 2);
        exhaust(&mut near, 1);
        exhaust(&mut far, 2);
        assert_eq!(exhaust(&mut far, 1), INITIAL_WINDOW, "it is near now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_alone_gets_a_larger_window_until_another_comes() {
        let sharing = Sharing::default();
        let (mut first, mut second) = (Window::new(&sharing), Window::new(&sharing));
        assert_eq!(exhaust(&mut first, LONE_CREDITS + 1), INITIAL_WINDOW);
        assert_eq!(exhaust(&mut first, 5), MAX);

        assert_eq!(exhaust(&mut second, 1), INITIAL_WINDOW);
        assert_eq!(exhaust(&mut first, 1), MAX, "it is granted already");
        for _ in 0..20 {
            assert_eq!(exhaust(&mut second, 1), INITIAL_WINDOW);
            assert_eq!(exhaust(&mut first, 1), INITIAL_WINDOW);
        }
        assert_eq!(exhaust(&mut first, LONE_CREDITS + 5), MAX);
    }
}
