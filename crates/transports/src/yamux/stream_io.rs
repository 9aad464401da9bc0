//! The operations of a stream's handle: reading, writing, flushing and closing.
//!
//! Each one first handles the states in which it can complete at once, and registers its waker last,
//! in the same critical section. A state change after that finds the waker, so no wake is lost. The
//! results by state are listed in the documentation of [`super`].

use std::{
    io,
    task::{Poll, Waker},
};

use bytes::Bytes;
use resource_manager::GUARANTEED_BYTES;
use stream_io::chunk_passing;

use super::{
    INITIAL_WINDOW,
    error::{aborted, finished, reset, unread},
    frame::{Flags, Header},
    session::{Session, register_waker},
    stream_state::{Direction, WriteTurn},
};

/// The maximum payload of a frame that is queued while there is no memory for it, in bytes.
const SCARCE_FRAME_BYTES: u32 = 16 * 1024;

impl Session {
    /// Reads from a stream. Ready with 0 at the end of the stream.
    ///
    /// `buf` is not empty, except in tests and fuzzers: a handle treats reads of length zero as
    /// [`Self::failure`].
    pub(super) fn read(
        &mut self,
        id: u32,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        let before = stream.held_bytes();
        let n = stream.unread.read(buf);
        // This read ends the time for which the previous one's bytes are charged. If it returns
        // nothing, the reader has consumed all that it got, and is charged for nothing.
        if !buf.is_empty() {
            self.delivered = self.delivered - stream.delivered + n;
            stream.delivered = n;
            self.unread.replace(before, stream.held_bytes());
        }
        if n > 0 {
            self.credit(id, n);
            return Poll::Ready(Ok(n));
        }
        // Everything that arrived was read, so the state of the direction is what comes next. In this
        // order: a finished stream is complete even if the connection has ended.
        match stream.inbound {
            Direction::Finished => return Poll::Ready(Ok(0)),
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open => {}
        }
        register_waker(&mut stream.reader, waker);
        Poll::Pending
    }

    /// Ready with an error once the stream has failed, even if data is left to be read:
    /// - the stream was reset, before or after the remote finished it;
    /// - its connection ended. If the remote had finished the stream, the error is
    ///   [`BrokenPipe`](io::ErrorKind::BrokenPipe), since all of the remote's data has arrived.
    pub(super) fn failure(&mut self, id: u32, waker: &Waker) -> Poll<io::Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(aborted());
        };
        match (stream.inbound, stream.outbound) {
            (Direction::Reset, _) | (_, Direction::Reset) => return Poll::Ready(reset()),
            (Direction::Open, _) if self.ended => return Poll::Ready(aborted()),
            (Direction::Finished, _) if self.ended => return Poll::Ready(unread()),
            (Direction::Open | Direction::Finished, _) => {}
        }
        register_waker(&mut stream.failure, waker);
        Poll::Pending
    }

    /// Removes the first unread chunk, if it can be passed on without a copy and has at most `max`
    /// bytes. `None` says nothing about the state of the stream.
    pub(super) fn read_chunk(&mut self, id: u32, max: usize) -> Option<Bytes> {
        let stream = self.streams.get_mut(&id)?;
        let before = stream.held_bytes();
        self.delivered -= stream.delivered;
        let unread = stream.unread.held_bytes();
        let chunk = stream.unread.pop_shared(max);
        // The allocation of the chunk, which may be longer than its content, is now the reader's.
        stream.delivered = unread - stream.unread.held_bytes();
        self.delivered += stream.delivered;
        self.unread.replace(before, stream.held_bytes());
        let chunk = chunk?;
        self.credit(id, chunk.len());
        Some(chunk)
    }

    /// Records that `n` bytes were read, and sends a window update if one is due.
    fn credit(&mut self, id: u32, n: usize) {
        let max = if self.config.resources.under_pressure() {
            INITIAL_WINDOW
        } else {
            self.config.max_receive_window
        };
        let high_rtt = self.rtt.high_rtt();
        let stream = self.streams.get_mut(&id);
        let delta = stream.and_then(|stream| stream.consume(n, high_rtt, max));
        // After the end of the connection nothing is queued behind GOAWAY.
        if let Some(delta) = delta.filter(|_| !self.ended) {
            let update = Header::window_update(id, Flags::NONE, delta);
            self.send_queue.push(update, &[]);
            // A connection over which much is received is the one whose round-trip time matters.
            if let Some(ping) = self.rtt.next_ping() {
                self.send_queue.push(ping, &[]);
            }
        }
    }

    /// Queues at most one data frame, whose payload is a prefix of `buf`. Ready with its length.
    /// `chunk` has the same bytes as `buf`, if it is present, and is then queued without a copy.
    pub(super) fn write(
        &mut self,
        id: u32,
        buf: &[u8],
        chunk: Option<&Bytes>,
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        match stream.outbound {
            Direction::Finished => return Poll::Ready(Err(finished())),
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open if buf.is_empty() => return Poll::Ready(Ok(0)),
            Direction::Open => {}
        }
        // Woken by a window update. A stream without window does not enter the list of writers. If it
        // has a granted turn it keeps it, and writers behind it go on when the queue is empty at the
        // latest.
        if stream.send_window == 0 {
            register_waker(&mut stream.writer, waker);
            return Poll::Pending;
        }
        let mut length = u32::try_from(buf.len())
            .unwrap_or(u32::MAX)
            .min(stream.send_window)
            .min(self.config.max_frame_size);
        // If there is no memory for the frame, it is short, and waits until the queue is empty: every
        // stream makes progress, with one short frame per connection at a time. Under memory pressure
        // that applies to all that a connection holds beyond its guarantee.
        let limit = if self.config.resources.under_pressure() {
            GUARANTEED_BYTES
        } else {
            u64::MAX
        };
        let is_scarce = !self.memory.has_room(length.into(), limit);
        if is_scarce {
            length = length.min(SCARCE_FRAME_BYTES);
        }
        // A granted turn is used up below, whether or not the frame is queued: the next waiting
        // writer gets it.
        let must_wait = is_scarce && self.send_queue.pending() > 0;
        let admitted = !must_wait
            && self
                .send_queue
                .admits(stream.write_turn == WriteTurn::Granted);
        if stream.write_turn == WriteTurn::Granted {
            stream.write_turn = WriteTurn::Idle;
            self.send_queue.release_turn();
        }
        if !admitted {
            // At most once in the list: a writer that polls again keeps its position.
            if stream.write_turn == WriteTurn::Idle {
                stream.write_turn = WriteTurn::Queued;
                self.send_queue.enqueue_writer(id);
            }
            register_waker(&mut stream.writer, waker);
            return Poll::Pending;
        }
        // At least one byte: neither the window nor the maximum frame size is zero. So a ready
        // result of zero bytes only answers an empty `buf`.
        let n = usize::try_from(length).unwrap_or(buf.len());
        let (payload, _) = buf.split_at(n);
        stream.send_window -= length;
        let header = Header::data(id, length);
        stream.last_frame = match chunk.filter(|_| n >= chunk_passing::MIN_BYTES) {
            Some(chunk) => self.send_queue.push_shared(header, chunk.slice(..n)),
            None => self.send_queue.push(header, payload),
        };
        Poll::Ready(Ok(n))
    }

    /// Checks that everything that was written has been sent or can still be. There is nothing to
    /// push: the connection's task sends what is queued as soon as the socket is writable.
    pub(super) fn flush(&self, id: u32) -> io::Result<()> {
        let stream = self.streams.get(&id).ok_or_else(aborted)?;
        match stream.outbound {
            // The bytes have left, so what happened to the stream afterwards is the result of the
            // next operation.
            _ if self.send_queue.is_written(stream.last_frame) => Ok(()),
            Direction::Reset => Err(reset()),
            Direction::Open | Direction::Finished if self.ended => Err(aborted()),
            Direction::Open | Direction::Finished => Ok(()),
        }
    }

    /// Waits until everything that the stream has queued so far was written to the socket. A reset
    /// that arrives after the last byte was written is not an error of this call.
    fn drain(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        self.flush(id)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        if self.send_queue.is_written(stream.last_frame) {
            return Poll::Ready(Ok(()));
        }
        register_waker(&mut stream.writer, waker);
        self.send_queue.await_written(stream.last_frame, id);
        Poll::Pending
    }

    /// Sends FIN, the first time, and waits until it was written to the socket.
    pub(super) fn close(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        match stream.outbound {
            // FIN is queued already: only wait.
            Direction::Finished => {}
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            // FIN follows all data of the stream, as there is one queue. It needs no window and no
            // room: its number is bounded by that of the streams.
            Direction::Open => {
                stream.outbound = Direction::Finished;
                let fin = Header::window_update(id, Flags::FIN, 0);
                stream.last_frame = self.send_queue.push(fin, &[]);
            }
        }
        self.drain(id, waker)
    }
}
