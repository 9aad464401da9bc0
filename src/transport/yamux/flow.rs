//! The state of one stream: its two directions, its windows, and who waits for it.

use std::task::Waker;

use super::{INITIAL_WINDOW, chunks::Chunks};

/// How one direction of a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Open,
    /// FIN was sent, or received.
    Finished,
    /// The stream was reset before this direction was finished.
    Reset,
}

/// Where a writer stands when the queue to the socket has no room for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not wait for room.
    None,
    /// It has a place in line.
    InLine,
    /// It may write now, although others are in line.
    Now,
}

/// A stream, as the session sees it.
#[derive(Debug)]
pub(super) struct Flow {
    /// What the remote sends.
    pub(super) inbound: Direction,
    /// What is sent to the remote. `Reset` means that the remote knows the stream no more.
    pub(super) outbound: Direction,
    /// Whether the side that did not open the stream has accepted it.
    pub(super) accepted: bool,

    /// Received, and not read yet.
    pub(super) unread: Chunks,
    /// How many bytes the remote may still send.
    pub(super) receive_window: u32,
    /// The part of `receive_window` that was granted since data arrived last.
    fresh_credit: u32,
    /// What `receive_window` is filled up to.
    window_limit: u32,
    /// Bytes that were read and not credited to the remote yet.
    consumed: u32,
    /// Whether `window_limit` grew since data arrived last.
    grown: bool,

    /// How many bytes the remote accepts.
    pub(super) send_window: u32,
    /// Where the stream's last frame ends, see [`super::outgoing::Outgoing::queued`].
    pub(super) last_frame: u64,
    /// Where its writer stands among others.
    pub(super) turn: Turn,

    /// The task that waits for data.
    pub(super) reader: Option<Waker>,
    /// The task that waits to write, flush or close.
    pub(super) writer: Option<Waker>,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self {
            inbound: Direction::Open,
            outbound: Direction::Open,
            accepted: false,
            unread: Chunks::default(),
            receive_window: INITIAL_WINDOW,
            fresh_credit: 0,
            window_limit: INITIAL_WINDOW,
            consumed: 0,
            grown: false,
            send_window: INITIAL_WINDOW,
            last_frame: 0,
            turn: Turn::None,
            reader: None,
            writer: None,
        }
    }

    /// Takes `length` bytes of the receive window; `false` if it has no room for them.
    #[must_use]
    pub(super) fn reserve(&mut self, length: u32) -> bool {
        let Some(left) = self.receive_window.checked_sub(length) else {
            return false;
        };
        self.receive_window = left;
        self.fresh_credit = 0;
        self.grown = false;
        true
    }

    /// Notes that `n` bytes were read. Returns what to credit to the remote, once that is half a
    /// window, so that a window update is a rare thing.
    pub(super) fn consume(&mut self, n: usize) -> Option<u32> {
        self.consumed = self
            .consumed
            .saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        (self.inbound == Direction::Open && self.consumed >= self.window_limit / 2)
            .then(|| self.credit())
    }

    /// Notes that a reader found nothing, and doubles the window up to `max` if the remote had
    /// used all of it: then the reader is faster than a window in each round trip.
    ///
    /// What was credited since the last data is on its way, the remote could not use it yet.
    pub(super) fn starve(&mut self, max: u32) -> Option<u32> {
        let exhausted = self.receive_window == self.fresh_credit;
        if !exhausted || self.grown || self.window_limit >= max {
            return None;
        }
        let limit = self.window_limit.saturating_mul(2).min(max);
        self.consumed = self.consumed.saturating_add(limit - self.window_limit);
        self.window_limit = limit;
        self.grown = true;
        Some(self.credit())
    }

    fn credit(&mut self) -> u32 {
        let delta = std::mem::take(&mut self.consumed);
        self.receive_window = self.receive_window.saturating_add(delta);
        self.fresh_credit = self.fresh_credit.saturating_add(delta);
        delta
    }

    /// Ends both directions without a clean end. What was finished before stays finished for the
    /// reader: that direction is complete.
    pub(super) fn reset(&mut self) {
        self.outbound = Direction::Reset;
        if self.inbound == Direction::Open {
            self.inbound = Direction::Reset;
        }
    }

    /// Both tasks that may be waiting for this stream.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        self.reader.take().into_iter().chain(self.writer.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 4 * INITIAL_WINDOW;

    #[test]
    fn credit_is_batched_to_half_a_window() {
        let mut flow = Flow::new();
        assert!(flow.reserve(INITIAL_WINDOW));
        assert!(!flow.reserve(1));
        assert_eq!(flow.consume(INITIAL_WINDOW as usize / 2 - 1), None);
        assert_eq!(flow.consume(1), Some(INITIAL_WINDOW / 2));
        assert_eq!(flow.receive_window, INITIAL_WINDOW / 2);
    }

    #[test]
    fn no_credit_for_a_remote_that_has_finished() {
        let mut flow = Flow::new();
        assert!(flow.reserve(INITIAL_WINDOW));
        flow.inbound = Direction::Finished;
        assert_eq!(flow.consume(INITIAL_WINDOW as usize), None);
    }

    #[test]
    fn the_window_doubles_for_a_reader_that_outruns_it() {
        let mut flow = Flow::new();
        assert_eq!(flow.starve(MAX), None, "an unused window is large enough");

        assert!(flow.reserve(INITIAL_WINDOW));
        assert_eq!(flow.consume(INITIAL_WINDOW as usize), Some(INITIAL_WINDOW));
        assert_eq!(flow.starve(MAX), Some(INITIAL_WINDOW));
        assert_eq!(flow.receive_window, 2 * INITIAL_WINDOW);
        assert_eq!(flow.starve(MAX), None, "once per arrival of data");

        assert!(flow.reserve(2 * INITIAL_WINDOW));
        assert_eq!(flow.starve(MAX), Some(2 * INITIAL_WINDOW));
        assert!(flow.reserve(2 * INITIAL_WINDOW));
        assert_eq!(flow.starve(MAX), None, "the maximum is reached");
    }
}
