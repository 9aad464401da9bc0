//! The state of one stream: its two directions, its windows, and who waits for it.

use std::{task::Waker, time::Duration};

use super::{
    INITIAL_WINDOW,
    chunks::Chunks,
    window::{FairShare, Window},
};

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
pub(super) enum WriteTurn {
    /// It does not wait for room.
    Idle,
    /// It has a place in line.
    Queued,
    /// It may write now, although others are in line.
    Granted,
}

/// A stream, as the session sees it.
#[derive(Debug)]
pub(super) struct StreamState {
    /// What the remote sends.
    pub(super) inbound: Direction,
    /// What is sent to the remote. `Reset` means that the remote knows the stream no more.
    pub(super) outbound: Direction,
    /// Whether the side that did not open the stream has accepted it.
    pub(super) accepted: bool,

    /// Received, and not read yet.
    pub(super) unread: Chunks,
    /// What the last read has returned, in bytes. It counts until the next read, since the reader may
    /// have to keep it until then: a circuit does, whose other side takes nothing.
    pub(super) delivered: usize,
    /// How many bytes the remote may send.
    pub(super) window: Window,

    /// How many bytes the remote accepts.
    pub(super) send_window: u32,
    /// Where the stream's last frame ends, see [`super::send_queue::SendQueue::queued`].
    pub(super) last_frame: u64,
    /// Where its writer stands among others.
    pub(super) write_turn: WriteTurn,

    /// The task that waits for data.
    pub(super) reader: Option<Waker>,
    /// The task that waits to write, flush or close.
    pub(super) writer: Option<Waker>,
    /// The task that waits for the stream to fail. Data does not wake it.
    pub(super) failure: Option<Waker>,
}

impl StreamState {
    pub(super) fn new(fair_share: &FairShare) -> Self {
        Self {
            inbound: Direction::Open,
            outbound: Direction::Open,
            accepted: false,
            unread: Chunks::default(),
            delivered: 0,
            window: Window::new(fair_share),
            send_window: INITIAL_WINDOW,
            last_frame: 0,
            write_turn: WriteTurn::Idle,
            reader: None,
            writer: None,
            failure: None,
        }
    }

    /// The memory that is held for the stream's reader.
    pub(super) fn held_bytes(&self) -> usize {
        self.unread.held_bytes() + self.delivered
    }

    /// See [`Window::consume`]; a remote that has finished gets no credit.
    pub(super) fn consume(
        &mut self,
        n: usize,
        high_rtt: Option<Duration>,
        max: u32,
    ) -> Option<u32> {
        (self.inbound == Direction::Open)
            .then(|| self.window.consume(n, high_rtt, max))
            .flatten()
    }

    /// Ends both directions without a clean end. What was finished before stays finished for the
    /// reader: that direction is complete.
    pub(super) fn reset(&mut self) {
        self.outbound = Direction::Reset;
        if self.inbound == Direction::Open {
            self.inbound = Direction::Reset;
        }
    }

    /// All tasks that may be waiting for this stream.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        let wakers = [self.reader.take(), self.writer.take(), self.failure.take()];
        wakers.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credit_for_a_remote_that_has_finished() {
        let mut stream = StreamState::new(&FairShare::default());
        assert!(stream.window.reserve(INITIAL_WINDOW));
        stream.inbound = Direction::Finished;
        let credit = stream.consume(INITIAL_WINDOW as usize, None, INITIAL_WINDOW);
        assert_eq!(credit, None);
    }
}
