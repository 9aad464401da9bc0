//! The state of one stream: its two directions, its windows, and the tasks that wait for it.

use std::{task::Waker, time::Duration};

use super::{
    INITIAL_WINDOW,
    chunks::Chunks,
    window::{FairShare, Window},
};

/// The state of one direction of a stream. `Finished` and `Reset` are final for the direction they
/// describe, except that a reset also ends an outbound direction that is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Open,
    /// FIN was sent, or received.
    Finished,
    /// The stream was reset before this direction was finished.
    Reset,
}

/// Whether a writer has a turn to queue a frame, while the send queue has no room for all writers.
///
/// `Idle` → `Queued` when a write finds no room; `Queued` → `Granted` when the queue has drained far
/// enough; `Granted` → `Idle` with the next write, whatever its outcome. A write enqueues the stream
/// only in `Idle`, so a writer that polls repeatedly does not get several turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteTurn {
    /// The writer does not wait for room.
    Idle,
    /// The stream is in the send queue's list of waiting writers.
    Queued,
    /// The writer may queue one frame, ahead of those in the list.
    Granted,
}

/// A stream, from the session's point of view.
#[derive(Debug)]
pub(super) struct StreamState {
    /// The direction from the remote.
    pub(super) inbound: Direction,
    /// The direction to the remote. `Reset` means that the remote no longer knows the stream, so
    /// nothing more is sent for it.
    pub(super) outbound: Direction,
    /// Whether the side that did not open the stream has accepted it.
    pub(super) accepted: bool,

    /// Data that was received and not read.
    pub(super) unread: Chunks,
    /// The number of bytes that the last read returned. They are charged until the next read, because
    /// the reader may have to keep them until then: a circuit does if its other side is blocked.
    pub(super) delivered: usize,
    /// The receive window.
    pub(super) window: Window,

    /// The send window: how many bytes the remote accepts.
    pub(super) send_window: u32,
    /// The position of the end of the stream's last frame in the send queue, see
    /// [`SendQueue::push`](super::send_queue::SendQueue::push).
    pub(super) last_frame: u64,
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

    /// The memory that is held for the stream's reader, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.unread.held_bytes() + self.delivered
    }

    /// See [`Window::consume`]. A remote that has finished or reset the stream needs no credit.
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

    /// Resets both directions. An inbound direction that is finished stays finished: its data is
    /// complete, and the reader must be able to tell that from truncated data.
    pub(super) fn reset(&mut self) {
        self.outbound = Direction::Reset;
        if self.inbound == Direction::Open {
            self.inbound = Direction::Reset;
        }
    }

    /// The wakers of all tasks that wait for this stream.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        let wakers = [self.reader.take(), self.writer.take(), self.failure.take()];
        wakers.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_remote_gets_no_credit() {
        let mut stream = StreamState::new(&FairShare::default());
        assert!(stream.window.reserve(INITIAL_WINDOW));
        stream.inbound = Direction::Finished;
        let credit = stream.consume(INITIAL_WINDOW as usize, None, INITIAL_WINDOW);
        assert_eq!(credit, None);
    }
}
