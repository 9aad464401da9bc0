//! The state machine of a connection: streams are opened, accepted and dropped. No I/O happens here.
//!
//! # Life of a stream
//!
//! A stream is in `streams` from the frame or call that opens it until its handle is dropped
//! ([`Session::release`]). Streams of the remote wait in `backlog` before they get a handle. A stream
//! that is dropped before the remote has finished it may stay in `abandoned`, by its id only. The
//! three sets are consistent: `backlog` is a subset of `streams`, and `abandoned` is disjoint from it.
//! Ids are not reused while they are in one of them.
//!
//! Tasks are never woken from here: wakers are collected in `wakers`, and woken when the lock on the
//! session is released.

use std::{
    collections::{HashMap, VecDeque},
    task::{Poll, Waker},
};

use hashlink::LinkedHashSet;
use resource_manager::map_shrink::ShrinkIfSparse as _;
use resource_manager::{BufferCharge, ConnectionMemory, GUARANTEED_BYTES};

use super::{
    Config, Error, INITIAL_WINDOW,
    chunks::Chunks,
    decoder::Decoder,
    frame::{Flags, GoAway, Header},
    keepalive::Keepalive,
    rtt::RttEstimator,
    send_queue::SendQueue,
    stream_state::{Direction, StreamState, WriteTurn},
};

/// The maximum number of abandoned streams that are remembered.
const MAX_ABANDONED: usize = 1024;

/// The maximum number of streams that are opened and not yet accepted by the remote. Other
/// implementations have a backlog of this length, and refuse more.
const MAX_UNACKNOWLEDGED: usize = 256;

/// The role of this side of the connection, which determines the parity of the ids that it assigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens streams with odd ids.
    Client,
    /// Opens streams with even ids.
    Server,
}

impl Role {
    /// Whether a stream with this id can only be opened by this side.
    pub(super) fn opens(self, stream: u32) -> bool {
        match self {
            Self::Client => stream % 2 == 1,
            Self::Server => stream.is_multiple_of(2),
        }
    }
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) role: Role,
    pub(super) streams: HashMap<u32, StreamState>,
    /// Streams of the remote that are not accepted yet.
    pub(super) backlog: VecDeque<u32>,
    /// Streams that were dropped here and are not finished by the remote, see [`super`].
    pub(super) abandoned: LinkedHashSet<u32>,
    /// The number of streams that the remote has neither accepted nor refused.
    pub(super) unacknowledged: usize,
    /// The memory account of the connection.
    pub(super) memory: ConnectionMemory,
    /// The charge for data of all streams that is unread or delivered.
    pub(super) unread: BufferCharge,
    /// The sum of what the streams have [delivered](StreamState::delivered).
    pub(super) delivered: usize,
    /// The charge for data that is queued and not written.
    pub(super) queued: BufferCharge,
    pub(super) send_queue: SendQueue,
    pub(super) decoder: Decoder,
    pub(super) keepalive: Keepalive,
    pub(super) rtt: RttEstimator,
    /// Whether the remote has sent GOAWAY, and refuses new streams.
    pub(super) going_away: bool,
    /// Whether the connection has ended. Final.
    pub(super) ended: bool,
    /// The id of the next stream that is opened here; `None` when the ids are used up.
    next_id: Option<u32>,
    /// The task that waits for a stream of the remote.
    acceptor: Option<Waker>,
    /// The task that waits until another stream can be opened.
    opener: Option<Waker>,
    /// The tasks to wake when the lock on the session is released.
    pub(super) wakers: Vec<Waker>,
}

impl Session {
    /// Checks the liveness of the remote, and pings it if nothing was received since the last check.
    ///
    /// # Errors
    /// [`Error::Unresponsive`] after too many missed pings or stalled checks.
    pub(super) fn check_keepalive(&mut self) -> Result<(), Error> {
        let has_pending = self.send_queue.pending() > 0;
        if let Some(value) = self
            .keepalive
            .check(self.send_queue.written(), has_pending)?
        {
            self.send_queue.push(Header::ping(value), &[]);
        }
        Ok(())
    }

    pub(super) fn new(mut config: Config, role: Role) -> Self {
        // Zero would make writers wait for room that never appears.
        config.max_frame_size = config.max_frame_size.max(1);
        config.max_send_queue = config.max_send_queue.max(1);
        config.max_receive_window = config.max_receive_window.max(INITIAL_WINDOW);
        let memory = ConnectionMemory::new(config.resources.clone());
        Self {
            role,
            streams: HashMap::new(),
            backlog: VecDeque::new(),
            abandoned: LinkedHashSet::new(),
            unacknowledged: 0,
            unread: BufferCharge::new(memory.clone()),
            delivered: 0,
            queued: BufferCharge::new(memory.clone()),
            memory,
            send_queue: SendQueue::new(&config),
            config,
            decoder: Decoder::default(),
            keepalive: Keepalive::default(),
            rtt: RttEstimator::default(),
            going_away: false,
            ended: false,
            next_id: Some(match role {
                Role::Client => 1,
                Role::Server => 2,
            }),
            acceptor: None,
            opener: None,
            wakers: Vec::new(),
        }
    }

    /// Opens a stream, or waits until the limits allow another one.
    ///
    /// # Errors
    /// When the connection has ended, or its ids are used up.
    pub(super) fn open(&mut self, waker: &Waker) -> Poll<Result<u32, Error>> {
        if self.ended {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.streams.len() >= self.config.max_streams
            || self.unacknowledged >= MAX_UNACKNOWLEDGED
            || !self.send_queue.has_room()
        {
            register_waker(&mut self.opener, waker);
            return Poll::Pending;
        }
        let Some(id) = self.next_id else {
            return Poll::Ready(Err(Error::StreamIdsExhausted));
        };
        self.next_id = id.checked_add(2);
        let mut stream = StreamState::new(&self.config.fair_share);
        if self.going_away {
            // The handle reports the reset to its user; nothing is sent, neither now nor when the
            // handle is dropped. An error here would end the connection.
            stream.reset();
            stream.accepted = true;
        } else {
            self.unacknowledged += 1;
            self.send_queue
                .push(Header::window_update(id, Flags::SYN, 0), &[]);
        }
        self.streams.insert(id, stream);
        Poll::Ready(Ok(id))
    }

    /// Accepts a stream of the remote, or waits for one.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) fn accept(&mut self, waker: &Waker) -> Poll<Result<u32, Error>> {
        if self.ended {
            return Poll::Ready(Err(Error::Closed));
        }
        let Some(id) = self.backlog.pop_front() else {
            register_waker(&mut self.acceptor, waker);
            return Poll::Pending;
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.accepted = true;
            // A stream may have been reset in the backlog: for memory, or by the remote after it had
            // finished the stream, whose data is complete then. It is not acknowledged, since the
            // remote has forgotten it.
            if stream.outbound == Direction::Open {
                self.send_queue
                    .push(Header::window_update(id, Flags::ACK, 0), &[]);
            }
        }
        Poll::Ready(Ok(id))
    }

    /// Removes a stream whose handle was dropped, and sends what [`super`] describes. Returns the
    /// state, so that it can be dropped outside of the lock.
    pub(super) fn release(&mut self, id: u32) -> Option<StreamState> {
        let stream = self.streams.remove(&id)?;
        self.streams.shrink_if_sparse();
        self.unread.replace(stream.held_bytes(), 0);
        self.delivered -= stream.delivered;
        if self.role.opens(id) && !stream.accepted {
            self.unacknowledged -= 1;
        }
        // A stream that is still queued for a turn stays in the list: when it is granted one,
        // `on_written` does not find the stream, and releases the turn.
        if stream.write_turn == WriteTurn::Granted {
            self.send_queue.release_turn();
        }
        self.wake_opener();
        if !self.ended {
            match (stream.outbound, stream.inbound) {
                // The remote has forgotten the stream, or both sides have finished it: it is closed.
                (Direction::Reset, _) | (Direction::Finished, Direction::Finished) => {}
                // Nothing is lost so far, and RST could destroy what the remote has not read.
                (Direction::Finished, _) if !self.must_reset_on_drop(id, &stream) => {
                    self.remember_abandoned(id);
                }
                // The outbound direction is incomplete, or received data is lost.
                _ => self.send_rst(id),
            }
        }
        Some(stream)
    }

    /// Charges for the send queue. To be called after each access to the session, since most of them
    /// change the queue.
    pub(super) fn update_charge(&mut self) {
        self.queued.set(self.send_queue.held_bytes());
    }

    /// Frees memory: resets the streams that hold most, until the others hold no more than the
    /// guarantee of a connection, or nothing if the connection is within its guarantee. Returns
    /// whether anything was released.
    ///
    /// The unread data of a stream that is reset is lost. So its inbound direction is reset even if
    /// the remote had finished it: the reader must not take truncated data for complete.
    pub(super) fn relieve_memory(&mut self) -> bool {
        let floor = if self.memory.held() > GUARANTEED_BYTES {
            usize::try_from(GUARANTEED_BYTES).unwrap_or(usize::MAX)
        } else {
            0
        };
        let held = |(id, stream): (&u32, &StreamState)| (stream.unread.held_bytes(), *id);
        let mut largest: Vec<_> = self.streams.iter().map(held).collect();
        largest.retain(|(held, _)| *held > 0);
        largest.sort_unstable();
        let before = self.unread.bytes();
        while self.unread.bytes() > floor
            && let Some((held, id)) = largest.pop()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            // The remote does not expect a frame for a stream that it has closed or forgotten.
            let is_over = stream.outbound != Direction::Open && stream.inbound != Direction::Open;
            stream.unread = Chunks::default();
            stream.outbound = Direction::Reset;
            stream.inbound = Direction::Reset;
            self.wakers.extend(stream.take_wakers());
            self.unread.replace(held, 0);
            if !is_over && !self.ended {
                self.send_rst(id);
            }
        }
        self.unread.bytes() < before
    }

    /// Queues RST.
    pub(super) fn send_rst(&mut self, id: u32) {
        self.send_queue
            .push(Header::window_update(id, Flags::RST, 0), &[]);
    }

    /// Whether RST has to be sent at once for a stream that is finished here and dropped, instead of
    /// in reply to the next data: data was lost, or a reader was waiting.
    ///
    /// This covers a remote whose window is exhausted, which would never send the data that could be
    /// answered: at most half of a window is read and not credited, so the rest is unread.
    fn must_reset_on_drop(&self, id: u32, stream: &StreamState) -> bool {
        let data_is_lost = !stream.unread.is_empty() || self.decoder.is_receiving(id);
        let reader_gave_up = stream.reader.is_some() || stream.failure.is_some();
        data_is_lost || reader_gave_up
    }

    /// Remembers that the next data for the stream has to be answered with RST. Beyond the limit the
    /// oldest stream is forgotten: the remote gets no RST, and sends until its window is used up.
    fn remember_abandoned(&mut self, id: u32) {
        if self.abandoned.len() >= MAX_ABANDONED {
            self.abandoned.pop_front();
        }
        self.abandoned.insert(id);
    }

    /// Adds a new stream of the remote to the backlog.
    pub(super) fn enqueue_inbound(&mut self, id: u32) {
        self.streams
            .insert(id, StreamState::new(&self.config.fair_share));
        self.backlog.push_back(id);
        self.wakers.extend(self.acceptor.take());
    }

    /// Wakes the task that waits to open a stream, so that it tries again.
    pub(super) fn wake_opener(&mut self) {
        self.wakers.extend(self.opener.take());
    }

    /// Records that `n` bytes were written to the socket, and wakes the tasks that waited for it.
    pub(super) fn on_written(&mut self, n: usize) {
        self.send_queue.advance(n);
        // Streams that were dropped meanwhile are not found: nobody waits for them.
        for id in self.send_queue.take_flushed() {
            if let Some(stream) = self.streams.get_mut(&id) {
                self.wakers.extend(stream.writer.take());
            }
        }
        for id in self.send_queue.grant_turns() {
            if let Some(stream) = self.streams.get_mut(&id) {
                // Normally it was `Queued`. If the remote has reused the id of a stream that was
                // dropped while it was in the list, the new stream gets a turn early, which does no
                // harm: its next write or its end releases it.
                stream.write_turn = WriteTurn::Granted;
                self.wakers.extend(stream.writer.take());
            } else {
                // The stream was dropped. The next bytes that are written grant its turn to another.
                self.send_queue.release_turn();
            }
        }
        if self.send_queue.has_room() {
            self.wake_opener();
        }
    }

    /// Ends the connection when its socket is gone: drops what is queued, which cannot be written.
    pub(super) fn abort(&mut self) {
        self.end(None);
        self.send_queue.clear();
    }

    /// Ends the connection, and with it all streams that are not finished. Queues GOAWAY if there is a
    /// `reason`. Only the first call has an effect, so GOAWAY is sent at most once.
    ///
    /// Streams keep their state; `ended` overrides it where the direction is still open. So data that
    /// was received before can be read, and complete directions stay complete.
    pub(super) fn end(&mut self, reason: Option<GoAway>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(reason) = reason {
            self.send_queue.push(Header::go_away(reason), &[]);
        }
        for stream in self.streams.values_mut() {
            self.wakers.extend(stream.take_wakers());
        }
        self.wakers.extend(self.acceptor.take());
        self.wakers.extend(self.opener.take());
    }
}

/// Stores a task to wake. The previous waker of the slot is dropped: one task at a time waits for
/// each operation of a stream.
pub(super) fn register_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(parked) => parked.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}
