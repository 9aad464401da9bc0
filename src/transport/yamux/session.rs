//! A connection's state machine: how streams come and go. No I/O happens here.

use std::{
    collections::{HashMap, VecDeque},
    task::{Poll, Waker},
};

use hashlink::LinkedHashSet;

use super::{
    Config, Error, INITIAL_WINDOW,
    chunks::Chunks,
    frame::{Flags, GoAway, Header},
    keepalive::Keepalive,
    receive::Decoder,
    rtt::RttEstimator,
    send_queue::SendQueue,
    stream_state::{Direction, StreamState, WriteTurn},
};
use crate::{
    map_shrink::ShrinkIfSparse as _,
    resources::{BufferCharge, ConnectionMemory, GUARANTEED_BYTES},
};

/// How many abandoned streams are remembered.
const MAX_ABANDONED: usize = 1024;

/// How many streams are opened before the remote has accepted one of them. Others assume this
/// number, too, and refuse more.
const MAX_UNACKNOWLEDGED: usize = 256;

/// Which side of the connection this is; it decides who opens streams with odd ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens odd streams.
    Client,
    /// Opens even streams.
    Server,
}

impl Role {
    /// Whether a stream with this id is opened by this side.
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
    /// Streams of the remote that nobody has accepted yet.
    pub(super) backlog: VecDeque<u32>,
    /// Streams that were dropped here and are not finished by the remote, see the module docs.
    pub(super) abandoned: LinkedHashSet<u32>,
    /// How many streams the remote has neither accepted nor refused.
    pub(super) unacknowledged: usize,
    /// The account of the connection.
    pub(super) memory: ConnectionMemory,
    /// Memory for what all streams together have received and not read, and have delivered.
    pub(super) unread: BufferCharge,
    /// What all streams together have [delivered](StreamState::delivered).
    pub(super) delivered: usize,
    /// Memory for what is queued and not written.
    pub(super) queued: BufferCharge,
    pub(super) send_queue: SendQueue,
    pub(super) decoder: Decoder,
    pub(super) keepalive: Keepalive,
    pub(super) rtt: RttEstimator,
    /// Whether the remote wants no more streams.
    pub(super) going_away: bool,
    /// Whether the connection is over.
    pub(super) ended: bool,
    /// The id of the next stream that is opened here.
    next_id: Option<u32>,
    /// Who waits for a stream of the remote.
    acceptor: Option<Waker>,
    /// Who waits until another stream can be opened.
    opener: Option<Waker>,
    /// Who has to be wakers as soon as the lock on the session is released.
    pub(super) wakers: Vec<Waker>,
}

impl Session {
    pub(super) fn new(mut config: Config, role: Role) -> Self {
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

    /// Opens a stream, or waits until another one has ended.
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

    /// Accepts a stream of the remote.
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
            if stream.outbound == Direction::Open {
                self.send_queue
                    .push(Header::window_update(id, Flags::ACK, 0), &[]);
            }
        }
        Poll::Ready(Ok(id))
    }

    /// Forgets a stream whose handle was dropped. What the remote is told is described in the
    /// documentation of [`super`].
    pub(super) fn release(&mut self, id: u32) -> Option<StreamState> {
        let stream = self.streams.remove(&id)?;
        self.streams.shrink_if_sparse();
        self.unread.replace(stream.held_bytes(), 0);
        self.delivered -= stream.delivered;
        if self.role.opens(id) && !stream.accepted {
            self.unacknowledged -= 1;
        }
        if stream.write_turn == WriteTurn::Granted {
            self.send_queue.release_turn();
        }
        self.wake_opener();
        if !self.ended {
            match (stream.outbound, stream.inbound) {
                (Direction::Reset, _) | (Direction::Finished, Direction::Finished) => {}
                (Direction::Finished, _) if !self.must_reset_on_drop(id, &stream) => {
                    self.remember_abandoned(id)
                }
                _ => self.send_rst(id),
            }
        }
        Some(stream)
    }

    /// Charges for what the queue holds. Called after each access to the session.
    pub(super) fn update_charge(&mut self) {
        self.queued.set(self.send_queue.held_bytes());
    }

    /// Resets the streams for which most is held, since memory runs out, until the others hold no more
    /// than the guarantee of a connection, or nothing if the connection is within that. Returns
    /// whether anything was released.
    ///
    /// What such a stream has not read is lost, so it does not come to a clean end.
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

    /// Sends RST.
    pub(super) fn send_rst(&mut self, id: u32) {
        self.send_queue
            .push(Header::window_update(id, Flags::RST, 0), &[]);
    }

    /// Whether the remote must learn at once that nobody reads a stream that is finished here.
    ///
    /// That includes a remote whose window is exhausted, which would send nothing that could be
    /// answered later: half a window at most is read and not credited, so the rest is unread.
    fn must_reset_on_drop(&self, id: u32, stream: &StreamState) -> bool {
        let data_is_lost = !stream.unread.is_empty() || self.decoder.is_receiving(id);
        let reader_gave_up = stream.reader.is_some() || stream.failure.is_some();
        data_is_lost || reader_gave_up
    }

    fn remember_abandoned(&mut self, id: u32) {
        if self.abandoned.len() >= MAX_ABANDONED {
            self.abandoned.pop_front();
        }
        self.abandoned.insert(id);
    }

    /// Makes a new stream of the remote available.
    pub(super) fn enqueue_inbound(&mut self, id: u32) {
        self.streams
            .insert(id, StreamState::new(&self.config.fair_share));
        self.backlog.push_back(id);
        self.wakers.extend(self.acceptor.take());
    }

    /// Lets whoever waits try again to open a stream.
    pub(super) fn wake_opener(&mut self) {
        self.wakers.extend(self.opener.take());
    }

    /// Notes that the socket took `n` bytes, and wakes those who waited for that.
    pub(super) fn on_written(&mut self, n: usize) {
        self.send_queue.advance(n);
        for id in self.send_queue.take_flushed() {
            if let Some(stream) = self.streams.get_mut(&id) {
                self.wakers.extend(stream.writer.take());
            }
        }
        for id in self.send_queue.grant_turns() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.write_turn = WriteTurn::Granted;
                self.wakers.extend(stream.writer.take());
            } else {
                self.send_queue.release_turn();
            }
        }
        if self.send_queue.has_room() {
            self.wake_opener();
        }
    }

    /// The connection is gone: what is queued is never written.
    pub(super) fn abort(&mut self) {
        self.end(None);
        self.send_queue.clear();
    }

    /// Ends the connection, and with it all streams that are not finished.
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

/// Remembers the task to wake.
pub(super) fn register_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(parked) => parked.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}
