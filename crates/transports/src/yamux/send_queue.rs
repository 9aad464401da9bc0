//! The queue of encoded frames that wait to be written to the socket.
//!
//! Positions in the queue are byte counts since the connection was established: a frame that ends at
//! position *p* was written once `written >= p`. Both counters only grow, so a position stays
//! valid without regard to what was queued or written since.

use std::{collections::VecDeque, task::Waker};

use bytes::Bytes;

use super::{
    Config,
    chunks::{Chunk, Chunks},
    frame::{HEADER_LEN, Header},
};

/// The maximum number of queued replies to pings. Implementations that measure the round-trip time
/// have one ping in flight.
const MAX_PONGS: usize = 32;

/// The number of control frames that may be queued in addition to data, for the connection and for
/// each of its streams. A stream causes at most four at a time, unless it is replaced by another.
const CONTROL_FRAMES: usize = 1024;
const CONTROL_FRAMES_PER_STREAM: usize = 8;

/// Encoded frames in sending order, as one sequence of bytes.
///
/// One queue for all streams preserves the order of each stream's frames, and lets the socket write
/// large chunks. When it is full, writers wait, and then get turns in FIFO order of one frame each,
/// so that none starves another.
///
/// # Turns of writers
///
/// A writer that finds no room is enqueued. Once half of the queue is written, as many writers are
/// granted a turn as there is room for frames, and are woken. While any writer waits or has a turn,
/// others have to enqueue as well. A task may never use its turn; so once the queue is empty, all
/// waiting writers are granted one, and any writer may queue a frame. Without that rule a single
/// unused turn could block a connection on which nothing is left to be written.
#[derive(Debug)]
pub(super) struct SendQueue {
    /// See [`Config::max_send_queue`].
    max_data: usize,
    /// See [`Config::max_frame_size`].
    max_frame: usize,
    /// The length in bytes beyond which the queue must contain too many control frames.
    max_length: usize,
    chunks: Chunks,
    /// The memory of the chunk that is being written.
    in_flight: usize,
    /// The number of bytes ever queued: the position of the end of the queue.
    queued: u64,
    /// The number of bytes ever written to the socket.
    written: u64,
    /// The positions of the ends of replies to pings that are not written.
    pongs: VecDeque<u64>,
    /// The streams whose writers wait for room, in FIFO order.
    waiting_writers: VecDeque<u32>,
    /// The number of turns that were granted and not released.
    granted_turns: usize,
    /// The streams that wait until the queue was written up to a position.
    flushes: Vec<(u64, u32)>,
    /// Whether anything was queued since the connection's task last polled the queue.
    dirty: bool,
    /// The connection's task.
    driver: Option<Waker>,
}

impl SendQueue {
    pub(super) fn new(config: &Config) -> Self {
        let max_data = config.max_send_queue;
        let max_frame = usize::try_from(config.max_frame_size).unwrap_or(usize::MAX);
        let control = config
            .max_streams
            .saturating_mul(CONTROL_FRAMES_PER_STREAM)
            .saturating_add(CONTROL_FRAMES)
            .saturating_mul(HEADER_LEN);
        Self {
            max_data,
            max_frame,
            // A data frame is accepted as long as there is any room, so the last one may exceed the
            // bound by its whole length.
            max_length: max_data
                .saturating_add(HEADER_LEN)
                .saturating_add(max_frame)
                .saturating_add(control),
            chunks: Chunks::default(),
            in_flight: 0,
            queued: 0,
            written: 0,
            pongs: VecDeque::new(),
            waiting_writers: VecDeque::new(),
            granted_turns: 0,
            flushes: Vec::new(),
            dirty: false,
            driver: None,
        }
    }

    /// Queues a frame, whose payload is copied. Returns the position of its end.
    pub(super) fn push(&mut self, header: Header, payload: &[u8]) -> u64 {
        // Header and payload share a chunk, and with it a write to the socket.
        self.chunks
            .push(&header.encode(), HEADER_LEN + payload.len());
        self.chunks.push(payload, 0);
        self.queued(payload.len())
    }

    /// Queues a frame, whose payload is not copied. Returns the position of its end.
    pub(super) fn push_shared(&mut self, header: Header, payload: Bytes) -> u64 {
        let length = payload.len();
        self.chunks.push(&header.encode(), HEADER_LEN);
        self.chunks.push_shared(payload);
        self.queued(length)
    }

    fn queued(&mut self, payload: usize) -> u64 {
        self.queued += (HEADER_LEN + payload) as u64;
        self.dirty = true;
        self.queued
    }

    /// Queues the reply to a ping. Returns `false`, and queues nothing, if too many are queued.
    #[must_use]
    pub(super) fn pong(&mut self, value: u32) -> bool {
        if self.pongs.len() >= MAX_PONGS {
            return false;
        }
        let end = self.push(Header::pong(value), &[]);
        self.pongs.push_back(end);
        true
    }

    /// The number of bytes that are queued and not written.
    pub(super) fn pending(&self) -> usize {
        usize::try_from(self.queued - self.written).unwrap_or(usize::MAX)
    }

    /// Whether the queue is longer than data and a legitimate number of control frames can make it.
    pub(super) fn is_flooded(&self) -> bool {
        self.pending() > self.max_length
    }

    /// Whether there is room for data.
    pub(super) fn has_room(&self) -> bool {
        self.pending() < self.max_data
    }

    /// Whether a writer may queue a frame: there is room, and it has a turn or no other writer waits
    /// or has one. An empty queue admits every writer, see [the type](Self).
    pub(super) fn admits(&self, has_turn: bool) -> bool {
        let none_waits = self.waiting_writers.is_empty() && self.granted_turns == 0;
        self.has_room() && (has_turn || none_waits || self.pending() == 0)
    }

    /// Adds a stream to the end of the list of waiting writers. It must not be in the list.
    pub(super) fn enqueue_writer(&mut self, stream: u32) {
        self.waiting_writers.push_back(stream);
    }

    /// Grants turns to waiting writers, as many as there is room for. Returns their streams, which
    /// have to be woken; each turn ends with [`Self::release_turn`].
    pub(super) fn grant_turns(&mut self) -> Vec<u32> {
        let pending = self.pending();
        let turns = if pending == 0 {
            // Nothing will be written that would get here again to wake the rest.
            self.waiting_writers.len()
        } else if pending <= self.max_data / 2 {
            // Not before half is written, so that several writers are woken at once. Turns that are
            // still granted have their room reserved.
            let room = (self.max_data - pending).div_ceil(self.max_frame);
            room.saturating_sub(self.granted_turns)
                .min(self.waiting_writers.len())
        } else {
            0
        };
        self.granted_turns += turns;
        self.waiting_writers.drain(..turns).collect()
    }

    /// Ends a turn. Each one is released once: by the next write of its stream, or when the stream is
    /// dropped.
    pub(super) fn release_turn(&mut self) {
        self.granted_turns = self.granted_turns.saturating_sub(1);
    }

    /// The number of bytes ever written to the socket.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether everything up to `position` was written.
    pub(super) fn is_written(&self, position: u64) -> bool {
        position <= self.written
    }

    /// Registers that a stream waits until everything up to `position` was written. A stream queues
    /// nothing more once it waits, so its first registration has the right position.
    pub(super) fn await_written(&mut self, position: u64, stream: u32) {
        let waits = self.flushes.iter().any(|&(_, waiting)| waiting == stream);
        if !waits {
            self.flushes.push((position, stream));
        }
    }

    /// Removes the streams whose position was written, and returns them.
    pub(super) fn take_flushed(&mut self) -> Vec<u32> {
        let written = self.written;
        self.flushes
            .extract_if(.., |&mut (position, _)| position <= written)
            .map(|(_, stream)| stream)
            .collect()
    }

    /// Removes the next chunk, to be written to the socket.
    pub(super) fn pop_chunk(&mut self) -> Option<Chunk> {
        // The caller polls until the queue is empty or its task is woken, so it need not be woken for
        // what is queued by now.
        self.dirty = false;
        let chunk = self.chunks.pop();
        self.in_flight = chunk.as_ref().map_or(0, Chunk::held_bytes);
        chunk
    }

    /// The memory that the queue occupies in bytes, including the chunk that was
    /// [removed](Self::pop_chunk) last, until the next one is.
    pub(super) fn held_bytes(&self) -> usize {
        self.chunks.held_bytes() + self.in_flight
    }

    /// Drops what is queued, after the connection has ended. Positions are not adjusted: what was not
    /// written until then never counts as written.
    pub(super) fn clear(&mut self) {
        self.chunks = Chunks::default();
        self.in_flight = 0;
    }

    /// Records that `n` bytes from [`Self::pop_chunk`] were written to the socket.
    pub(super) fn advance(&mut self, n: usize) {
        self.written = (self.written + n as u64).min(self.queued);
        let written = self.written;
        while self.pongs.front().is_some_and(|&end| end <= written) {
            self.pongs.pop_front();
        }
    }

    /// Sets the connection's task, which is woken when something is queued from now on.
    pub(super) fn set_driver(&mut self, driver: &Waker) {
        self.dirty = false;
        match &mut self.driver {
            Some(waker) => waker.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
    }

    /// The waker of the connection's task, if something was queued since its last poll. Returned only
    /// once per poll: more than one wake is of no use.
    pub(super) fn take_driver(&mut self) -> Option<Waker> {
        if !self.dirty {
            return None;
        }
        self.dirty = false;
        self.driver.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_queue() -> SendQueue {
        SendQueue::new(&Config {
            max_send_queue: 1000,
            max_frame_size: 300,
            ..Config::default()
        })
    }

    #[test]
    fn positions_follow_the_written_bytes() {
        let mut send_queue = send_queue();
        let first = send_queue.push(Header::data(1, 3), b"abc");
        let second = send_queue.push(Header::data(1, 2), b"de");
        assert_eq!((first, second), (15, 29));
        send_queue.await_written(first, 1);

        let bytes = send_queue.pop_chunk().unwrap();
        assert_eq!(bytes.len(), 29, "short frames share a chunk");
        send_queue.advance(14);
        assert!(!send_queue.is_written(first) && send_queue.take_flushed().is_empty());
        send_queue.advance(1);
        assert_eq!(send_queue.take_flushed(), [1]);
        assert_eq!(send_queue.pending(), 14);
    }

    #[test]
    fn writers_get_turns_in_order() {
        let mut send_queue = send_queue();
        send_queue.push(Header::data(1, 988), &[0; 988]);
        assert!(!send_queue.admits(false));
        for stream in [3, 5, 7, 9] {
            send_queue.enqueue_writer(stream);
        }
        send_queue.advance(499);
        assert!(send_queue.grant_turns().is_empty());
        send_queue.advance(1);
        assert_eq!(send_queue.grant_turns(), [3, 5]);
        assert!(send_queue.admits(true) && !send_queue.admits(false));
        send_queue.advance(1);
        assert!(send_queue.grant_turns().is_empty());
        send_queue.release_turn();
        assert_eq!(send_queue.grant_turns(), [7]);
        send_queue.advance(499);
        assert_eq!(send_queue.grant_turns(), [9]);
        assert!(send_queue.admits(false), "an empty queue is open to all");
        send_queue.push(Header::data(1, 0), &[]);
        assert!(!send_queue.admits(false));
        for _ in 0..3 {
            send_queue.release_turn();
        }
        assert!(send_queue.admits(false));
    }

    #[test]
    fn unread_pongs_are_bounded() {
        let mut send_queue = send_queue();
        assert!((0..32).all(|value| send_queue.pong(value)));
        assert!(!send_queue.pong(32));
        send_queue.advance(HEADER_LEN);
        assert!(send_queue.pong(33));
    }
}
