//! What a stream's handle does with it: reading, writing, flushing and closing.

use std::{
    io,
    task::{Poll, Waker},
};

use bytes::Bytes;

use super::{
    INITIAL_WINDOW,
    error::{aborted, finished, reset, unread},
    frame::{Flags, Header},
    session::{Session, register_waker},
    stream_state::{Direction, WriteTurn},
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
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        let before = stream.held_bytes();
        let n = stream.unread.read(buf);
        if !buf.is_empty() {
            self.delivered = self.delivered - stream.delivered + n;
            stream.delivered = n;
            self.unread.replace(before, stream.held_bytes());
        }
        if n > 0 {
            self.credit(id, n);
            return Poll::Ready(Ok(n));
        }
        match stream.inbound {
            Direction::Finished => return Poll::Ready(Ok(0)),
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open => {}
        }
        register_waker(&mut stream.reader, waker);
        Poll::Pending
    }

    /// Waits until the stream fails, and gives the failure, whatever is left to be read:
    /// - the stream was reset, before the remote finished it or afterwards;
    /// - its connection ended. After the remote finished the stream, the failure is
    ///   [`BrokenPipe`](io::ErrorKind::BrokenPipe): all of the remote's data has arrived.
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

    /// Reads a chunk of `max` bytes at most, if there is one.
    pub(super) fn read_chunk(&mut self, id: u32, max: usize) -> Option<Bytes> {
        let stream = self.streams.get_mut(&id)?;
        let before = stream.held_bytes();
        self.delivered -= stream.delivered;
        let unread = stream.unread.held_bytes();
        let chunk = stream.unread.pop_shared(max);
        stream.delivered = unread - stream.unread.held_bytes();
        self.delivered += stream.delivered;
        self.unread.replace(before, stream.held_bytes());
        let chunk = chunk?;
        self.credit(id, chunk.len());
        Some(chunk)
    }

    /// Notes that so many bytes were read, and lets the remote send as many again when it is time.
    fn credit(&mut self, id: u32, n: usize) {
        let max = if self.config.resources.under_pressure() {
            INITIAL_WINDOW
        } else {
            self.config.max_receive_window
        };
        let high_rtt = self.rtt.high_rtt();
        let stream = self.streams.get_mut(&id);
        let delta = stream.and_then(|stream| stream.consume(n, high_rtt, max));
        if let Some(delta) = delta.filter(|_| !self.ended) {
            let update = Header::window_update(id, Flags::NONE, delta);
            self.send_queue.push(update, &[]);
            if let Some(ping) = self.rtt.next_ping() {
                self.send_queue.push(ping, &[]);
            }
        }
    }

    /// Queues at most one frame of data. If `buf` is a `chunk`, it is not copied.
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
        if stream.send_window == 0 {
            register_waker(&mut stream.writer, waker);
            return Poll::Pending;
        }
        let mut length = u32::try_from(buf.len())
            .unwrap_or(u32::MAX)
            .min(stream.send_window)
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
            if stream.write_turn == WriteTurn::Idle {
                stream.write_turn = WriteTurn::Queued;
                self.send_queue.enqueue_writer(id);
            }
            register_waker(&mut stream.writer, waker);
            return Poll::Pending;
        }
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

    /// What is queued goes out by itself: there is nothing to push.
    pub(super) fn flush(&self, id: u32) -> io::Result<()> {
        let stream = self.streams.get(&id).ok_or_else(aborted)?;
        match stream.outbound {
            _ if self.send_queue.is_written(stream.last_frame) => Ok(()),
            Direction::Reset => Err(reset()),
            Direction::Open | Direction::Finished if self.ended => Err(aborted()),
            Direction::Open | Direction::Finished => Ok(()),
        }
    }

    /// Waits until the socket took what the stream has queued so high_rtt. What it took, it took: a
    /// reset that arrives afterwards is for the next call to tell.
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

    /// Finishes the direction towards the remote, once, and waits until the socket took it all.
    pub(super) fn close(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        match stream.outbound {
            Direction::Finished => {}
            Direction::Reset => return Poll::Ready(Err(reset())),
            Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
            Direction::Open => {
                stream.outbound = Direction::Finished;
                let fin = Header::window_update(id, Flags::FIN, 0);
                stream.last_frame = self.send_queue.push(fin, &[]);
            }
        }
        self.drain(id, waker)
    }
}
