//! A connection's state machine, and what the local side does with it. No I/O happens here.

use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Poll, Waker},
};

use hashlink::LinkedHashSet;

use super::{
    Config, Error, INITIAL_WINDOW,
    error::{aborted, finished, reset},
    flow::{Direction, Flow},
    frame::{Flags, GoAway, Header},
    outgoing::Outgoing,
    receive::Decoder,
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
    pub(super) streams: HashMap<u32, Flow>,
    /// Streams of the remote that nobody has accepted yet.
    pub(super) backlog: VecDeque<u32>,
    /// Streams that were dropped here and are not finished by the remote, see the module docs.
    pub(super) abandoned: LinkedHashSet<u32>,
    /// How many streams the remote has neither accepted nor refused.
    pub(super) unacknowledged: usize,
    /// Bytes that all streams together have received and not read.
    pub(super) unread: usize,
    pub(super) outgoing: Outgoing,
    pub(super) decoder: Decoder,
    /// Whether the remote wants no more streams.
    pub(super) going_away: bool,
    /// Whether the connection is over.
    ended: bool,
    /// The id of the next stream that is opened here.
    next_id: Option<u32>,
    /// Who waits for a stream of the remote.
    acceptor: Option<Waker>,
    /// Who waits until another stream can be opened.
    opener: Option<Waker>,
    /// Who has to be woken as soon as the lock on the session is released.
    pub(super) woken: Vec<Waker>,
}

impl Session {
    pub(super) fn new(mut config: Config, role: Role) -> Self {
        config.max_frame_size = config.max_frame_size.max(1);
        config.max_send_queue = config.max_send_queue.max(1);
        config.max_receive_window = config.max_receive_window.max(INITIAL_WINDOW);
        Self {
            config,
            role,
            streams: HashMap::new(),
            backlog: VecDeque::new(),
            abandoned: LinkedHashSet::new(),
            unacknowledged: 0,
            unread: 0,
            outgoing: Outgoing::default(),
            decoder: Decoder::default(),
            going_away: false,
            ended: false,
            next_id: Some(match role {
                Role::Client => 1,
                Role::Server => 2,
            }),
            acceptor: None,
            opener: None,
            woken: Vec::new(),
        }
    }

    /// Opens a stream, or waits until another one has ended.
    pub(super) fn open(&mut self, waker: &Waker) -> Poll<Result<u32, Error>> {
        if self.ended {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.streams.len() >= self.config.max_streams
            || self.unacknowledged >= MAX_UNACKNOWLEDGED
            || self.outgoing.pending() >= self.config.max_send_queue
        {
            park(&mut self.opener, waker);
            return Poll::Pending;
        }
        let Some(id) = self.next_id else {
            return Poll::Ready(Err(Error::StreamIdsExhausted));
        };
        self.next_id = id.checked_add(2);
        let mut flow = Flow::new();
        if self.going_away {
            flow.reset();
            flow.accepted = true;
        } else {
            self.unacknowledged += 1;
            self.outgoing
                .push(Header::window_update(id, Flags::SYN, 0), &[]);
        }
        self.streams.insert(id, flow);
        Poll::Ready(Ok(id))
    }

    /// Accepts a stream of the remote.
    pub(super) fn accept(&mut self, waker: &Waker) -> Poll<Result<u32, Error>> {
        if self.ended {
            return Poll::Ready(Err(Error::Closed));
        }
        let Some(id) = self.backlog.pop_front() else {
            park(&mut self.acceptor, waker);
            return Poll::Pending;
        };
        if let Some(flow) = self.streams.get_mut(&id) {
            flow.accepted = true;
            if flow.outbound == Direction::Open {
                self.outgoing
                    .push(Header::window_update(id, Flags::ACK, 0), &[]);
            }
        }
        Poll::Ready(Ok(id))
    }

    /// Reads from a stream; 0 bytes mean that the remote has finished it.
    pub(super) fn read(
        &mut self,
        id: u32,
        buf: &mut [u8],
        waker: &Waker,
    ) -> Poll<io::Result<usize>> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        let n = flow.unread.read(buf);
        self.unread -= n;
        let credit = if n > 0 || buf.is_empty() {
            flow.consume(n)
        } else {
            match flow.inbound {
                Direction::Finished => return Poll::Ready(Ok(0)),
                Direction::Reset => return Poll::Ready(Err(reset())),
                Direction::Open if self.ended => return Poll::Ready(Err(aborted())),
                Direction::Open => {}
            }
            park(&mut flow.reader, waker);
            flow.starve(self.config.max_receive_window)
        };
        if let Some(delta) = credit.filter(|_| !self.ended) {
            let update = Header::window_update(id, Flags::NONE, delta);
            self.outgoing.push(update, &[]);
        }
        if n > 0 || buf.is_empty() {
            Poll::Ready(Ok(n))
        } else {
            Poll::Pending
        }
    }

    /// Queues at most one frame of data.
    pub(super) fn write(&mut self, id: u32, buf: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
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
        let max_queue = self.config.max_send_queue;
        let admitted = self.outgoing.admits(max_queue, flow.its_turn);
        if std::mem::take(&mut flow.its_turn) {
            self.outgoing.end_turn();
        }
        if !admitted {
            if !flow.in_line {
                flow.in_line = true;
                self.outgoing.line_up(id);
            }
            park(&mut flow.writer, waker);
            return Poll::Pending;
        }
        let length = u32::try_from(buf.len())
            .unwrap_or(u32::MAX)
            .min(flow.send_window)
            .min(self.config.max_frame_size);
        let n = usize::try_from(length).unwrap_or(buf.len());
        let (payload, _) = buf.split_at(n);
        flow.send_window -= length;
        flow.last_frame = self.outgoing.push(Header::data(id, length), payload);
        Poll::Ready(Ok(n))
    }

    /// Waits until the socket took what the stream has queued so far.
    pub(super) fn flush(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        let Some(flow) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(aborted()));
        };
        if flow.outbound == Direction::Reset {
            return Poll::Ready(Err(reset()));
        }
        if self.outgoing.is_written(flow.last_frame) {
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Err(aborted()));
        }
        park(&mut flow.writer, waker);
        self.outgoing.await_written(flow.last_frame, id);
        Poll::Pending
    }

    /// Finishes the direction towards the remote, once, and flushes it.
    pub(super) fn close(&mut self, id: u32, waker: &Waker) -> Poll<io::Result<()>> {
        if let Some(flow) = self.streams.get_mut(&id)
            && flow.outbound == Direction::Open
        {
            if self.ended {
                return Poll::Ready(Err(aborted()));
            }
            flow.outbound = Direction::Finished;
            let fin = Header::window_update(id, Flags::FIN, 0);
            flow.last_frame = self.outgoing.push(fin, &[]);
        }
        self.flush(id, waker)
    }

    /// Forgets a stream whose handle was dropped. What the remote is told is described in the
    /// documentation of [`super`].
    pub(super) fn release(&mut self, id: u32) -> Option<Flow> {
        let flow = self.streams.remove(&id)?;
        self.unread -= flow.unread.len();
        if self.role.opens(id) && !flow.accepted {
            self.unacknowledged -= 1;
        }
        if flow.its_turn {
            self.outgoing.end_turn();
        }
        self.wake_opener();
        if !self.ended {
            match (flow.outbound, flow.inbound) {
                (Direction::Reset, _) | (Direction::Finished, Direction::Finished) => {}
                (Direction::Finished, _) if !self.must_reset(id, &flow) => self.abandon(id),
                _ => self.refuse(id),
            }
        }
        Some(flow)
    }

    /// Sends RST.
    pub(super) fn refuse(&mut self, id: u32) {
        self.outgoing
            .push(Header::window_update(id, Flags::RST, 0), &[]);
    }

    /// Whether the remote must learn at once that nobody reads a stream that is finished here.
    ///
    /// That includes a remote whose window is exhausted, which would send nothing that could be
    /// answered later: half a window at most is read and not credited, so the rest is unread.
    fn must_reset(&self, id: u32, flow: &Flow) -> bool {
        let data_is_lost = !flow.unread.is_empty() || self.decoder.is_receiving(id);
        let reader_gave_up = flow.reader.is_some();
        data_is_lost || reader_gave_up
    }

    fn abandon(&mut self, id: u32) {
        if self.abandoned.len() >= MAX_ABANDONED {
            self.abandoned.pop_front();
        }
        self.abandoned.insert(id);
    }

    /// Makes a new stream of the remote available.
    pub(super) fn offer(&mut self, id: u32) {
        self.streams.insert(id, Flow::new());
        self.backlog.push_back(id);
        self.woken.extend(self.acceptor.take());
    }

    /// Lets whoever waits try again to open a stream.
    pub(super) fn wake_opener(&mut self) {
        self.woken.extend(self.opener.take());
    }

    /// Notes that the socket took `n` bytes, and wakes those who waited for that.
    pub(super) fn written(&mut self, n: usize) {
        self.outgoing.advance(n);
        for id in self.outgoing.flushed() {
            if let Some(flow) = self.streams.get_mut(&id) {
                self.woken.extend(flow.writer.take());
            }
        }
        let Config {
            max_send_queue,
            max_frame_size,
            ..
        } = self.config;
        for id in self.outgoing.next_in_line(max_send_queue, max_frame_size) {
            if let Some(flow) = self.streams.get_mut(&id) {
                flow.in_line = false;
                flow.its_turn = true;
                self.woken.extend(flow.writer.take());
            } else {
                self.outgoing.end_turn();
            }
        }
        if self.outgoing.pending() < max_send_queue {
            self.wake_opener();
        }
    }

    /// Ends the connection, and with it all streams that are not finished.
    pub(super) fn end(&mut self, reason: Option<GoAway>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(reason) = reason {
            self.outgoing.push(Header::go_away(reason), &[]);
        }
        for flow in self.streams.values_mut() {
            self.woken.extend(flow.take_wakers());
        }
        self.woken.extend(self.acceptor.take());
        self.woken.extend(self.opener.take());
    }
}

/// Remembers the task to wake.
fn park(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(parked) => parked.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}
