//! What a stream's handle does with it: reading, writing, flushing and closing.

use std::{
    io,
    task::{Poll, Waker},
};

use bytes::Bytes;

use super::{
    INITIAL_WINDOW,
    error::{aborted, finished, reset, unread},
    flow::{Direction, Turn},
    frame::{Flags, Header},
    session::{Session, park},
};
use crate::{chunk_passing, resources::GUARANTEED_BYTES};

/// The longest frame that is queued while the memory for buffers is in use.
const SCARCE_FRAME_BYTES: u32 = 16 * 1024;

impl Session {
    /// Reads from a stream; 0 bytes mean that the remote has finished it. A read of length zero is
    /// [`Self::failure`].
    pub(super) fn read(
        &mut self,
        id: u32,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        let before = flow.held_bytes();
        let n = flow.unread.read(buf);
        if !buf.is_empty() {
            self.lent = self.lent - flow.lent + n;
            flow.lent = n;
            self.unread.replace(before, flow.held_bytes());
        }
        if n > 0 {
            self.credit(id, n);
            return Poll::Ready(Ok(n));
        }
        match flow.inbound {
            Direction::Finished => return Poll::Ready(Ok(0)),
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open => {}
        }
        park(&mut flow.reader, waker);
        Poll::Pending
    }

    /// Waits until the stream fails, and gives the failure, whatever is left to be read:
    /// - the stream was reset, before the remote finished it or afterwards;
    /// - its connection ended. After the remote finished the stream, the failure is
    ///   [`BrokenPipe`](io::ErrorKind::BrokenPipe): all of the remote's data has arrived.
    pub(super) fn failure(&mut self, id: u32, waker: &Waker) -> Poll<io::Error> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(aborted());
        };
        match (flow.inbound, flow.outbound) {
            (Direction::Reset, _) | (_, Direction::Reset) => return Poll::Ready(reset()),
            (Direction::Open, _) if self.ended => return Poll::Ready(aborted()),
            (Direction::Finished, _) if self.ended => return Poll::Ready(unread()),
            (Direction::Open | Direction::Finished, _) => {}
        }
        park(&mut flow.failure, waker);
        Poll::Pending
    }

    /// Reads a piece of `max` bytes at most, if there is one.
    pub(super) fn read_piece(&mut self, id: u32, max: usize) -> Option<Bytes> {
        let flow = self.streams.get_mut(&id)?;
        let before = flow.held_bytes();
        self.lent -= flow.lent;
        let unread = flow.unread.held_bytes();
        let piece = flow.unread.pop_piece(max);
        flow.lent = unread - flow.unread.held_bytes();
        self.lent += flow.lent;
        self.unread.replace(before, flow.held_bytes());
        let piece = piece?;
        self.credit(id, piece.len());
        Some(piece)
    }

    /// Notes that so many bytes were read, and lets the remote send as many again when it is time.
    fn credit(&mut self, id: u32, n: usize) {
        let max = if self.config.resources.under_pressure() {
            INITIAL_WINDOW
        } else {
            self.config.max_receive_window
        };
        let far = self.round_trip.far();
        let flow = self.streams.get_mut(&id);
        let delta = flow.and_then(|flow| flow.consume(n, far, max));
        if let Some(delta) = delta.filter(|_| !self.ended) {
            let update = Header::window_update(id, Flags::NONE, delta);
            self.outgoing.push(update, &[]);
            if let Some(ping) = self.round_trip.ask() {
                self.outgoing.push(ping, &[]);
            }
        }
    }

    /// Queues at most one frame of data. If `buf` is a `piece`, it is not copied.
    pub(super) fn write(
        &mut self,
        id: u32,
        buf: &[u8],
        piece: Option<&Bytes>,
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        match flow.outbound {
            Direction::Finished => return Poll::Ready(Err(finished())),
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open if buf.is_empty() => return Poll::Ready(Ok(0)),
            Direction::Open => {}
        }
        if flow.send_window == 0 {
            park(&mut flow.writer, waker);
            return Poll::Pending;
        }
        let mut length = u32::try_from(buf.len())
            .unwrap_or(u32::MAX)
            .min(flow.send_window)
            .min(self.config.max_frame_size);
        // Without memory for it, a frame waits until the queue is empty, and is short then.
        let most = if self.config.resources.under_pressure() {
            GUARANTEED_BYTES
        } else {
            u64::MAX
        };
        let is_scarce = !self.memory.has_room(length.into(), most);
        if is_scarce {
            length = length.min(SCARCE_FRAME_BYTES);
        }
        let must_wait = is_scarce && self.outgoing.pending() > 0;
        let admitted = !must_wait && self.outgoing.admits(flow.turn == Turn::Now);
        if flow.turn == Turn::Now {
            flow.turn = Turn::None;
            self.outgoing.end_turn();
        }
        if !admitted {
            if flow.turn == Turn::None {
                flow.turn = Turn::InLine;
                self.outgoing.line_up(id);
            }
            park(&mut flow.writer, waker);
            return Poll::Pending;
        }
        let n = usize::try_from(length).unwrap_or(buf.len());
        let (payload, _) = buf.split_at(n);
        flow.send_window -= length;
        let header = Header::data(id, length);
        flow.last_frame = match piece.filter(|_| n >= chunk_passing::MIN_BYTES) {
            Some(piece) => self.outgoing.push_piece(header, piece.slice(..n)),
            None => self.outgoing.push(header, payload),
        };
        Poll::Ready(Ok(n))
    }

    /// What is queued goes out by itself: there is nothing to push.
    pub(super) fn flush(&self, id: u32) -> io::Result<()> {
        let flow = self.streams.get(&id).ok_or_else(aborted)?;
        match flow.outbound {
            _ if self.outgoing.is_written(flow.last_frame) => Ok(()),
            Direction::Reset => Err(reset()),
            Direction::Open | Direction::Finished if self.ended => Err(aborted()),
            Direction::Open | Direction::Finished => Ok(()),
        }
    }

    /// Waits until the socket took what the stream has queued so far. What it took, it took: a
    /// reset that arrives afterwards is for the next call to tell.
    fn drain(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        self.flush(id)?;
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        if self.outgoing.is_written(flow.last_frame) {
            return Poll::Ready(Ok(()));
        }
        park(&mut flow.writer, waker);
        self.outgoing.await_written(flow.last_frame, id);
        Poll::Pending
    }

    /// Finishes the direction towards the remote, once, and waits until the socket took it all.
    pub(super) fn close(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        match flow.outbound {
            Direction::Finished => {}
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open => {
                flow.outbound = Direction::Finished;
                let fin = Header::window_update(id, Flags::FIN, 0);
                flow.last_frame = self.outgoing.push(fin, &[]);
            }
        }
        self.drain(id, waker)
    }
}
