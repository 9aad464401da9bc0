//! The queue of encoded frames towards the socket.

use std::{collections::VecDeque, task::Waker};

use bytes::Bytes;

use super::{
    Config,
    chunks::{Chunk, Chunks},
    frame::{HEADER_LEN, Header},
};

/// How many replies to pings may wait. A remote measures with one ping at a time.
const MAX_PONGS: usize = 32;

/// How many control frames may wait beyond what data occupies: for the connection, and for each of
/// its streams. A stream causes four at a time at most, unless it is replaced by another.
const CONTROL_FRAMES: usize = 1024;
const CONTROL_FRAMES_PER_STREAM: usize = 8;

/// Frames in the order in which they go out, as one sequence of bytes.
///
/// One queue for all streams keeps each stream's frames in order without further thought, and
/// hands the socket large pieces. Its bound makes writers wait; they continue in the order in
/// which they came, one frame each, so that none starves another.
#[derive(Debug)]
pub(super) struct SendQueue {
    /// See [`Config::max_send_queue`].
    max_data: usize,
    /// See [`Config::max_frame_size`].
    max_frame: usize,
    /// The length at which too many control frames are in the queue.
    max_length: usize,
    chunks: Chunks,
    /// The memory of the chunk that is being written.
    in_flight: usize,
    /// The number of bytes ever queued, and so the position of the end of the queue.
    queued: u64,
    /// The number of bytes ever written to the socket.
    written: u64,
    /// Where the replies to pings end that are not written yet.
    pongs: VecDeque<u64>,
    /// The streams whose writers wait for room, in order.
    waiting_writers: VecDeque<u32>,
    /// How many streams were told that it is their turn, and have not used it yet.
    granted_turns: usize,
    /// The streams that wait until the queue was written up to a position.
    flushes: Vec<(u64, u32)>,
    /// Whether anything was queued since the connection's task looked.
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
            // One more frame of data is accepted as long as there is any room.
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

    /// Queues a frame and returns the position of its end.
    pub(super) fn push(&mut self, header: Header, payload: &[u8]) -> u64 {
        self.chunks
            .push(&header.encode(), HEADER_LEN + payload.len());
        self.chunks.push(payload, 0);
        self.queued(payload.len())
    }

    /// The same with a payload that is not copied.
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

    /// Queues the reply to a ping; `false` if too many of them wait.
    #[must_use]
    pub(super) fn pong(&mut self, value: u32) -> bool {
        if self.pongs.len() >= MAX_PONGS {
            return false;
        }
        let end = self.push(Header::pong(value), &[]);
        self.pongs.push_back(end);
        true
    }

    /// How many bytes are queued and not written.
    pub(super) fn pending(&self) -> usize {
        usize::try_from(self.queued - self.written).unwrap_or(usize::MAX)
    }

    /// Whether the queue is longer than data and a reasonable number of control frames make it.
    pub(super) fn is_flooded(&self) -> bool {
        self.pending() > self.max_length
    }

    /// Whether there is room for data.
    pub(super) fn has_room(&self) -> bool {
        self.pending() < self.max_data
    }

    /// Whether a writer may queue a frame: there is room, and it is nobody else's turn.
    ///
    /// An empty queue takes from anybody, lest a turn that is never used holds up the others.
    pub(super) fn admits(&self, has_turn: bool) -> bool {
        let none_waits = self.waiting_writers.is_empty() && self.granted_turns == 0;
        self.has_room() && (has_turn || none_waits || self.pending() == 0)
    }

    /// Puts a stream at the end of the line of writers.
    pub(super) fn enqueue_writer(&mut self, stream: u32) {
        self.waiting_writers.push_back(stream);
    }

    /// The streams whose turn it is now, given how much room there is. Each of them comes back
    /// with [`Self::release_turn`].
    ///
    /// Once the queue is empty everybody may go: nothing would come to wake the rest.
    pub(super) fn grant_turns(&mut self) -> Vec<u32> {
        let pending = self.pending();
        let turns = if pending == 0 {
            self.waiting_writers.len()
        } else if pending <= self.max_data / 2 {
            let room = (self.max_data - pending).div_ceil(self.max_frame);
            room.saturating_sub(self.granted_turns)
                .min(self.waiting_writers.len())
        } else {
            0
        };
        self.granted_turns += turns;
        self.waiting_writers.drain(..turns).collect()
    }

    /// Notes that a stream has used its turn, or never will.
    pub(super) fn release_turn(&mut self) {
        self.granted_turns = self.granted_turns.saturating_sub(1);
    }

    /// How many bytes were ever written to the socket.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether everything up to `position` was written.
    pub(super) fn is_written(&self, position: u64) -> bool {
        position <= self.written
    }

    /// Remembers that a stream waits until everything up to `position` was written.
    pub(super) fn await_written(&mut self, position: u64, stream: u32) {
        let waits = self.flushes.iter().any(|&(_, waiting)| waiting == stream);
        if !waits {
            self.flushes.push((position, stream));
        }
    }

    /// The streams that have waited long enough.
    pub(super) fn take_flushed(&mut self) -> Vec<u32> {
        let written = self.written;
        self.flushes
            .extract_if(.., |&mut (position, _)| position <= written)
            .map(|(_, stream)| stream)
            .collect()
    }

    /// The next bytes for the socket.
    pub(super) fn pop_chunk(&mut self) -> Option<Chunk> {
        self.dirty = false;
        let chunk = self.chunks.pop();
        self.in_flight = chunk.as_ref().map_or(0, Chunk::held_bytes);
        chunk
    }

    /// The memory that the queue occupies, with the chunk that was [taken](Self::pop_chunk) last.
    pub(super) fn held_bytes(&self) -> usize {
        self.chunks.held_bytes() + self.in_flight
    }

    /// Throws away what is queued.
    pub(super) fn clear(&mut self) {
        self.chunks = Chunks::default();
        self.in_flight = 0;
    }

    /// Notes that the socket took `n` of the bytes from [`Self::pop_chunk`].
    pub(super) fn advance(&mut self, n: usize) {
        self.written = (self.written + n as u64).min(self.queued);
        let written = self.written;
        while self.pongs.front().is_some_and(|&end| end <= written) {
            self.pongs.pop_front();
        }
    }

    /// Sets the task to wake when something is queued.
    pub(super) fn set_driver(&mut self, driver: &Waker) {
        self.dirty = false;
        match &mut self.driver {
            Some(waker) => waker.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
    }

    /// The connection's task, if it has something new to do.
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
    fn positions_follow_what_the_socket_took() {
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
    fn writers_take_turns() {
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
